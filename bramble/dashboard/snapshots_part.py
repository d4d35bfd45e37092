"""Snapshots of etcd and a recovery, as the page of the cluster shows them. Pure values."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from fleet.printable import size_text
from fleet.recovery.desk import RecoveryView
from fleet.recovery.state import Phase
from fleet.snapshots.desk import SCHEDULE, Taking
from fleet.snapshots.manifest import Damaged, SnapshotInfo

SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Voter:
    """A server that had a voting member when a snapshot was taken. `remark`: what is different now."""

    node: str
    remark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotLine:
    """One snapshot. `problem` of one that is damaged, which has nothing else."""

    id: str
    taken_at: float
    size: str
    by: str
    node: str
    voters: tuple[Voter, ...] = ()
    problem: str = ""


def snapshot_line(one: SnapshotInfo | Damaged, members: Collection[str]) -> SnapshotLine:
    """What is said of a snapshot.

    Args:
        members: Servers that are members now.
    """
    if isinstance(one, Damaged):
        return SnapshotLine(id=one.id, taken_at=0.0, size="", by="", node="", problem=one.reason)
    marked = frozenset(one.removing or ())
    return SnapshotLine(
        id=one.id,
        taken_at=one.taken_at,
        size=size_text(one.size_bytes),
        by="by schedule" if one.by == SCHEDULE else f"by {one.by}",
        node=one.node,
        voters=tuple(Voter(name, _remark(name, members, marked)) for name in one.servers),
    )


def _remark(name: str, members: Collection[str], marked: Collection[str]) -> str:
    if name in marked:
        return "marked for removal then"
    return "" if name in members else "no member now"


def taking_text(order: Taking | None) -> str:
    """What becomes of a snapshot that a person ordered; empty where there is nothing to say."""
    if order is None or order.state == "done":
        return ""
    if order.state == "failed":
        return f"The one that {order.by} ordered failed: {order.message}. {order.hint}".strip()
    if not order.total_bytes:
        return "One is being taken."
    done = f"{size_text(order.done_bytes)} of {size_text(order.total_bytes)}"
    return f"One is being taken: {done}."


@dataclass(frozen=True, slots=True)
class RecoveryStop:
    """A station of a recovery. `standing` is `done`, `here` or `ahead`."""

    title: str
    standing: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryShown:
    """A recovery that is under way, or the one that ended last; `ending` says how that was."""

    is_open: bool
    can_be_cancelled: bool
    ending: str
    title: str
    stops: Sequence[RecoveryStop]
    snapshot: str
    taken_at: float
    began_at: float
    by: str
    waits_for: tuple[str, ...]


_STOPS: Final = (Phase.FOUNDING, Phase.JOINING, Phase.DONE)


def recovery_shown(view: RecoveryView | None) -> RecoveryShown | None:
    """What is said of a recovery; None: there was none."""
    if view is None:
        return None
    phase = Phase(view.phase)
    is_open = phase not in (Phase.DONE, Phase.CANCELLED)
    here = _STOPS.index(phase) if phase in _STOPS else -1
    titles = [f"{view.founder} restores the snapshot", "The other servers join it", "The cluster is back"]
    return RecoveryShown(
        is_open=is_open,
        can_be_cancelled=view.can_be_cancelled,
        ending="was called off" if phase is Phase.CANCELLED else "" if is_open else "is done",
        title=titles[max(here, 0)],
        stops=[
            RecoveryStop(
                title,
                "done" if place < here or phase is Phase.DONE else "here" if place == here else "ahead",
            )
            for place, title in enumerate(titles)
        ],
        snapshot=view.snapshot,
        taken_at=view.taken_at,
        began_at=view.began_at,
        by=view.by,
        waits_for=view.waits_for,
    )
