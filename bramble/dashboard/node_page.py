"""What the page of one node, or of one held board, shows. Pure values; the template lays them out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from bramble.dashboard.by_itself import ByItself
from bramble.dashboard.rack import Card, Group
from bramble.dashboard.vitals import Spark
from fleet.lifecycle import FAILED_TWIN, State
from fleet.printable import printable, size_text
from fleet.timeline import Kind
from fleet.views import ConditionView, EventView, NodeView, Timeline
from pxe.diagnosis.finding import Finding
from pxe.diagnosis.history import Attempt, BoardHistory
from pxe.events import BootFile, BootFileMissing, TransferFailed

LINES: Final = 60
CONSOLE_LINES: Final = 80
FILES: Final = 60


class Boots(Protocol):
    """What the boot server saw of boards; implemented over `pxe.net.observer`."""

    def find(self, key: str) -> BoardHistory | None: ...

    def findings(self, history: BoardHistory, now: float) -> Sequence[Finding]: ...


@dataclass(frozen=True, slots=True)
class Stop:
    """A station on a node's way. `standing` is `done`, `here`, `failed` or `ahead`."""

    title: str
    standing: str


@dataclass(frozen=True, slots=True)
class FileLine:
    """A boot file of the newest attempt. `size` is empty for one that was not there."""

    name: str
    at: float
    size: str
    rate: str
    seconds: str
    note: str
    is_missing: bool = False


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is wrong, what shows it, and what to do. `tone` is `error`, `warning` or `info`."""

    tone: str
    title: str
    mend: str
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePage:
    """Everything on the page of one subject. `by_itself`: what the policy would do with a node now."""

    name: str
    card: Card | None
    timeline: Timeline
    stops: tuple[Stop, ...]
    troubles: tuple[Trouble, ...]
    lines: tuple[EventView, ...]
    console: tuple[EventView, ...]
    files: tuple[FileLine, ...]
    booted_at: float | None
    sparks: Sequence[Spark]
    by_itself: ByItself | None

    @property
    def more_lines(self) -> bool:
        """Whether the timeline is longer than what is shown."""
        return len(self.lines) == LINES


def node_page(
    name: str,
    card: Card | None,
    timeline: Timeline,
    history: BoardHistory | None,
    findings: Sequence[Finding],
    sparks: Sequence[Spark],
    by_itself: ByItself | None = None,
) -> NodePage:
    """Put together what is known."""
    newest = list(reversed(timeline.events))
    lines = [line for line in newest if line.kind != Kind.CONSOLE.value]
    console = [line for line in newest if line.kind == Kind.CONSOLE.value][:CONSOLE_LINES]
    attempt = history.current if history is not None else None
    node = timeline.node
    return NodePage(
        name=name,
        card=card,
        timeline=timeline,
        stops=stops_of(State(node.state)) if node is not None else (),
        troubles=(
            *_of_findings(findings),
            *_of_complaint(node),
            *_of_conditions(node.conditions if node else ()),
            *_said(card, lines, node.complaint if node else ""),
        ),
        lines=tuple(lines[:LINES]),
        console=tuple(reversed(console)),
        files=tuple(files_of(attempt)) if attempt is not None else (),
        booted_at=attempt.started_at if attempt is not None else None,
        sparks=sparks,
        by_itself=by_itself,
    )


_WAY: Final[Mapping[str, tuple[State, ...]]] = {
    "Netboot": (State.NETBOOTING, State.PENDING),
    "Install": (State.IMAGING,),
    "First boot": (State.FLASHED, State.FIRST_BOOT),
    "Join": (State.JOINING,),
    "Ready": (State.READY, State.DEGRADED, State.LOST),
}


_WAY_BACK: Final[Mapping[str, tuple[State, ...]]] = {
    "Check": (State.REIMAGE_REQUESTED, State.PREFLIGHT),
    "Drain": (State.CORDONED, State.DRAINING),
    "Leave": (State.LEADER_MOVED, State.SNAPSHOTTED, State.MEMBER_REMOVED, State.NODE_DELETED),
    "Netboot": (State.REBOOT_TO_INSTALLER,),
    "Install": (),
    "Join": (),
    "Ready": (),
}
"""Of a node that is installed anew, until its installer runs."""


def stops_of(state: State) -> tuple[Stop, ...]:
    """The stations from power-on to Ready, and which of them the node is at."""
    active = next((twin for twin, failed in FAILED_TWIN.items() if failed is state), state)
    has_failed = active is not state or state is State.QUARANTINED
    active = State.NETBOOTING if state is State.QUARANTINED else active
    for way in (_WAY, _WAY_BACK):
        here = next((number for number, states in enumerate(way.values()) if active in states), None)
        if here is not None:
            return tuple(
                Stop(title, _standing(number, here, state, has_failed)) for number, title in enumerate(way)
            )
    return tuple(Stop(title, "ahead") for title in _WAY) if state is State.DECLARED else ()


def _standing(number: int, here: int, state: State, has_failed: bool) -> str:
    if number < here or state is State.READY:
        return "done"
    if number > here:
        return "ahead"
    return "failed" if has_failed or state in (State.LOST, State.DEGRADED) else "here"


def files_of(attempt: Attempt) -> list[FileLine]:
    """The boot files that a board asked for in one attempt, the newest last."""
    found: list[FileLine] = []
    for seen in attempt.of(BootFile, BootFileMissing, TransferFailed):
        event = seen.event
        times = f"asked {seen.count} times" if seen.count > 1 else ""
        if isinstance(event, BootFile):
            rate = f"{size_text(event.size_bytes / event.seconds)}/s" if event.seconds > 0 else ""
            twice = f"{event.retransmitted} packets sent twice" if event.retransmitted else ""
            note = ", ".join(filter(None, (times, twice)))
            file = FileLine(
                printable(event.name, 120),
                seen.last_at,
                size_text(event.size_bytes),
                rate,
                f"{event.seconds:.2f} s",
                note,
            )
        elif isinstance(event, BootFileMissing):
            note = ", ".join(filter(None, (printable(event.reason, 120), times)))
            file = FileLine(printable(event.name, 120), seen.last_at, "", "", "", note, is_missing=True)
        else:
            file = FileLine(
                printable(getattr(event, "name", ""), 120),
                seen.last_at,
                "",
                "",
                "",
                printable(event.text(), 160),
                is_missing=True,
            )
        found.append(file)
    return found[-FILES:]


def _of_findings(findings: Iterable[Finding]) -> list[Trouble]:
    return [
        Trouble(
            finding.severity.value,
            finding.cause,
            finding.mend,
            tuple(printable(evidence.text, 200) for evidence in finding.evidence[:6]),
        )
        for finding in findings
    ]


def _of_conditions(conditions: Iterable[ConditionView]) -> list[Trouble]:
    return [
        Trouble(
            "error" if condition.degrades else "warning",
            f"{condition.words[:1].upper()}{condition.words[1:]}",
            condition.hint,
            (condition.evidence,),
        )
        for condition in conditions
    ]


def _of_complaint(node: NodeView | None) -> list[Trouble]:
    """What its last failure says, also when it has gone on since: then it is tried again unmended."""
    if node is None or not node.complaint:
        return []
    tone = "warning" if State(node.state).is_active else "error"
    return [Trouble(tone, f"{node.complaint[:1].upper()}{node.complaint[1:]}", node.mend, ())]


def _said(card: Card | None, lines: Sequence[EventView], told: str) -> list[Trouble]:
    """Why a node needs a person, in the words of its newest entry that says what to do; unless that was told
    already."""
    if card is None or card.group is not Group.ATTENTION or card.state == State.PENDING.value:
        return []
    found = next((line for line in lines[:20] if line.hint and line.kind != Kind.DIAGNOSIS.value), None)
    if found is None or found.text == told:
        return []
    return [Trouble("error", f"{found.text[:1].upper()}{found.text[1:]}", found.hint, ())]
