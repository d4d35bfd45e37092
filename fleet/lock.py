"""The fleet lock: who may be taken down beside whom. Pure; the holds are rows of the store.

A re-image takes a hold before its first check and keeps it until it has ended well, or was called off. There
is no time limit: a lock that frees itself while its holder's state is unknown is how a second server was
wiped beside the first. A node whose re-image came to nothing keeps its hold, and nothing else of its role is
begun, until it is Ready after all, is decommissioned, or a person frees it ('bramble lock release').

    servers   one at a time, and not while an agent is on its way
    agents    `policy.reimage.max_parallel` at a time, and not while a server is on its way

A holder that came to nothing does not keep back nodes of the other role: a dead agent must not stand in the
way of the server that brings quorum back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fleet.lifecycle import State
from fleet.reimage import progress
from fleet.reimage.kinds import Outcome
from fleet.reimage.problems import Problem
from fleet.spec.model import Role
from fleet.store.records import HoldRecord, NodeRecord, ReimageRecord
from fleet.store.transaction import Reader, Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A node that holds a place of the lock.

    Attributes:
        number: Of its re-image.
        taken_at: UTC seconds.
        by: Who ordered that.
        stuck: Nothing is under way any more: the node stays as it is until somebody does something.
        state: In words, for people.
    """

    node: str
    role: Role
    number: int
    taken_at: float
    by: str
    stuck: bool
    state: str


def find_problems(node: str, role: Role, holds: Iterable[Hold], *, max_parallel: int) -> tuple[Problem, ...]:
    """Why a node may not be taken down now; empty: it may, or holds its place already."""
    others = [hold for hold in holds if hold.node != node]
    same = [hold for hold in others if hold.role is role]
    blocking = [hold for hold in others if hold.role is not role and not hold.stuck]
    if role is Role.SERVER:
        blocking += same
    else:
        blocking += [hold for hold in same if hold.stuck]
    found = [_held_by(hold) for hold in sorted(blocking, key=lambda hold: (hold.taken_at, hold.node))]
    moving = sorted(hold.node for hold in same if not hold.stuck)
    if role is Role.AGENT and len(moving) >= max_parallel:
        found.append(
            Problem(
                "budget",
                f"{len(moving)} of {max_parallel} agents are being re-imaged: {', '.join(moving)}",
                "'policy.reimage.max_parallel' says how many may be at a time.",
            )
        )
    return tuple(found)


def _held_by(hold: Hold) -> Problem:
    if hold.stuck:
        return Problem(
            "lock",
            f"{hold.node} holds the fleet lock: its re-image {hold.number} came to nothing ({hold.state})",
            f"Mend {hold.node}, or decommission it; 'bramble lock release {hold.node}' lets others go on "
            "without it.",
        )
    return Problem(
        "lock",
        f"{hold.node} holds the fleet lock: its re-image {hold.number} is under way ({hold.state})",
        f"Wait for it ('bramble show {hold.node}'), or call it off: 'bramble cancel {hold.node}'.",
    )


_STUCK_STATES = frozenset(state for state in State if state.value.startswith("failed-")) | {State.QUARANTINED}


def hold_of(record: HoldRecord, node: NodeRecord | None, order: ReimageRecord | None) -> Hold | None:
    """A row of the lock as it counts now; None where its owner has ended and nobody needs it any more.

    Args:
        node: Its owner; None: of another cluster's time, and gone.
        order: The re-image under which it was taken.
    """
    if node is None or order is None or node.state is State.DECOMMISSIONED:
        return None
    outcome = order.outcome
    if outcome is Outcome.DONE or (outcome is not None and node.state is State.READY):
        return None
    # One that was called off, or gave up before anything was removed, leaves the node as it was: well enough,
    # unless that was what an earlier one had come to.
    if outcome in (Outcome.CANCELLED, Outcome.FAILED) and order.progress.get(progress.AFTER) is None:
        return None
    return Hold(
        node=record.node,
        role=node.role,
        number=record.number,
        taken_at=record.taken_at,
        by=order.by,
        stuck=outcome is not None
        or node.state in _STUCK_STATES
        or progress.came_to_nothing(order, node.state),
        state=node.state.value,
    )


def read_holds(reader: Reader) -> tuple[Hold, ...]:
    """Every hold that counts, the oldest first."""
    found = []
    for record in reader.holds():
        order = reader.reimage(record.node, record.number)
        hold = hold_of(record, reader.node(record.node), order)
        if hold is not None:
            found.append(hold)
    return tuple(found)


def take(tx: Transaction, order: ReimageRecord, now: float) -> None:
    """Take a place for an order, in the transaction that found no problem. Again is no mistake."""
    tx.put_hold(HoldRecord(node=order.node, number=order.number, taken_at=now))


def drop_ended(tx: Transaction) -> Sequence[str]:
    """Remove the rows of owners that have ended; their names."""
    ended = []
    for record in tx.holds():
        if hold_of(record, tx.node(record.node), tx.reimage(record.node, record.number)) is None:
            tx.remove_hold(record.node)
            ended.append(record.node)
    return ended
