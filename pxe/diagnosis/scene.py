"""What a rule looks at, and how it says what it found."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address

from fleet.spec.model import DhcpMode
from pxe.diagnosis.finding import Evidence, Finding, Severity
from pxe.diagnosis.history import Attempt, BoardHistory, Observation, evidence_of


@dataclass(frozen=True, slots=True)
class Setting:
    """The server's own part: how it takes part in DHCP, and its address."""

    dhcp: DhcpMode
    server: IPv4Address


@dataclass(frozen=True, slots=True)
class Scene:
    """One board at one moment. `now`: UTC seconds."""

    history: BoardHistory
    setting: Setting
    now: float

    @property
    def attempt(self) -> Attempt:
        """The attempt that is under way, or the last one."""
        return self.history.current

    @property
    def quiet_s(self) -> float:
        """How long nothing was heard of the board."""
        return self.now - self.history.last_at


@dataclass(frozen=True, slots=True)
class Clue:
    """What a rule answers: the cause and the mend in words, and what shows it."""

    cause: str
    mend: str
    shown_by: tuple[Observation | Evidence, ...]


Check = Callable[[Scene], Clue | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """One problem that can be recognised.

    Args:
        id: its name, for good: part of the JSON output and a metric's label.
        severity: how much it matters.
        title: the problem in a few words, for the list of all.
        check: looks for it.
    """

    id: str
    severity: Severity
    title: str
    check: Check

    def find(self, scene: Scene) -> Finding | None:
        """The finding, or None where the board does not have the problem."""
        clue = self.check(scene)
        if clue is None:
            return None
        return Finding(
            rule=self.id,
            severity=self.severity,
            cause=clue.cause,
            mend=clue.mend,
            evidence=_evidence(clue.shown_by),
        )


def _evidence(shown_by: Iterable[Observation | Evidence]) -> tuple[Evidence, ...]:
    parts = list(shown_by)
    own = [part for part in parts if isinstance(part, Evidence)]
    seen = evidence_of(part for part in parts if isinstance(part, Observation))
    return tuple(sorted((*own, *seen), key=lambda evidence: evidence.at))
