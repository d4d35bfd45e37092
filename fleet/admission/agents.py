"""May this agent have a certificate? The facts for `fleet.enrolment.decide_agent`, and the certificate."""

from __future__ import annotations

import dataclasses
import hmac
from datetime import timedelta

from agent.proofs import fingerprint
from agent.protocol import Outcome, Proof, ProofKind, Verdict, ticket_proof
from fleet import events
from fleet.admission.reception import Reception, verdict_of
from fleet.bindings import has_other_macs, has_other_serial
from fleet.clones import suspend_cloned
from fleet.disk_pins import pin_found
from fleet.enrolment import AgentCase, Decision, Recognition, TicketStanding, decide_agent
from fleet.ground import Ground
from fleet.lifecycle import Happening, allows
from fleet.roster import recognise
from fleet.sessions import Session
from fleet.store.records import NodeRecord, TicketRecord
from fleet.store.transaction import Transaction
from fleet.trust.device_keys import verify
from fleet.trust.pki import CsrError, csr_common_name, csr_public_key, key_sha256


class Agents:
    """Answers agents that prove who they are."""

    def __init__(self, ground: Ground, reception: Reception) -> None:
        self._ground = ground
        self._reception = reception

    def prove(self, session: Session, proof: Proof, certificate: str | None, now: float) -> Verdict:
        """Decide about an agent, and write down what was decided.

        Args:
            certificate: That of the connection, as `AdmissionDesk.prove` has it.
        """
        ground = self._ground
        try:
            key = key_sha256(csr_public_key(proof.csr_pem))
        except CsrError as error:
            return self._reception.turn_away(session, error.message, now)
        if not hmac.compare_digest(key, session.hello.key_sha256):
            return self._reception.turn_away(
                session, "the certificate request is for another key than the hello", now
            )
        match = recognise(ground.spec.nodes, session.serial, session.macs)
        shown = verify(proof.device, session.hello, session.welcome)
        with ground.store.write() as tx:
            node = self._reception.sight(tx, session, match, now)
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
                device=self._reception.device_standing(tx, session, node, shown),
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
                self._reception.note_stranger(tx, session, decision, now)
                return verdict_of(decision, None)
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
                return verdict_of(decision, node.name)
            if decision.burns_ticket and ticket is not None:
                tx.burn_ticket(ticket.sha256, key, now)
            by_ticket = standing in (TicketStanding.VALID, TicketStanding.USED_BY_CALLER)
            # Only a renewal leaves the certificate that was shown in force; all others end here.
            kept = certificate if proof.kind is ProofKind.PREVIOUS else None
            self._reception.bind(tx, node, session, decision, shown, now, intent=None)
            learned = self._reception.learned(node, session)
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
        return verdict_of(decision, node.name, certificate_pem=issued.pem, ca_pem=self._ground.pki.ca_pem)

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
