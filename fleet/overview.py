"""Is everything all right? One value that answers it, from a running server or from the record alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fleet.attention import Fault, Finding, Quorum, findings, quorum_in
from fleet.lifecycle import FAILED_TWIN, State
from fleet.snapshots.desk import SnapshotHealth
from fleet.store.database import Store
from fleet.timeline import Kind
from fleet.views import EventView, event_view, fleet_view

EVENTS: Final = 8
_LOOK_BACK: Final = 300
"""Entries among which the last ones are looked for: a board that boots writes dozens."""
_QUIET: Final = frozenset({Kind.BOOT, Kind.CONSOLE, Kind.INTENT, Kind.AUDIT})


_UNDER_WAY: Final = frozenset(FAILED_TWIN) - {State.PENDING}
"""What ends by itself; who waits for a person is among the findings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderWay:
    """A node at which something is done. `since` is UTC seconds; `detail` as in a table of nodes."""

    name: str
    state: str
    detail: str
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The fleet in one screen.

    Attributes:
        states: State → number of nodes.
        ready: Nodes that are Ready, of `nodes` that are declared.
        findings: What needs a person; empty: nothing does.
        snapshots: How it stands with etcd's; None where no server tells.
        under_way: Nodes that are on their way to Ready, or out of the cluster, by name.
        awaited: Nodes of whose boards nothing was heard yet, or not since their disk was written.
        events: The last entries of all timelines that say more than that a board boots, the oldest first.
    """

    nodes: int
    ready: int
    states: Mapping[str, int]
    findings: tuple[Finding, ...]
    quorum: Quorum
    snapshots: SnapshotHealth | None
    under_way: tuple[UnderWay, ...]
    awaited: tuple[str, ...]
    events: tuple[EventView, ...]


def overview(store: Store, snapshots: SnapshotHealth | None = None, faults: Sequence[Fault] = ()) -> Overview:
    """What the record says now, with what a running server says of snapshots, and what else it finds
    wrong."""
    view = fleet_view(store)
    with store.read() as reader:
        entries = reader.timeline(limit=_LOOK_BACK)
    said = [entry for entry in entries if entry.kind not in _QUIET]
    states = Counter(node.state for node in view.nodes)
    gone = states["decommissioned"]
    return Overview(
        nodes=len(view.nodes) - gone,
        ready=states["ready"],
        states=dict(sorted(states.items())),
        findings=findings(view, snapshots.problem if snapshots is not None else "", faults),
        quorum=quorum_in(view),
        snapshots=snapshots,
        under_way=tuple(
            UnderWay(name=node.name, state=node.state, detail=node.detail, since=node.since)
            for node in view.nodes
            if node.state in _UNDER_WAY
        ),
        awaited=tuple(node.name for node in view.nodes if node.state in (State.DECLARED, State.FLASHED)),
        events=tuple(map(event_view, said[-EVENTS:])),
    )
