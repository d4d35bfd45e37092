"""What the driver writes down: each move of an order in one transaction with its event, or nothing.

An answer is about what was read; where somebody came in between, it is stale, and nothing is written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from fleet import events
from fleet.boards import Serial
from fleet.ground import INTENT_TTL_S, Ground
from fleet.lifecycle import LEAVING, WAY_BACK, Happening, State
from fleet.reimage import progress
from fleet.reimage.kinds import Outcome, ReimageKind
from fleet.reimage.rebind import rebind, retire
from fleet.reimage.steps import Abort, Move
from fleet.store.records import NodeRecord, ReimageRecord
from fleet.store.transaction import Transaction

log = logging.getLogger(__name__)

_REASON_LENGTH: Final = 500
_OURS: Final = frozenset(LEAVING | {State.MEMBER_REMOVED, State.NODE_DELETED, State.REBOOT_TO_INSTALLER})


class Book:
    """The orders that are under way, in the record.

    Args:
        redeclare: Called after a node became another board.
    """

    def __init__(self, ground: Ground, redeclare: Callable[[], None]) -> None:
        self._ground = ground
        self._redeclare = redeclare

    def move(self, order: ReimageRecord, node: NodeRecord, move: Move) -> None:
        """The next state, with what belongs to it."""
        now, rebound = self._ground.clock(), False
        with self._ground.store.write() as tx:
            found = self._current(tx, order, node)
            if found is None:
                return
            present, record = found
            present = tx.note_reimage(present, **move.note)
            entry = events.reimage_step(move.text)
            match move.happening:
                case Happening.NODE_GONE:
                    rebound = self._open_installer(tx, present, record, now)
                    record = tx.require_node(record.name)
                case Happening.EXHAUSTED if (intent := tx.open_intent(record.name)) is not None:
                    tx.close_intent(intent, "its board did not come", now)
                case Happening.REMOVED:
                    retire(tx, record, now)
                    record = tx.require_node(record.name)
                case _:
                    pass
            record = tx.move(record, move.happening, entry, now)
            present = tx.note_reimage(present, **progress.step_entered(present, record.state.value, now))
            if move.happening is not Happening.RETRIED:  # why it failed is still the last that is known
                tx.update_reimage(present, reason="")
        log.info("re-image: %s", move.text, extra={"node": node.name, "state": record.state.value})
        if rebound:
            self._redeclare()
        self._ground.on_boot_change()

    def abort(self, order: ReimageRecord, node: NodeRecord, abort: Abort) -> None:
        """The node is what it was."""
        now = self._ground.clock()
        with self._ground.store.write() as tx:
            present, record = tx.open_reimage(node.name), tx.require_node(node.name)
            if present is None or present.number != order.number or record.state not in LEAVING:
                return
            entry = events.reimage_ended(present.kind.value, abort.outcome.value, abort.reason)
            tx.move(record, WAY_BACK[present.was], entry, now)
            tx.close_reimage(present, abort.outcome, abort.reason[:_REASON_LENGTH], now)
        log.info("re-image %s: %s", abort.outcome.value, abort.reason, extra={"node": node.name})
        self._ground.on_boot_change()

    def close(self, order: ReimageRecord, outcome: Outcome, reason: str) -> None:
        """The order has ended; its node is where it is."""
        now = self._ground.clock()
        with self._ground.store.write() as tx:
            present, node = tx.open_reimage(order.node), tx.require_node(order.node)
            if present is None or present.number != order.number:
                return
            tx.close_reimage(present, outcome, reason[:_REASON_LENGTH], now)
            entry = events.reimage_ended(present.kind.value, outcome.value, reason)
            tx.add_event(entry, now, node=node.name, board=node.board_id)
        log.info("re-image %s: %s", outcome.value, reason, extra={"node": order.node})

    def note(self, order: ReimageRecord, note: Mapping[str, Any]) -> None:
        """Keep what a deed has to be remembered by."""
        if note:
            with self._ground.store.write() as tx:
                tx.note_reimage(order, **note)

    def wait(self, name: str, why: str) -> None:
        """Say what is waited for; written only when it changed."""
        why = why[:_REASON_LENGTH]
        with self._ground.store.read() as reader:
            order = reader.open_reimage(name)
        if not why or order is None or order.reason == why:
            return
        with self._ground.store.write() as tx:
            present, node = tx.open_reimage(name), tx.require_node(name)
            if present is not None and present.number == order.number:
                tx.update_reimage(present, reason=why)
                if node.state in _OURS:
                    tx.update_node(node, detail=why[:200])

    def fail(self, order: ReimageRecord, node: NodeRecord, reason: str) -> None:
        """Give up before anything was removed: the failed twin undoes what was done."""
        self.wait(node.name, reason)
        with self._ground.store.write() as tx:
            current = tx.require_node(node.name)
            if current.state is node.state and tx.open_reimage(node.name) is not None:
                tx.move(current, Happening.TIMED_OUT, events.reimage_step(reason), self._ground.clock())

    def _current(
        self, tx: Transaction, order: ReimageRecord, node: NodeRecord
    ) -> tuple[ReimageRecord, NodeRecord] | None:
        """Order and node as they are now; None where somebody came in between and the answer is stale."""
        present, record = tx.open_reimage(node.name), tx.require_node(node.name)
        if present is None or present.number != order.number or record.state is not node.state:
            return None
        if present.kind is not order.kind:  # a person has it decommissioned, or gave it another board
            return None
        if progress.is_cancelled(present) and not progress.is_cancelled(order) and node.state in LEAVING:
            return None
        return present, record

    def _open_installer(self, tx: Transaction, order: ReimageRecord, node: NodeRecord, now: float) -> bool:
        """Permit the installation, with the number that the order has; whether another board is the node."""
        if tx.next_intent_number(node.name) == order.number + 1:
            installation = self._ground.random_hex(16)
            tx.open_reserved_intent(node.name, order.number, now, INTENT_TTL_S, installation)
            number = order.number
        else:  # a restored record counts on above what the lost hours may have used
            number = self._ground.open_new_intent(tx, node.name, now).number
        tx.note_reimage(order, **{progress.ENTERED: now})
        # A person who is to approve compares the key of the installer that comes, and no earlier one.
        tx.update_node(node, pending_key=None, approved_key=None)
        entry = events.intent_opened(number, INTENT_TTL_S)
        tx.add_event(entry, now, node=node.name, board=node.board_id)
        if order.kind is ReimageKind.REPLACE:
            serial = Serial.parse(progress.text(order, progress.SERIAL))
            rebind(tx, serial, tx.require_node(node.name), self._ground, now)
            return True
        return False
