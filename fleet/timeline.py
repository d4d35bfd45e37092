"""What a timeline is made of: entries, each of one kind. `fleet.events` has their words.

A timeline is what a person reads to learn where a board stands and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from fleet.printable import printable


class Kind(StrEnum):
    """What an entry is about; part of the JSON output."""

    BOOT = "boot"
    CONSOLE = "console"
    DIAGNOSIS = "diagnosis"
    INTENT = "intent"
    ADMISSION = "admission"
    INSTALL = "install"
    ENROLMENT = "enrolment"
    JOIN = "join"
    STATE = "state"
    HEALTH = "health"
    HELD = "held"
    ALARM = "alarm"
    EEPROM = "eeprom"
    POWER = "power"
    AGENT = "agent"
    AUDIT = "audit"
    POLICY = "policy"
    LOCK = "lock"
    REIMAGE = "reimage"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a timeline, before it has a time and an owner."""

    kind: Kind
    text: str
    hint: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Here and nowhere else: installers and boards write parts of these texts, terminals show them.
        object.__setattr__(self, "text", printable(self.text))
        object.__setattr__(self, "hint", printable(self.hint))
