"""config.txt as the firmware of one board reads it. Pure.

A filter line holds until the next filter of the same kind; filters of different kinds add up; ``[all]`` drops
them all. ``include FILE`` is followed by the firmware of the Pi 4 family (start4.elf) and ignored by the Pi 5
family's bootloader.

Source: Raspberry Pi documentation, "Conditional filters in config.txt" and "Boot options in config.txt" (read
2026-11); includes on the Pi 5: third-party observation, not measured.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from fleet.boards import BoardModel, Soc

MAX_LINE_CHARS: Final = 98
"""The firmware does not read the rest of a longer line."""
MAX_INCLUDES: Final = 8

_2711: Final = frozenset(model for model in BoardModel if model.soc is Soc.BCM2711)
_2712: Final = frozenset(model for model in BoardModel if model.soc is Soc.BCM2712)
MODEL_FILTERS: Final[Mapping[str, frozenset[BoardModel]]] = {
    **dict.fromkeys(
        ("pi0", "pi0w", "pi02", "pi1", "pi2", "pi3", "pi3+", "cm0", "cm1", "cm3", "cm3+", "cm4s"),
        frozenset[BoardModel](),
    ),
    "pi4": _2711,
    "pi400": frozenset({BoardModel.PI400}),
    "cm4": frozenset({BoardModel.CM4}),
    "pi5": _2712,
    "pi500": frozenset({BoardModel.PI500}),
    "cm5": frozenset({BoardModel.CM5, BoardModel.CM5_LITE}),
}
"""Filter → the boards that Bramble serves on which it holds."""

_SECTION: Final = re.compile(r"\[([^]]*)\]")
_INITRAMFS: Final = re.compile(r"initramfs\s+(\S+)(?:\s+\S+)?")
_INCLUDE: Final = re.compile(r"include\s+(\S+)")
_BOARD_TYPE: Final = re.compile(r"board-type=(0x[0-9a-f]+|[0-9]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What holds on one board. ``values`` has the last value of each key, keys in lower case."""

    values: Mapping[str, str]
    initramfs: str | None

    def flag(self, key: str, *, default: bool = False) -> bool:
        value = self.values.get(key)
        return default if value is None else value.isdecimal() and int(value) != 0


@dataclass(slots=True)
class _Filters:
    model: BoardModel
    tryboot: bool
    holds: dict[str, bool] = field(default_factory=dict)

    def apply(self, name: str) -> None:
        if name == "all":
            self.holds.clear()
        elif name in MODEL_FILTERS:
            self.holds["model"] = self.model in MODEL_FILTERS[name]
        elif match := _BOARD_TYPE.fullmatch(name):
            self.holds["model"] = int(match[1], 0) == self.model.type_code
        elif name == "tryboot":
            self.holds["tryboot"] = self.tryboot
        else:
            # [none], serial numbers, [EDID=…], [HDMI:1], [gpio4=1]: they do not hold on a board in general.
            self.holds[re.split(r"[=:]", name)[0]] = False

    @property
    def hold(self) -> bool:
        return all(self.holds.values())


def evaluate(
    text: str,
    model: BoardModel,
    *,
    tryboot: bool = False,
    read: Callable[[str], str | None] = lambda name: None,
) -> Settings:
    """The settings on one board. Never fails: the firmware skips lines that say nothing.

    Args:
        text: config.txt.
        model: the board.
        tryboot: whether the board was told to try the other system for one boot.
        read: content of another file of the boot partition, for ``include`` lines.
    """
    filters = _Filters(model, tryboot)
    values: dict[str, str] = {}
    initramfs: str | None = None
    for line in _lines(text, model, read):
        if section := _SECTION.fullmatch(line):
            filters.apply(section[1].strip().lower())
        elif not filters.hold:
            continue
        elif match := _INITRAMFS.fullmatch(line):
            initramfs = match[1]
        elif "=" in line:
            key, value = (part.strip() for part in line.split("=", 1))
            values[key.lower()] = value
    return Settings(values=values, initramfs=initramfs)


def _lines(text: str, model: BoardModel, read: Callable[[str], str | None]) -> Iterator[str]:
    budget = [MAX_INCLUDES]

    def expand(body: str) -> Iterator[str]:
        for raw in body.removeprefix("\ufeff").splitlines():
            line = raw[:MAX_LINE_CHARS].strip()
            if not line or line.startswith("#"):
                continue
            include = _INCLUDE.fullmatch(line)
            if include is None:
                yield line
            elif model.soc is Soc.BCM2711 and budget[0]:
                budget[0] -= 1
                yield from expand(read(include[1]) or "")

    yield from expand(text)
