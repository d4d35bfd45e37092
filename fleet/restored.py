"""A record that came from a backup is older than the world: what that forbids, and what ends it.

After the backup was taken nodes may have been installed, enrolled and joined, and the record knows nothing of
it. So a restore marks every node as *unobserved*, and

- open intents end and approvals with them: the first sign of a board opens a new intent, whose name no disk
  carries yet, so an installer that finds one of our installations waits for a person (`fleet.installs`);
- intents and orders, those for firmware and agents too, go on counting far above what the lost hours can have
  used: no ticket is minted twice, and no node takes a new order for an old one;
- no server is told to found the cluster before all servers were observed: the lost hours may have seen it;
- every token of the API ends: one may have been revoked since;
- a power-cycle whose end the backup does not tell is not made up for when it is an hour old: the board may
  have been switched off since, by somebody at work on it;
- a node that was revoked since is in force again, and only people know of it: they name it to the restore;
- nothing else that cannot be taken back is done to a node (`require_observed`).

A node is observed again when its agent reports, or when its installer has looked at its disk.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from fleet import events
from fleet.lifecycle import LEAVING, Happening
from fleet.power.debts import forgive_old
from fleet.recovery.state import BEFORE
from fleet.refusal import RefusedError
from fleet.reimage import progress
from fleet.reimage.kinds import Outcome as ReimageOutcome
from fleet.spec.model import Role
from fleet.store.records import NodeRecord
from fleet.store.transaction import Reader, Transaction
from fleet.trust.revocation import revoke_node

EPOCH: Final = "store.epoch"
"""kv: how often the record came from a backup; absent for never."""
BACKUP: Final = "store.backup"
"""kv: digest of the backup that the record came from last."""
GAP: Final = 1000
"""More intents, and more orders, than a node gets between two backups."""
UNOBSERVED: Final = "unobserved."
"""kv: what a node that was not heard of since a restore is marked with, by prefix."""
_WHY: Final = "the record was restored from a backup"


@dataclass(frozen=True, slots=True)
class Unobserved:
    """A node that was not heard of since the restore. Times are UTC seconds."""

    epoch: int
    backup_at: float
    restored_at: float


def epoch_of(reader: Reader) -> int:
    """How often the record came from a backup."""
    return int(reader.value(EPOCH) or 0)


def mark_restored(
    tx: Transaction, *, backup_at: float, now: float, digest: str = "", revoked: Collection[str] = ()
) -> int:
    """Make a record that was just loaded safe to act on; the new epoch.

    Args:
        revoked: Nodes that a person revoked after the backup was taken, or revokes now.

    Raises:
        RefusedError: As `revoke_again`.
    """
    epoch = epoch_of(tx) + 1
    # One that was revoked since the backup would be in force again.
    tx.revoke_all_tokens(now)
    tx.remove_value(BEFORE)  # a recovery's founder may have been told since: it is not called off any more
    tx.put_value(EPOCH, str(epoch))
    tx.put_value(BACKUP, digest)
    last = tx.last_intent_numbers()
    mark = json.dumps({"epoch": epoch, "backup_at": backup_at, "restored_at": now})
    for node in tx.nodes():
        intent = tx.open_intent(node.name)
        if intent is not None:
            tx.close_intent(intent, _WHY, now)
        order = tx.open_reimage(node.name)
        if order is not None and node.state in LEAVING:
            # Nothing was removed then; whether it went on since, the world has to show.
            tx.close_reimage(order, ReimageOutcome.ABANDONED, _WHY, now)
            node = tx.move(node, Happening.BACK_TO_LOST, events.reimage_step(_WHY), now)
        elif order is not None and progress.is_held(order, node.state):
            tx.note_reimage(order, **{progress.ASKED: now})  # it may have been, in the hours that are lost
        tx.skip_intents(node.name, last.get(node.name, 0) + GAP, _WHY, now)
        tx.update_node(node, generation=node.generation + GAP, pending_key=None, approved_key=None)
        tx.put_value(f"{UNOBSERVED}{node.name}", mark)
        entry = events.restored_from_backup(now - backup_at)
        tx.add_event(entry, now, node=node.name, board=node.board_id)
    for name, age_s in forgive_old(tx, now).items():
        known = tx.node(name)
        board = known.board_id if known else None
        tx.add_event(events.debt_forgiven(name, age_s), now, node=name, board=board)
    revoke_again(tx, revoked, now)
    return epoch


def revoke_again(tx: Transaction, names: Collection[str], now: float) -> None:
    """Revoke nodes of which the record does not know that they are.

    Raises:
        RefusedError: Some are no nodes; all of those are named, and no node is revoked.
    """
    unknown = [name for name in dict.fromkeys(names) if tx.node(name) is None]
    if unknown:
        raise RefusedError(
            404,
            "node",
            f"the record has no node {', '.join(map(repr, unknown))}; nothing was restored or revoked",
            "Name nodes as cluster.yaml did when the backup was taken.",
        )
    for name in names:
        if not tx.is_refused(name):
            revoke_node(tx, tx.require_node(name), now)


def unobserved(reader: Reader, name: str) -> Unobserved | None:
    """What is known of a node that was not heard of since a restore; None for all others."""
    known = reader.json_value(f"{UNOBSERVED}{name}")
    return None if known is None else Unobserved(**known)


def require_observed(reader: Reader, name: str) -> None:
    """Let nothing happen to a node that cannot be taken back while only a backup speaks of it.

    Raises:
        RefusedError: The node was not observed since the restore.
    """
    if unobserved(reader, name) is not None:
        raise RefusedError(
            409,
            "unobserved",
            f"{_WHY} and {name} was not heard of since: what is known of it may be out of date",
            f"Wait until its agent reports, or switch it on; 'bramble show {name}' tells when it was seen.",
        )


def observe(tx: Transaction, node: NodeRecord, what: str, now: float, *, generation: int = 0) -> NodeRecord:
    """A node was heard of. Nothing happens unless that is the first time since a restore.

    Args:
        what: Who saw it, for the timeline.
        generation: The last order that the node carried out: the count goes on above it.
    """
    if unobserved(tx, node.name) is None:
        return node
    tx.remove_value(f"{UNOBSERVED}{node.name}")
    tx.add_event(events.observed_again(what), now, node=node.name, board=node.board_id)
    if generation > node.generation:
        return tx.update_node(node, generation=generation)
    return node


def unobserved_servers(reader: Reader) -> tuple[str, ...]:
    """Servers that may have founded the cluster while the record was lost."""
    return tuple(
        node.name
        for node in reader.nodes()
        if node.role is Role.SERVER and unobserved(reader, node.name) is not None
    )
