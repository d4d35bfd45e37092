"""Is everything all right? One value that answers it, from a running server or from the record alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fleet.attention import Finding, Quorum, findings, quorum_in
from fleet.events import Kind
from fleet.snapshots import SnapshotHealth
from fleet.store.database import Store
from fleet.views import EventView, event_view, fleet_view

EVENTS: Final = 8
_LOOK_BACK: Final = 300
"""Entries among which the last ones are looked for: a board that boots writes dozens."""
_QUIET: Final = frozenset({Kind.BOOT, Kind.CONSOLE, Kind.INTENT, Kind.AUDIT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The fleet in one screen.

    Attributes:
        states: State → number of nodes.
        ready: Nodes that are Ready, of `nodes` that are declared.
        findings: What needs a person; empty: nothing does.
        snapshots: How it stands with etcd's; None where no server tells.
        events: The last entries of all timelines that say more than that a board boots, the oldest first.
    """

    nodes: int
    ready: int
    states: Mapping[str, int]
    findings: tuple[Finding, ...]
    quorum: Quorum
    snapshots: SnapshotHealth | None
    events: tuple[EventView, ...]


def overview(store: Store, snapshots: SnapshotHealth | None = None) -> Overview:
    """What the record says now, with what a running server says of snapshots."""
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
        findings=findings(view, snapshots.problem if snapshots is not None else ""),
        quorum=quorum_in(view),
        snapshots=snapshots,
        events=tuple(map(event_view, said[-EVENTS:])),
    )
