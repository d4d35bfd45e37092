"""Conditional filters: lines like `[pi5]`, in config.txt and in the EEPROM's own configuration.

A filter line holds until the next filter *of the same kind*; filters of different kinds add up; `[all]` drops
them all.

Source: Raspberry Pi documentation, "Conditional filters" (read 2026-11); rpi-eeprom release notes of
2022-10-18 and 2024-05-17 (`[tryboot]`) and 2025-02-11 (`[partition=N]`, `[boot_count=N]`, `[boot_arg1=N]`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from fleet.boards import BoardModel, Serial

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
_LEGACY_FILTERS: Final = frozenset(("pi3",))
_SERIAL_FILTER: Final = re.compile(r"0x[0-9a-f]{1,8}")
_NUMBER: Final = r"(0x[0-9a-f]+|[0-9]+)"
_BOARD_TYPE_FILTER: Final = re.compile(rf"board-type={_NUMBER}")
_VARIABLE_FILTER: Final = re.compile(rf"(partition|boot_count|boot_arg1)([=<>]){_NUMBER}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What filters ask about: the board, and how it was started.

    Attributes:
        model: None for a Pi 3.
        tryboot: The one-shot flag of `reboot '0 tryboot'`.
        partition: The partition that a reboot asked for; 0 for none.
        boot_count, boot_arg1: Variables of a BCM2712 that survive a reset.
    """

    model: BoardModel | None
    serial: Serial
    tryboot: bool = False
    partition: int = 0
    boot_count: int = 0
    boot_arg1: int = 0


@dataclass(slots=True)
class Filters:
    """Which kinds of filter hold right now; a kind that was not named holds."""

    circumstances: Circumstances
    holds: dict[str, bool] = field(default_factory=dict)

    def apply(self, name: str) -> None:
        """Take the text between the brackets."""
        facts = self.circumstances
        if name == "all":
            self.holds.clear()
        elif name in _MODEL_FILTERS:
            is_ours = name in _LEGACY_FILTERS if facts.model is None else facts.model in _MODEL_FILTERS[name]
            self.holds["model"] = is_ours
        elif _SERIAL_FILTER.fullmatch(name):
            self.holds["serial"] = int(name, 16) == facts.serial.low
        elif match := _BOARD_TYPE_FILTER.fullmatch(name):
            self.holds["model"] = facts.model is not None and int(match[1], 0) == facts.model.type_code
        elif name == "tryboot":
            self.holds["tryboot"] = facts.tryboot
        elif match := _VARIABLE_FILTER.fullmatch(name):
            self.holds[match[1]] = _compare(getattr(facts, match[1]), match[2], int(match[3], 0))
        else:
            # [none], and what a virtual board does not have: [EDID=…], [HDMI:1], [gpio4=1].
            self.holds[re.split(r"[=:<>]", name)[0]] = False

    @property
    def hold(self) -> bool:
        return all(self.holds.values())


def section_name(line: str) -> str | None:
    """The text of a filter line in lower case; None where it is none."""
    stripped = line.strip()
    return stripped[1:-1].strip().lower() if stripped.startswith("[") and stripped.endswith("]") else None


def _compare(actual: int, operator: str, wanted: int) -> bool:
    match operator:
        case "=":
            return actual == wanted
        case "<":
            return actual < wanted
        case _:
            return actual > wanted
