"""What a person decides about who may be a node: approve, reject, revoke, and the boards' device keys."""

from __future__ import annotations

from collections.abc import Mapping

from agent.proofs import fingerprint, parse_fingerprint
from fleet import events
from fleet.ground import Ground
from fleet.lifecycle import Happening, State
from fleet.refusal import RefusedError, no_such_node
from fleet.reimage import progress
from fleet.store.records import NodeRecord
from fleet.store.transaction import Reader, Transaction
from fleet.store.trust import DeviceKeyRecord, KeySource
from fleet.trust.revocation import revoke_node


class PeopleDesk:
    """Carries out decisions; each is an entry of the node's timeline, in the same transaction."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def approve(self, name: str, key: str | None = None) -> str:
        """Let a node in: the key that waits is approved; a quarantined or revoked one may ask again.

        Args:
            key: The beginning of the key that the person compared, hex; "" where no key was shown to them.
                None approves whatever waits now.

        Returns:
            What was done, for people.

        Raises:
            RefusedError: No such node, nothing of it waits, or another key than `key` does.
        """
        ground, now = self._ground, self._ground.clock()
        with ground.store.write() as tx:
            node = _require(tx, name)
            if tx.lift_refusal(name):
                tx.add_event(events.revocation_lifted(), now, node=name, board=node.board_id)
                done = (
                    f"{name} is no longer revoked; when its agent asks again, approve the key that it shows"
                )
            elif node.state is State.QUARANTINED:
                done = self._release(tx, node, now)
            elif node.pending_key is None:
                raise _nothing_waits(node)
            else:
                shown = _require_same_key(node, key, "approve")
                tx.lift_refusal(name, node.pending_key)
                tx.update_node(node, approved_key=node.pending_key, pending_key=None)
                tx.add_event(events.approved(shown), now, node=name, board=node.board_id)
                done = f"{name} is approved (key {shown}); it goes on within seconds"
        ground.on_boot_change()
        return done

    def _release(self, tx: Transaction, node: NodeRecord, now: float) -> str:
        intent = self._ground.open_new_intent(tx, node.name, now)
        order = tx.open_reimage(node.name)
        if order is None or not progress.has_entered(order):
            tx.move(node, Happening.RELEASED, events.released(intent.number), now)
            return f"{node.name} is released from quarantine; switch it on"
        order = tx.note_reimage(order, **{progress.FAILURE: None, progress.ENTRY: None})
        tx.update_reimage(order, reason="")
        tx.move(node, Happening.AWAITED_AGAIN, events.released(intent.number), now)
        return f"{node.name} is released from quarantine: 'bramble show {node.name}' follows its way back"

    def reject(self, name: str, key: str | None = None) -> str:
        """Turn away the key that waits; the board can ask with another one, which is another decision.

        Args:
            key: As in `approve`.

        Raises:
            RefusedError: No such node, nothing of it waits, or another key than `key` does.
        """
        ground, now = self._ground, self._ground.clock()
        with ground.store.write() as tx:
            node = _require(tx, name)
            if node.pending_key is None:
                raise _nothing_waits(node)
            shown = _require_same_key(node, key, "reject")
            tx.refuse(name, now, node.pending_key)
            detail = f"key {shown} rejected" if node.state is State.PENDING else node.detail
            tx.update_node(node, pending_key=None, detail=detail)
            tx.add_event(events.key_rejected(shown), now, node=name, board=node.board_id)
        ground.on_boot_change()
        return f"the key {shown} of {name} is rejected; what holds it is turned away from now on"

    def revoke(self, name: str) -> str:
        """Take everything back that this server gave the node, and let nothing of it in until it is approved.

        Raises:
            RefusedError: No such node, or it is revoked.
        """
        ground, now = self._ground, self._ground.clock()
        with ground.store.write() as tx:
            node = _require(tx, name)
            if tx.is_refused(name):
                raise RefusedError(
                    409, "revoked", f"{name} is revoked already", f"'bramble approve {name}' lifts it."
                )
            revoke_node(tx, node, now)
        ground.on_boot_change()
        return f"{name} is revoked; end its Kubernetes credentials with 'kubectl delete node {name}'"

    def forget_device(self, name: str) -> str:
        """Forget the device keys of a node's board, and which board it is: the next one may be another.

        Raises:
            RefusedError: No such node.
        """
        ground, now = self._ground, self._ground.clock()
        with ground.store.write() as tx:
            node = _require(tx, name)
            board = node.serial[8:] if node.serial else None
            count = tx.forget_device_keys(board=board, node=name)
            tx.unbind_board(name)
            tx.add_event(events.device_forgotten(count), now, node=name, board=node.board_id)
        return f"{count} device key(s) of {name} are forgotten; its next board has to be approved"

    def import_devices(self, keys: Mapping[str, str]) -> str:
        """Put boards' device keys on record.

        Args:
            keys: Low half of the serial, 8 hex digits → SHA-256 of the public key.

        Raises:
            RefusedError: A board or a key is on record otherwise; all of them are named, nothing is changed.
        """
        now = self._ground.clock()
        problems, added = [], 0
        with self._ground.store.write() as tx:
            for board, digest in sorted(keys.items()):
                known = tx.device_key(digest)
                others = [one for one in tx.device_keys(board=board, node=None) if one.key_sha256 != digest]
                if others or (known is not None and known.board != board):
                    problems.append(_conflict(board, digest, known, others))
                elif known is None:
                    added += 1
                    record = DeviceKeyRecord(
                        key_sha256=digest, board=board, node=None, source=KeySource.IMPORTED, at=now
                    )
                    tx.put_device_key(record)
            if problems:
                raise RefusedError(
                    409,
                    "device-key",
                    "nothing was imported: " + "; ".join(problems),
                    "A board that was given another key on purpose: 'bramble devices forget NODE' first.",
                )
        return f"{added} device key(s) imported, {len(keys) - added} were known"


def _conflict(board: str, digest: str, known: DeviceKeyRecord | None, others: list[DeviceKeyRecord]) -> str:
    if others:
        return f"board {board} has key {fingerprint(others[0].key_sha256)} ({others[0].source}) on record"
    owner = known.board if known is not None else "another board"
    return f"key {fingerprint(digest)} of board {board} is on record for {owner}"


def _require(reader: Reader, name: str) -> NodeRecord:
    node = reader.node(name)
    if node is None:
        raise no_such_node(name, (known.name for known in reader.nodes()))
    return node


def _nothing_waits(node: NodeRecord) -> RefusedError:
    return RefusedError(
        409,
        "nothing-pending",
        f"nothing of {node.name} waits for approval, it is {node.state}",
        f"'bramble show {node.name}' tells what happened.",
    )


def _require_same_key(node: NodeRecord, key: str | None, verb: str) -> str:
    """The fingerprint of the key that waits, which must be the one that the person compared."""
    waits = node.pending_key or ""
    shown = fingerprint(waits)
    digits = parse_fingerprint(key or "")
    if key is not None and not (digits and waits.startswith(digits)):
        compared = fingerprint(digits) if digits else key or "none"
        raise RefusedError(
            409,
            "other-key",
            f"the key of {node.name} that waits now is {shown}, not {compared}",
            f"Compare {shown} with the board's screen, then run 'bramble {verb} {node.name} --key {shown}'. "
            f"If no screen shows it, somebody else asked first: 'bramble reject {node.name} --key {shown}'.",
        )
    return shown
