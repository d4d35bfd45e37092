"""What a rule found: the problem, what shows it, and the mend; and the event that puts it into a timeline."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from pxe.events import BoardEvent


class Severity(StrEnum):
    """How much it matters."""

    INFO = "info"
    """Worth knowing; the board boots."""
    WARNING = "warning"
    """The board boots slowly, or will not at the next occasion."""
    ERROR = "error"
    """The board does not boot because of it."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One thing that was seen: UTC seconds, and the words of the timeline."""

    at: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One problem of one board.

    Args:
        rule: the rule's id, from a fixed list: fit for a metric's label.
        severity: how much it matters.
        cause: what is wrong, in a sentence.
        mend: what to do about it.
        evidence: what shows it, oldest first; never empty.
    """

    rule: str
    severity: Severity
    cause: str
    mend: str
    evidence: tuple[Evidence, ...]

    def __post_init__(self) -> None:
        if not self.evidence:
            raise ValueError(f"{self.rule}: a finding without evidence is a guess")


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis(BoardEvent):
    """A finding, as a line of the board's timeline."""

    finding: Finding

    quiet_s: ClassVar[float] = 600.0

    @property
    def topic(self) -> str:
        return self.finding.rule

    @property
    def hint(self) -> str:
        """What to do next."""
        return self.finding.mend

    def text(self) -> str:
        return f"diagnosis {self.finding.rule}: {self.finding.cause}"
