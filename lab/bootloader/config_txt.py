"""config.txt: the settings that decide which files are loaded, after its conditional filters.

Source: Raspberry Pi documentation, "Boot options in config.txt" (read 2026-11).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from lab.bootloader.filters import Circumstances, Filters, section_name

MAX_LINE_CHARS: Final = 98
"""The rest of a longer line is not read."""


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


def parse_config_txt(data: bytes, circumstances: Circumstances) -> ConfigTxt:
    """Read config.txt for one board. Never fails: the firmware skips lines that say nothing, so do we."""
    filters = Filters(circumstances)
    values: dict[str, str] = {}
    initramfs: str | None = None
    overlays: list[str] = []
    includes: list[str] = []
    for raw in data.decode("utf-8", "replace").splitlines():
        line = raw[:MAX_LINE_CHARS].strip()
        if not line or line.startswith("#"):
            continue
        if (name := section_name(line)) is not None:
            filters.apply(name)
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
