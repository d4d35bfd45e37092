"""Taking back everything that this server gave a node, in a transaction of the caller's."""

from __future__ import annotations

from typing import Final

from fleet import events
from fleet.join.founding import may_have_founded, release_founder
from fleet.join.turn import WANTS_TO_JOIN
from fleet.store.records import NodeRecord
from fleet.store.transaction import Transaction

_REVOKED_BY: Final = "a person revoked the node"


def revoke_node(tx: Transaction, node: NodeRecord, now: float) -> None:
    """Void what the node has, and let nothing of it in until a person approves it."""
    tx.refuse(node.name, now)
    for ticket in tx.tickets(node.name):
        tx.burn_ticket(ticket.sha256, _REVOKED_BY, now)
    intent = tx.open_intent(node.name)
    if intent is not None:
        tx.update_intent(intent, token_sha256=None)
    tx.update_node(
        node,
        certificate=None,
        previous_certificate=None,
        pending_key=None,
        approved_key=None,
        # It joins no more: another server may have its turn.
        join_allowed=node.join_allowed and node.state not in WANTS_TO_JOIN,
    )
    tx.add_event(events.revoked(node.name), now, node=node.name, board=node.board_id)
    if may_have_founded(tx, node.name):
        tx.add_event(events.founder_kept(node.name), now, node=node.name, board=node.board_id)
    release_founder(tx, now)
