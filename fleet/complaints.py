"""What the last failure of a node complained of, and the mend: found in its timeline.

A failed installation's complaint counts until one comes to its end, also while the board tries again and when
its attempts are used up: whoever looks at a node in those minutes is told what to mend, wherever they look.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fleet.lifecycle import FAILED_TWIN, State
from fleet.store.glance import find_events
from fleet.store.records import NodeRecord
from fleet.store.transaction import Reader
from fleet.timeline import Kind

_FAILED: Final = frozenset(FAILED_TWIN.values())
_TRYING: Final = frozenset({State.NETBOOTING, State.PENDING, State.IMAGING})
_LOOK_BACK: Final = 40
"""Entries among which the last failure is: an attempt writes a dozen about its installation."""
_ENDS: Final = ("bytes_written", "medium")
"""What the entry of an installation that came to its end says besides: written here, or onto a card."""
_SAYING: Final = (Kind.INSTALL, Kind.STATE, Kind.JOIN, Kind.HEALTH, Kind.ALARM, Kind.REIMAGE)


@dataclass(frozen=True, slots=True)
class Complaint:
    """What went wrong, and what to do about it."""

    text: str
    mend: str


def complaint_of(reader: Reader, node: NodeRecord) -> Complaint | None:
    """What a node's last failure says; None where there is nothing to mend.

    Costs a query for nodes that failed or try again, and nothing for the others.
    """
    state = node.state
    if state in _FAILED:
        return _since(reader, node, *_SAYING)
    if state is State.QUARANTINED:  # an alarm's own word goes before what an attempt complained of
        return _since(reader, node, Kind.ALARM) or _of_installation(reader, node)
    if state in _TRYING and node.standing.attempt > 1:
        return _of_installation(reader, node)
    return None


def _since(reader: Reader, node: NodeRecord, *kinds: Kind) -> Complaint | None:
    """The newest entry that says what to do, of those since the node is in this state."""
    for event in find_events(reader, _LOOK_BACK, node=node.name, kinds=kinds):
        if event.at < node.standing.since:
            return None
        if event.hint:
            return Complaint(event.text, event.hint)
    return None


def _of_installation(reader: Reader, node: NodeRecord) -> Complaint | None:
    """What the newest attempt complained of, unless an installation came to its end since."""
    for event in find_events(reader, _LOOK_BACK, node=node.name, kinds=(Kind.INSTALL,)):
        if any(name in event.detail for name in _ENDS):
            return None
        if event.hint:
            return Complaint(event.text, event.hint)
    return None
