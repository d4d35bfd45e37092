"""What is the same for every caller: who it is, what is written down of it, and the form of the answer."""

from __future__ import annotations

import dataclasses
from typing import Final

from agent.proofs import fingerprint
from agent.protocol import Outcome, Verdict
from fleet import events
from fleet.bindings import bind
from fleet.enrolment import Decision, DeviceStanding
from fleet.ground import Ground
from fleet.roster import Match, recognise
from fleet.sessions import Session
from fleet.sightings import held_reason, learned_identity, model_of, record_sighting
from fleet.store.records import BoardRecord, IntentRecord, NodeRecord
from fleet.store.transaction import Transaction
from fleet.store.trust import DeviceKeyRecord, KeySource
from fleet.trust.device_keys import Shown, standing_of

RETRY_AFTER_S: Final = 5.0


class Reception:
    """Writes down who speaks, in the transaction of whoever decides about it."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def sight(self, tx: Transaction, session: Session, match: Match, now: float) -> NodeRecord | None:
        """Write down the board that speaks; the node's record when it is one's."""
        hardware, key = session.hello.hardware, session.board_key
        if key is not None:
            seen = BoardRecord(
                id=key,
                serial=session.serial.text if session.serial else None,
                macs=tuple(map(str, session.macs)),
                revision=hardware.revision,
                model=model_of(hardware.revision, hardware.model),
                first_seen=now,
                last_seen=now,
                held_reason=held_reason(match.recognition),
            )
            record_sighting(tx, seen)
        if match.node is None:
            return None
        return tx.require_node(match.node.name)

    def turn_away(self, session: Session, reason: str, now: float) -> Verdict:
        """Answer a proof that contradicts its own hello; it is recorded like any other decision."""
        decision = Decision(Outcome.REJECTED, reason, is_alarm=True)
        match = recognise(self._ground.spec.nodes, session.serial, session.macs)
        with self._ground.store.write() as tx:
            node = self.sight(tx, session, match, now)
            if node is None:
                self.note_stranger(tx, session, decision, now)
            else:
                entry = events.agent_decided(decision, session.fingerprint, node.name)
                self._ground.say_once(tx, entry, now, node=node)
        return verdict_of(decision, None)

    def note_stranger(self, tx: Transaction, session: Session, decision: Decision, now: float) -> None:
        """What a board that is no node was answered; once, as long as it is the same."""
        key = session.board_key
        entry = events.stranger_decided(decision, session.fingerprint, session.hello.stage)
        # A board that there was no room to record is not worth a line either: floods invent their names.
        if key is None or tx.board(key) is None or not self._ground.repeats.is_new((key, entry.text), now):
            return
        tx.add_event(entry, now, board=key)

    def bind(
        self,
        tx: Transaction,
        node: NodeRecord,
        session: Session,
        decision: Decision,
        shown: Shown,
        now: float,
        *,
        intent: IntentRecord | None,
    ) -> None:
        """The node is this board from now on, and its device key is the one that it proved."""
        bound = tx.node_board(node.name)
        key = session.hello.key_sha256 if intent is not None else None
        number = intent.number if intent is not None else None
        tx.bind_board(bind(bound, node.name, session.serial, session.macs, intent=number, key=key))
        if shown.sha256 is None or session.serial is None:
            return
        known = tx.device_key(shown.sha256)
        if known is not None and known.node != node.name:
            tx.put_device_key(dataclasses.replace(known, node=node.name))
        elif known is None and decision.pins_device:
            record = DeviceKeyRecord(
                key_sha256=shown.sha256,
                board=session.serial.prefix,
                node=node.name,
                source=KeySource.FIRST_USE,
                at=now,
            )
            tx.put_device_key(record)
            entry = events.device_pinned(fingerprint(shown.sha256), node.name)
            tx.add_event(entry, now, node=node.name, board=node.board_id)

    def device_standing(
        self, tx: Transaction, session: Session, node: NodeRecord | None, shown: Shown
    ) -> DeviceStanding:
        board = session.serial.prefix if session.serial else None
        return standing_of(tx, shown, board=board, node=node.name if node else None)

    def learned(self, node: NodeRecord, session: Session) -> dict[str, str]:
        """What the node's record takes over of a caller that was let in; others may claim anything."""
        return learned_identity(node, self._ground.require_spec(node.name), session.serial, session.macs)


def verdict_of(
    decision: Decision,
    node: str | None,
    *,
    token: str | None = None,
    certificate_pem: str | None = None,
    ca_pem: str | None = None,
) -> Verdict:
    """What the caller is answered."""
    return Verdict(
        outcome=decision.outcome,
        reason=decision.reason,
        node=node,
        token=token,
        certificate_pem=certificate_pem,
        ca_pem=ca_pem,
        retry_after_s=RETRY_AFTER_S,
    )
