"""What a rule says of an image."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad it is."""

    ERROR = "error"
    """The image does not boot, or does not do what it was told."""
    WARNING = "warning"
    """It works, and something of it will surprise."""
    NOTE = "note"
    """Worth knowing; nothing to mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing, in one place.

    Attributes:
        rule: short stable name, for scripts.
        place: where: ``boot:/user-data:7`` (partition, path, line), ``root:/etc/fstab``, ``disk``.
        message: what was found, and what follows from it at first boot.
        mend: what to do; empty for a note.
    """

    rule: str
    severity: Severity
    place: str
    message: str
    mend: str = ""

    def to_json(self) -> dict[str, str]:
        return {
            "rule": self.rule,
            "severity": self.severity.value,
            "place": self.place,
            "message": self.message,
            "mend": self.mend,
        }


def error(rule: str, place: str, message: str, mend: str) -> Finding:
    return Finding(rule=rule, severity=Severity.ERROR, place=place, message=message, mend=mend)


def warning(rule: str, place: str, message: str, mend: str) -> Finding:
    return Finding(rule=rule, severity=Severity.WARNING, place=place, message=message, mend=mend)


def note(rule: str, place: str, message: str) -> Finding:
    return Finding(rule=rule, severity=Severity.NOTE, place=place, message=message)
