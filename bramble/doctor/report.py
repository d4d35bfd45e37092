"""The result of one check, and of all together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"
    """It could not be looked at; `mend` says what it needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Args:
        id: its name, for good: part of the JSON output.
        status: how it ended.
        text: what is so.
        evidence: what shows it.
        mend: what to do; empty where nothing needs doing.
    """

    id: str
    status: Status
    text: str
    evidence: tuple[str, ...] = ()
    mend: str = ""

    def __post_init__(self) -> None:
        if self.status in (Status.WARN, Status.FAIL) and not self.mend:
            raise ValueError(f"{self.id}: a complaint without a mend helps nobody")


def exit_code(checks: Iterable[Check]) -> int:
    """1 where something fails; warnings and what could not be looked at are 0."""
    return int(any(check.status is Status.FAIL for check in checks))


def as_json(checks: Iterable[Check]) -> list[dict[str, Any]]:
    """The results as JSON values."""
    return [{**asdict(check), "evidence": list(check.evidence)} for check in checks]
