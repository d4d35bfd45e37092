"""Orders that nothing has to be taken out of a cluster for: it is not in one, is lost, or never was."""

from __future__ import annotations

from typing import Final

from fleet import events
from fleet.boards import Serial
from fleet.ground import Ground
from fleet.join.founding import FOUNDED
from fleet.join.state import JoinState
from fleet.lifecycle import ENTERING_INSTALLER, Happening, State, allows
from fleet.recovery.state import Recovery
from fleet.refusal import RefusedError
from fleet.reimage.kinds import Outcome, ReimageKind
from fleet.reimage.rebind import rebind
from fleet.restored import UNOBSERVED, epoch_of
from fleet.store.records import NodeRecord
from fleet.store.transaction import Reader, Transaction
from fleet.timeline import Entry

OUTSIDE: Final = frozenset(
    {
        *ENTERING_INSTALLER,
        State.DECLARED,
        State.NETBOOTING,
        State.PENDING,
        State.FAILED_NETBOOT,
        State.FAILED_IMAGING,
        State.FLASHED,
        State.QUARANTINED,
    }
)
"""Nothing in the cluster knows a node in these: it can be decommissioned, or be another board, at once."""
_DID_NOT_COME: Final = frozenset({State.FAILED_FIRST_BOOT, State.FAILED_JOINING})

_NO_CLUSTER: Final = "there is no cluster to take it out of: it is installed as if it never had been"
_FROM_NETWORK: Final = "Start its board from the network; what its disk holds is asked about before it goes."


def is_in_no_cluster(reader: Reader, node: NodeRecord) -> bool:
    """Whether it was written and did not come, and there never was a cluster that could know of it.

    A record that came from a backup may be older than its cluster, and one that is recovered is there.
    """
    return (
        node.state in _DID_NOT_COME
        and reader.value(FOUNDED) is None
        and epoch_of(reader) == 0
        and Recovery.load(reader) is None
    )


def goes_at_once(reader: Reader, node: NodeRecord, kind: ReimageKind) -> bool:
    """Whether nothing has to be taken out of a cluster first."""
    if is_in_no_cluster(reader, node):
        return True
    if kind is ReimageKind.REPLACE and node.state is State.FLASHED:
        return False  # a card goes to any board
    return kind is not ReimageKind.REIMAGE and node.state in OUTSIDE


def start_over(tx: Transaction, node: NodeRecord, why: str, entry: Entry, now: float) -> None:
    """Nothing of before counts any more; what its disk holds is asked about before it goes.

    Args:
        why: Why its order and its intent end, if any is open.
    """
    order = tx.open_reimage(node.name)
    if order is not None:
        tx.close_reimage(order, Outcome.ABANDONED, why, now)
    tx.remove_hold(node.name)
    intent = tx.open_intent(node.name)
    if intent is not None:
        tx.close_intent(intent, why, now)
    tx.remove_value(UNOBSERVED + node.name)
    JoinState().save(tx, node.name)
    void = {
        "certificate": None,
        "previous_certificate": None,
        "agent_key": None,
        "pending_key": None,
        "approved_key": None,
        "join_allowed": False,
        # What its last system said of itself must not be taken for the new one's word.
        "status": None,
        "status_sequence": 0,
        "status_at": None,
        "boot_id": None,
    }
    if allows(node.state, Happening.STARTED_OVER):
        tx.move(node, Happening.STARTED_OVER, entry, now, **void)
    else:
        tx.update_node(node, **void)


def install_at_once(
    tx: Transaction, node: NodeRecord, image: str | None, by: str, why: str, now: float
) -> None:
    """There is no cluster to take it out of, and no order goes on: it is as blank as any other node."""
    if image is not None:
        raise RefusedError(
            409,
            "image",
            f"{node.name} was never in a cluster, and gets the image of the cluster.yaml in force",
            "Order it without another image.",
        )
    tx.add_event(events.reimage_ordered("reimage", by, why), now, node=node.name, board=node.board_id)
    for ticket in tx.tickets(node.name):
        tx.burn_ticket(ticket.sha256, "the node is installed anew", now)
    start_over(tx, node, f"{by} ordered anew", events.reimage_step(_NO_CLUSTER, _FROM_NETWORK), now)


def replace_at_once(
    tx: Transaction, node: NodeRecord, serial: Serial, ground: Ground, by: str, why: str, now: float
) -> None:
    """The node is out of its cluster already: only the board changes, and an order goes on with it."""
    tx.add_event(events.reimage_ordered("replace", by, why), now, node=node.name, board=node.board_id)
    never_was = is_in_no_cluster(tx, node)
    rebind(tx, serial, node, ground, now)
    node = tx.require_node(node.name)
    if never_was:
        start_over(tx, node, f"{by} replaced its board", events.reimage_step(_NO_CLUSTER), now)
        return
    order = tx.open_reimage(node.name)
    if order is not None:
        tx.update_reimage(order, kind=ReimageKind.REPLACE)
    if node.state is State.QUARANTINED:
        intent = ground.open_new_intent(tx, node.name, now)
        tx.move(node, Happening.RELEASED, events.released(intent.number), now)
    elif allows(node.state, Happening.RETRIED):
        tx.move(node, Happening.RETRIED, events.reimage_step("the new board is awaited"), now)
