"""config.txt: the settings that decide which files are loaded, after its conditional filters.

A filter line holds until the next filter *of the same kind*; filters of different kinds add up; `[all]` drops
them all.

Source: Raspberry Pi documentation, "Conditional filters" and "Boot options in config.txt" (read 2026-11).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from fleet.boards import BoardModel, Serial

MAX_LINE_CHARS: Final = 98
"""The rest of a longer line is not read."""

_BCM2711: Final = {BoardModel.PI4, BoardModel.PI400, BoardModel.CM4}
_BCM2712: Final = {BoardModel.PI5, BoardModel.PI500, BoardModel.CM5, BoardModel.CM5_LITE}
_MODEL_FILTERS: Final[Mapping[str, set[BoardModel]]] = {
    "pi1": set(),
    "pi2": set(),
    "pi3": set(),
    "pi3+": set(),
    "pi0": set(),
    "pi0w": set(),
    "pi02": set(),
    "pi4": _BCM2711,
    "pi400": {BoardModel.PI400},
    "cm1": set(),
    "cm3": set(),
    "cm3+": set(),
    "cm4": {BoardModel.CM4},
    "cm4s": set(),
    "pi5": _BCM2712,
    "pi500": {BoardModel.PI500},
    "cm5": {BoardModel.CM5, BoardModel.CM5_LITE},
}
_SERIAL_FILTER: Final = re.compile(r"0x[0-9a-f]{1,8}")
_BOARD_TYPE_FILTER: Final = re.compile(r"board-type=(0x[0-9a-f]+|[0-9]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigTxt:
    """The settings that hold on one board.

    Attributes:
        values: `key=value` lines; of a repeated key the last one.
        initramfs: File of the last `initramfs FILE followkernel` line.
        overlays: Names of the `dtoverlay=` lines in order, without parameters.
        includes: Files of the `include` lines in order.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    initramfs: str | None = None
    overlays: tuple[str, ...] = ()
    includes: tuple[str, ...] = ()

    def text(self, key: str) -> str | None:
        """Value of `key`; None where it is absent or empty."""
        return self.values.get(key) or None

    def flag(self, key: str, *, default: bool) -> bool:
        """Value of a 0/1 setting; anything that is not a number counts as 0, like in the firmware."""
        value = self.values.get(key)
        if value is None:
            return default
        return value.isdecimal() and int(value) != 0

    @property
    def has_upstream_kernel(self) -> bool:
        """Whether a mainline kernel is meant: it changes `os_prefix` and some names of device trees."""
        return self.flag("upstream_kernel", default=False)

    @property
    def os_prefix(self) -> str:
        """What to put, as it stands, before the names of kernel, initramfs, device tree and command line.

        It holds only if a kernel and a device tree are found with it.
        """
        return self.values.get("os_prefix", "upstream/" if self.has_upstream_kernel else "")


@dataclass(slots=True)
class _Filters:
    """Which kinds of filter hold right now; a kind that was not named holds."""

    model: BoardModel
    serial: Serial
    tryboot: bool
    holds: dict[str, bool] = field(default_factory=dict)

    def apply(self, name: str) -> None:
        if name == "all":
            self.holds.clear()
        elif name in _MODEL_FILTERS:
            self.holds["model"] = self.model in _MODEL_FILTERS[name]
        elif _SERIAL_FILTER.fullmatch(name):
            self.holds["serial"] = int(name, 16) == self.serial.low
        elif match := _BOARD_TYPE_FILTER.fullmatch(name):
            self.holds["model"] = int(match[1], 0) == self.model.type_code
        elif name == "tryboot":
            self.holds["tryboot"] = self.tryboot
        else:
            # [none], and what a virtual board does not have: [EDID=…], [HDMI:1], [gpio4=1], boot variables.
            self.holds[re.split(r"[=:]", name)[0]] = False

    @property
    def hold(self) -> bool:
        return all(self.holds.values())


def parse_config_txt(data: bytes, *, model: BoardModel, serial: Serial, tryboot: bool = False) -> ConfigTxt:
    """Read config.txt for one board. Never fails: the firmware skips lines that say nothing, so do we."""
    filters = _Filters(model, serial, tryboot)
    values: dict[str, str] = {}
    initramfs: str | None = None
    overlays: list[str] = []
    includes: list[str] = []
    for raw in data.decode("utf-8", "replace").splitlines():
        line = raw[:MAX_LINE_CHARS].strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("[") and line.endswith("]"):
            filters.apply(line[1:-1].strip().lower())
        elif not filters.hold:
            continue
        elif match := re.fullmatch(r"initramfs\s+(\S+)(?:\s+\S+)?", line):
            initramfs = match[1]
        elif match := re.fullmatch(r"include\s+(\S+)", line):
            includes.append(match[1])
        elif "=" in line:
            key, value = (part.strip() for part in line.split("=", 1))
            if key == "dtoverlay":
                overlays += [value.split(",")[0].split(":")[0]] if value else []
            else:
                values[key] = value
    return ConfigTxt(values=values, initramfs=initramfs, overlays=tuple(overlays), includes=tuple(includes))
