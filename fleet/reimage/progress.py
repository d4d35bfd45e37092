"""What an order's row carries beside its columns: the names in `ReimageRecord.progress`. Pure.

A value that a step needs which cannot be taken back is written before that step begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fleet.lifecycle import LEAVING, State
from fleet.store.records import ReimageRecord

CANCEL: Final = "cancelled_by"
"""Who called it off; the driver undoes what was done and then closes it."""
FAILURE: Final = "failure"
"""Why a step gave up. Before anything was removed the driver undoes what was done, and closes the order."""
NODE_UID: Final = "node_uid"
"""Of the Node object that is to go."""
CORDON: Final = "cordon"
OURS: Final = "ours"
THEIRS: Final = "theirs"
"""Somebody else had cordoned the node: it is left so when called off, and made so again in the end."""
NOBODYS: Final = "nobody's"
"""There was no Node object to cordon."""
MEMBER: Final = "member_id"
CLUSTER: Final = "cluster_id"
ASKED: Final = "removal_asked"
"""When k3s or etcd was about to be asked to remove the member, UTC seconds; before, nothing was removed."""
WITHDRAWN: Final = "removal_withdrawn"
"""When that was taken back, because a peer died before it was done, UTC seconds; the member is watched
since."""
OUTAGE: Final = "outage"
"""What keeps a step that failed from being tried again, outside of it; when that is over it is taken up."""
TAKEN_UP: Final = "taken_up"
"""A step that was taken up after an outage: `{"state", "count", "since", "last", "said"}`, how often, when
first and last (UTC seconds), and what had kept it back last."""
SNAPSHOT: Final = "snapshot"
ENTERED: Final = "entered"
"""When its intent was opened, UTC seconds: from there on only a fresh join leads to Ready."""
UNSEEN: Final = "unseen"
"""The record came from a backup, and the board's installer was the first to be heard of: what its disk holds
may be newer than the order, which is no consent to overwrite it."""
ENTRY: Final = "entry"
"""What was tried to get its board into the installer, as `fleet.entry.ways.Tried.as_json` gives it."""
RETRIES: Final = "retries"
"""State → how often it was tried again."""
SERIAL: Final = "serial"
"""Of the board that takes the place of the old one."""
AFTER: Final = "after"
"""Number of the order that came to nothing before: the place of the fleet lock is held for both."""
STEPS: Final = "steps"
"""State → when it was entered, UTC seconds: what each part took."""
CORDON_ANNOTATION: Final = "bramble.dev/cordon"


_CAME_TO_NOTHING: Final = frozenset({State.FAILED_FIRST_BOOT, State.FAILED_JOINING, State.LOST})
MANY_TAKE_UPS: Final = 4
"""So often a step is taken up, in vain but for the last time, before somebody is told."""
LONG_S: Final = 1800.0
"""And no longer than this, where outages are long and it is taken up a second time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsteady:
    """What keeps a step back comes and goes: it is neither done nor given up. Times are UTC seconds."""

    state: str
    count: int
    since: float
    last: float
    said: str


def text(record: ReimageRecord, name: str) -> str:
    """A text; empty where it is not known yet."""
    found = record.progress.get(name)
    return found if isinstance(found, str) else ""


def is_cancelled(record: ReimageRecord) -> bool:
    return bool(text(record, CANCEL))


def is_held(record: ReimageRecord, state: State) -> bool:
    """Whether the member is to go and nobody was asked yet to remove it: it can still be called off."""
    return state in (State.MEMBER_REMOVED, State.FAILED_MEMBER_REMOVED) and record.progress.get(ASKED) is None


def can_be_called_off(record: ReimageRecord, state: State) -> bool:
    """Whether nothing was removed yet, so that the node can become what it was."""
    return state in LEAVING or is_held(record, state)


def has_entered(record: ReimageRecord) -> bool:
    """Its intent was opened: the node can only come back by a fresh join."""
    return record.progress.get(ENTERED) is not None


def came_to_nothing(record: ReimageRecord, state: State) -> bool:
    """Its installation is over and the node is not well: nothing is under way any more, and another order may
    be given. Until then this one stands, for the case that the node comes after all."""
    return has_entered(record) and state in _CAME_TO_NOTHING


def retries(record: ReimageRecord, state: str) -> int:
    """How often a step was tried again."""
    known = record.progress.get(RETRIES)
    count = known.get(state) if isinstance(known, Mapping) else None
    return count if isinstance(count, int) else 0


def one_more_retry(record: ReimageRecord, state: str) -> dict[str, Any]:
    """The progress after one more try of a step."""
    known = record.progress.get(RETRIES)
    counts = dict(known) if isinstance(known, Mapping) else {}
    return {RETRIES: {**counts, state: retries(record, state) + 1}}


def taken_up(record: ReimageRecord, state: str, now: float) -> dict[str, Any]:
    """The progress when an outage is over and a step is tried again."""
    known = record.progress.get(TAKEN_UP)
    before = known if isinstance(known, Mapping) and known.get("state") == state else {}
    made = {
        "state": state,
        "count": before.get("count", 0) + 1,
        "since": before.get("since", now),
        "last": now,
        "said": text(record, OUTAGE),
    }
    return {OUTAGE: None, FAILURE: None, TAKEN_UP: made}


def unsteady(record: ReimageRecord) -> Unsteady | None:
    """Whether a step was taken up so often, or for so long, that a person has to look; None: not so."""
    known = record.progress.get(TAKEN_UP)
    if not isinstance(known, Mapping):
        return None
    found = Unsteady(**known)
    is_long = found.count > 1 and found.last - found.since >= LONG_S
    return found if is_long or found.count >= MANY_TAKE_UPS else None


def step_entered(record: ReimageRecord, state: str, now: float) -> dict[str, Any]:
    """The progress after a state was entered."""
    known = record.progress.get(STEPS)
    times = dict(known) if isinstance(known, Mapping) else {}
    return {STEPS: {**times, state: now}}


def entered_at(order: ReimageRecord, state: str) -> float | None:
    """When a state was entered last; None: not by this order, as far as is known."""
    known = order.progress.get(STEPS)
    at = known.get(state) if isinstance(known, Mapping) else None
    return float(at) if isinstance(at, int | float) else None


def cordon_owner(record: ReimageRecord) -> str:
    """The value of our annotation on a Node that this order cordoned."""
    return f"reimage-{record.number}"
