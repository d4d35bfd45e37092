"""Who speaks, and may it in? The first two requests of installers and agents.

Establishes the facts (identity, keys, tickets, certificates) and lets the tables of `fleet.enrolment` decide;
what was decided is recorded in the same transaction.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
from datetime import timedelta
from typing import Final

from agent.proofs import fingerprint
from agent.protocol import (
    Hello,
    Outcome,
    Proof,
    ProofKind,
    Stage,
    Verdict,
    Welcome,
    ticket_proof,
)
from fleet import events
from fleet.bindings import bind, has_other_macs, has_other_serial
from fleet.clones import suspend_cloned
from fleet.disk_pins import pin_found
from fleet.enrolment import (
    AgentCase,
    Decision,
    DeviceStanding,
    InstallerCase,
    Recognition,
    TicketStanding,
    decide_agent,
    decide_installer,
)
from fleet.ground import Ground
from fleet.lifecycle import Happening, State, allows
from fleet.roster import Match, recognise
from fleet.sessions import Session, Sessions
from fleet.sightings import held_reason, learned_identity, model_of, record_sighting
from fleet.spec.model import FirstBoot, Role
from fleet.store.records import BoardRecord, IntentRecord, NodeRecord, TicketRecord
from fleet.store.transaction import Transaction
from fleet.store.trust import DeviceKeyRecord, KeySource
from fleet.timeline import Entry
from fleet.trust.device_keys import Shown, standing_of, verify
from fleet.trust.pki import CsrError, csr_common_name, csr_public_key, key_sha256

RETRY_AFTER_S: Final = 5.0


class AdmissionDesk:
    """Answers hello and prove."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._sessions = Sessions(ground)

    def hello(self, hello: Hello) -> Welcome:
        """Open a session.

        Raises:
            RefusedError: Another protocol version, or a value that cannot be what it says.
        """
        return self._sessions.open(hello)

    def prove(self, proof: Proof, peer_certificate: str | None) -> Verdict:
        """Decide about the session's caller.

        Args:
            peer_certificate: Hex serial number of the client certificate of the connection, verified against
                the control CA.

        Raises:
            RefusedError: The session is unknown: it ended, or the server was started again.
        """
        now = self._ground.clock()
        session = self._sessions.take(proof.session, now)
        if session.hello.stage is Stage.INSTALLER:
            return self._prove_installer(session, proof, now)
        return self._prove_agent(session, proof, peer_certificate, now)

    def _prove_installer(self, session: Session, proof: Proof, now: float) -> Verdict:
        ground = self._ground
        if not _key_matches(proof.installer_key, session.hello.key_sha256):
            return self._turn_away(session, "the session key does not fit the hello", now)
        match = recognise(ground.spec.nodes, session.serial, session.macs)
        shown = verify(proof.device, session.hello, session.welcome)
        with ground.store.write() as tx:
            node = self._sight(tx, session, match, now)
            intent, contested = None, False
            if node is not None:
                node, intent = ground.ensure_intent(tx, node, now)
                contested = self._is_contested(tx, node, intent, session)
            key = session.hello.key_sha256
            case = InstallerCase(
                recognition=match.recognition,
                state=node.state if node else None,
                proof=proof.kind,
                device=self._device_standing(tx, session, node, shown),
                intent_open=intent is not None and intent.number == session.hello.intent,
                role=node.role if node else Role.AGENT,
                policy=_policy(ground, match),
                approved=node is not None and node.approved_key == key,
                occupied=intent is not None and intent.occupant is not None,
                contested=contested,
                enrolled=node is not None and node.certificate is not None,
                refused=node is not None and tx.is_refused(node.name, key),
                revoked=node is not None and tx.is_refused(node.name),
            )
            decision = decide_installer(case)
            if node is None:
                self._note_stranger(tx, session, decision, now)
                return _verdict(decision, None)
            entry = events.installer_decided(decision, session.fingerprint, node.name)
            if decision.outcome is Outcome.ADMITTED and intent is not None:
                token = ground.random_hex(32)
                tx.update_intent(intent, token_sha256=hash_token(token))
                self._bind(tx, node, session, decision, shown, now, intent=intent)
                learned = self._learned(node, session)
                tx.move(
                    node, Happening.ADMITTED, entry, now, pending_key=None, disk_signature=None, **learned
                )
                if session.hello.boot_arg1 == intent.number:
                    ground.say_once(tx, events.came_by_order(intent.number), now, node=node)
                verdict = _verdict(decision, node.name, token=token)
            else:
                disturbs = decision.outcome is Outcome.PENDING and contested
                if disturbs and intent is not None and _is_at_work(node, intent):
                    self._come_between(tx, node, intent, entry, now)
                else:
                    self._hold_installer(tx, node, session, decision, now)
                verdict = _verdict(decision, node.name)
        ground.on_boot_change()
        return verdict

    def _is_contested(
        self, tx: Transaction, node: NodeRecord, intent: IntentRecord | None, session: Session
    ) -> bool:
        """Whether two boards claim to be the node under this intent; the first claim binds it.

        A second board shows another serial or MAC; or the same ones and another key, although no boot was
        seen that would have given the first one a new key. It stays contested until a person decides.
        """
        key = session.hello.key_sha256
        if intent is None or intent.number != session.hello.intent:
            return False
        bound = tx.node_board(node.name)
        if bound is None or bound.intent != intent.number:
            claim = bind(None, node.name, session.serial, session.macs, intent=intent.number, key=key)
            tx.bind_board(claim)
            return False
        has_other_key = bound.key not in (None, key)
        differs = has_other_serial(bound, session.serial) or has_other_macs(bound, session.macs)
        if differs or (has_other_key and (node.state is State.PENDING or _is_at_work(node, intent))):
            tx.bind_board(dataclasses.replace(bound, contested=True))
            return True
        if has_other_key:
            tx.bind_board(dataclasses.replace(bound, key=key))
        return bound.contested

    def _come_between(
        self, tx: Transaction, node: NodeRecord, intent: IntentRecord, entry: Entry, now: float
    ) -> None:
        """A second board claims to be the node while one that was let in is being installed."""
        if node.approved_key is not None:
            # A person compared that one's key: whoever comes now is the other.
            self._ground.say_once(tx, entry, now, node=node)
            return
        # One of the two has an install plan by now, and with it a ticket: the whole intent ends.
        tx.close_intent(intent, "two boards claim it", now)
        tx.update_intent(intent, token_sha256=None)
        for ticket in tx.tickets(node.name):
            tx.burn_ticket(ticket.sha256, "two boards claimed it", now)
        tx.move(node, Happening.EXHAUSTED, events.contested(node.name), now)

    def _hold_installer(
        self, tx: Transaction, node: NodeRecord, session: Session, decision: Decision, now: float
    ) -> None:
        """Record that a person must look; a caller that asks again and again is told of once."""
        entry = events.installer_decided(decision, session.fingerprint, node.name)
        key = session.hello.key_sha256
        waits = decision.outcome is Outcome.PENDING and allows(node.state, Happening.HELD)
        if not waits:
            self._ground.say_once(tx, entry, now, node=node)
        elif node.state is State.PENDING:
            # No boot since. Of two callers the first one's key waits until a person rejects it: the key that
            # they compare must not change under their eyes. An approval is for its own key only, and stays.
            waits_for = node.pending_key or key
            tx.note_progress(node, Happening.HELD, now, f"key {fingerprint(waits_for)}")
            if node.pending_key is None:
                tx.update_node(node, pending_key=key)
            if node.pending_key != key:
                self._ground.say_once(tx, entry, now, node=node)
        else:
            detail = f"key {session.fingerprint}"
            tx.move(node, Happening.HELD, entry, now, pending_key=key, approved_key=None, detail=detail)

    def _prove_agent(self, session: Session, proof: Proof, certificate: str | None, now: float) -> Verdict:
        ground = self._ground
        try:
            key = key_sha256(csr_public_key(proof.csr_pem))
        except CsrError as error:
            return self._turn_away(session, error.message, now)
        if not hmac.compare_digest(key, session.hello.key_sha256):
            return self._turn_away(session, "the certificate request is for another key than the hello", now)
        match = recognise(ground.spec.nodes, session.serial, session.macs)
        shown = verify(proof.device, session.hello, session.welcome)
        with ground.store.write() as tx:
            node = self._sight(tx, session, match, now)
            self._look_for_clones(tx, node, certificate, now)
            ticket, standing = (None, None)
            if node is not None and proof.kind is ProofKind.TICKET:
                ticket, standing = self._weigh_ticket(tx, node, session, proof)
            previous_valid = (
                node is not None
                and certificate is not None
                and certificate in (node.certificate, node.previous_certificate)
            )
            case = AgentCase(
                recognition=match.recognition,
                state=node.state if node else None,
                proof=proof.kind,
                device=self._device_standing(tx, session, node, shown),
                ticket=standing,
                previous_valid=previous_valid,
                # Who holds the certificate's key is believed about its interfaces: they come and go.
                other_board=self._is_other_board(tx, node, session, by_mac=not previous_valid),
                approved=node is not None and node.approved_key == key,
                vouched=node is not None and node.approved_key is not None,
                enrolled=node is not None and node.certificate is not None,
                refused=node is not None and tx.is_refused(node.name, key),
                revoked=node is not None and tx.is_refused(node.name),
            )
            decision = decide_agent(case)
            if node is None:
                if match.recognition is Recognition.UNKNOWN and proof.kind is ProofKind.TICKET:
                    decision = self._name_stray_ticket(tx, session, proof, decision)
                self._note_stranger(tx, session, decision, now)
                return _verdict(decision, None)
            if decision.outcome is not Outcome.ENROLLED:
                if decision.suspends:
                    node = tx.update_node(node, certificate=None, previous_certificate=None)
                # While an installation is awaited the key that waits is an installer's: no agent that claims
                # to be the node may put its own in the place of the one that a person is comparing.
                waits = decision.outcome is Outcome.PENDING and not node.state.awaits_install
                if waits and node.pending_key != key:
                    tx.update_node(node, pending_key=key)
                entry = events.agent_decided(decision, session.fingerprint, node.name, can_be_approved=waits)
                ground.say_once(tx, entry, now, node=node)
                return _verdict(decision, node.name)
            if decision.burns_ticket and ticket is not None:
                tx.burn_ticket(ticket.sha256, key, now)
            by_ticket = standing in (TicketStanding.VALID, TicketStanding.USED_BY_CALLER)
            # Only a renewal leaves the certificate that was shown in force; all others end here.
            kept = certificate if proof.kind is ProofKind.PREVIOUS else None
            self._bind(tx, node, session, decision, shown, now, intent=None)
            learned = self._learned(node, session)
            node = tx.update_node(node, **learned) if learned else node
            if ticket is not None and by_ticket:
                pin_found(tx, node, ticket.intent)  # the ticket is on that disk, and nowhere else
            verdict = self._enrol(tx, node, key, proof, decision, now, kept=kept, by_ticket=by_ticket)
        ground.on_boot_change()
        return verdict

    def _is_other_board(
        self, tx: Transaction, node: NodeRecord | None, session: Session, *, by_mac: bool
    ) -> bool:
        if node is None:
            return False
        bound = tx.node_board(node.name)
        return has_other_serial(bound, session.serial) or (by_mac and has_other_macs(bound, session.macs))

    def _look_for_clones(
        self, tx: Transaction, node: NodeRecord | None, certificate: str | None, now: float
    ) -> None:
        """A certificate in force that is shown by a board which is not its node: its disk was copied."""
        holder = tx.node_of_certificate(certificate) if certificate else None
        if holder is None or (node is not None and node.name == holder.name):
            return
        suspend_cloned(tx, holder, now)

    def _device_standing(
        self, tx: Transaction, session: Session, node: NodeRecord | None, shown: Shown
    ) -> DeviceStanding:
        board = session.serial.prefix if session.serial else None
        return standing_of(tx, shown, board=board, node=node.name if node else None)

    def _bind(
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

    def _turn_away(self, session: Session, reason: str, now: float) -> Verdict:
        """Answer a proof that contradicts its own hello; it is recorded like any other decision."""
        decision = Decision(Outcome.REJECTED, reason, is_alarm=True)
        match = recognise(self._ground.spec.nodes, session.serial, session.macs)
        with self._ground.store.write() as tx:
            node = self._sight(tx, session, match, now)
            if node is None:
                self._note_stranger(tx, session, decision, now)
            else:
                entry = events.agent_decided(decision, session.fingerprint, node.name)
                self._ground.say_once(tx, entry, now, node=node)
        return _verdict(decision, None)

    def _note_stranger(self, tx: Transaction, session: Session, decision: Decision, now: float) -> None:
        """What a board that is no node was answered; once, as long as it is the same."""
        key = session.board_key
        entry = events.stranger_decided(decision, session.fingerprint, session.hello.stage)
        # A board that there was no room to record is not worth a line either: floods invent their names.
        if key is None or tx.board(key) is None or not self._ground.repeats.is_new((key, entry.text), now):
            return
        tx.add_event(entry, now, board=key)

    def _enrol(
        self,
        tx: Transaction,
        node: NodeRecord,
        key: str,
        proof: Proof,
        decision: Decision,
        now: float,
        *,
        kept: str | None,
        by_ticket: bool,
    ) -> Verdict:
        issued = self._ground.pki.issue_node_certificate(
            proof.csr_pem,
            uuid=node.uuid,
            node=node.name,
            now=now,
            board=node.serial,
            lifetime=timedelta(seconds=self._ground.spec.policy.certificate_life_s),
        )
        entry = events.agent_decided(decision, fingerprint(key), node.name)
        identity = {
            "certificate": issued.serial,
            # The answer may get lost, more than once: the one that the node has is good until a newer one
            # was used.
            "previous_certificate": kept,
            "agent_key": key,
            "pending_key": None,
            "approved_key": None,
        }
        # While it is being re-imaged its old system may still run, and only the new disk has a ticket.
        is_new = by_ticket or tx.open_reimage(node.name) is None
        if is_new and allows(node.state, Happening.ENROLLED):
            intent = tx.open_intent(node.name)
            if intent is not None:
                tx.close_intent(intent, "installed: its agent enrolled", now)
            fresh = {"generation": node.generation + 1, "join_allowed": False, "boot_id": None, "boots": 0}
            tx.move(node, Happening.ENROLLED, entry, now, **identity, **fresh, status=None, status_sequence=0)
        else:
            # Who comes with another key may have lost more than that, and counts its reports from one again.
            counter = {} if proof.kind is ProofKind.PREVIOUS else {"status_sequence": 0}
            tx.update_node(node, **identity, **counter)
            tx.add_event(entry, now, node=node.name, board=node.board_id)
        return _verdict(decision, node.name, certificate_pem=issued.pem, ca_pem=self._ground.pki.ca_pem)

    def _name_stray_ticket(
        self, tx: Transaction, session: Session, proof: Proof, decision: Decision
    ) -> Decision:
        """A card that was written for a node is in a board that cluster.yaml does not know.

        It gets no certificate: that would be a credential without a place. A person who gives the node this
        board's serial gives it its place, and the ticket, which is not burnt, lets it in.
        """
        name = csr_common_name(proof.csr_pem)
        node = tx.node(name) if name is not None else None
        if node is None or self._weigh_ticket(tx, node, session, proof)[1] is not TicketStanding.VALID:
            return decision
        serial = session.serial.text if session.serial else "serial number"
        return dataclasses.replace(
            decision,
            reason=f"{decision.reason}, and shows the unused ticket of {node.name}. If it is to be "
            f"{node.name}, give that node {serial} in cluster.yaml and run 'bramble apply'",
        )

    def _weigh_ticket(
        self, tx: Transaction, node: NodeRecord, session: Session, proof: Proof
    ) -> tuple[TicketRecord | None, TicketStanding]:
        """Which of the node's tickets the proof was made with, and what it is worth."""
        for position, record in enumerate(tx.tickets(node.name)):
            ticket = self._ground.pki.ticket(node.name, record.intent, record.attempt)
            expected = ticket_proof(ticket.reveal(), session.hello, session.welcome)
            if ticket.sha256 != record.sha256 or not hmac.compare_digest(expected, proof.value):
                continue
            if position > 0:
                return record, TicketStanding.VOID
            if record.used_at is None:
                return record, TicketStanding.VALID
            same = record.used_by == session.hello.key_sha256
            return record, TicketStanding.USED_BY_CALLER if same else TicketStanding.USED
        return None, TicketStanding.WRONG

    def _sight(self, tx: Transaction, session: Session, match: Match, now: float) -> NodeRecord | None:
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

    def _learned(self, node: NodeRecord, session: Session) -> dict[str, str]:
        """What the node's record takes over of a caller that was let in; others may claim anything."""
        return learned_identity(node, self._ground.require_spec(node.name), session.serial, session.macs)


def hash_token(token: str) -> str:
    """How a bearer token is stored."""
    return hashlib.sha256(token.encode()).hexdigest()


def _key_matches(key_hex: str, expected_sha256: str) -> bool:
    try:
        key = bytes.fromhex(key_hex)
    except ValueError:
        return False
    return len(key) >= 16 and hmac.compare_digest(hashlib.sha256(key).hexdigest(), expected_sha256)


def _is_at_work(node: NodeRecord, intent: IntentRecord) -> bool:
    """Whether an installer that was let in is installing the node, as far as is known."""
    return node.state is State.IMAGING and intent.token_sha256 is not None


def _policy(ground: Ground, match: Match) -> FirstBoot:
    if match.node is None:
        return FirstBoot.APPROVE
    return ground.spec.policy.first_boot.for_role(match.node.role)


def _verdict(
    decision: Decision,
    node: str | None,
    *,
    token: str | None = None,
    certificate_pem: str | None = None,
    ca_pem: str | None = None,
) -> Verdict:
    return Verdict(
        outcome=decision.outcome,
        reason=decision.reason,
        node=node,
        token=token,
        certificate_pem=certificate_pem,
        ca_pem=ca_pem,
        retry_after_s=RETRY_AFTER_S,
    )
