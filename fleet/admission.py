"""Who speaks, and may it in? The first two requests of installers and agents, and the approval of a person.

Establishes the facts (identity, keys, tickets, certificates) and lets the tables of `fleet.enrolment` decide;
what was decided is recorded in the same transaction. Sessions live in memory: a caller whose session is gone
says hello again.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Final

from agent.protocol import (
    PROTOCOL_VERSION,
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
from fleet.boards import BoardError, MacAddress, Serial
from fleet.enrolment import (
    AgentCase,
    Decision,
    InstallerCase,
    TicketStanding,
    decide_agent,
    decide_installer,
)
from fleet.ground import Ground
from fleet.lifecycle import Happening, State, allows
from fleet.pki import CsrError, csr_public_key, key_sha256
from fleet.refusal import RefusedError
from fleet.roster import Match, recognise
from fleet.sightings import held_reason, learned_identity, model_of, record_sighting
from fleet.spec.model import FirstBoot
from fleet.store.records import BoardRecord, NodeRecord, TicketRecord, board_id
from fleet.store.transaction import Transaction

SESSION_TTL_S: Final = 120.0
MAX_SESSIONS: Final = 1024
RETRY_AFTER_S: Final = 5.0
FINGERPRINT_DIGITS: Final = 8
MAX_REVISION: Final = 0xFFFF_FFFF
MAX_MACS: Final = 16
_HEX_32: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Session:
    """Between hello and prove: what was said, and by whom it was said it is."""

    hello: Hello
    welcome: Welcome
    serial: Serial | None
    macs: tuple[MacAddress, ...]
    opened: float

    @property
    def board_key(self) -> str | None:
        mac = str(self.macs[0]) if self.macs else None
        return board_id(self.serial.text if self.serial else None, mac)

    @property
    def fingerprint(self) -> str:
        return self.hello.key_sha256[:FINGERPRINT_DIGITS]


class AdmissionDesk:
    """Answers hello and prove, and takes approvals."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._sessions: dict[str, Session] = {}

    def hello(self, hello: Hello) -> Welcome:
        """Open a session.

        Raises:
            RefusedError: Another protocol version, or a value that cannot be what it says.
        """
        if hello.protocol != PROTOCOL_VERSION:
            raise RefusedError(
                400,
                "protocol",
                f"the caller speaks protocol {hello.protocol}, this server {PROTOCOL_VERSION}",
                "Image and server come from different versions of Bramble: build the image again.",
            )
        for name in ("key_sha256", "client_nonce"):
            if not _HEX_32.fullmatch(getattr(hello, name)):
                raise RefusedError(400, "hello", f"{name} is not 64 lower-case hex digits")
        if hello.hardware.revision is not None and not 0 <= hello.hardware.revision <= MAX_REVISION:
            raise RefusedError(400, "hello", "the revision code does not fit in 32 bits")
        try:
            serial = Serial.parse(hello.hardware.serial) if hello.hardware.serial else None
            macs = tuple(MacAddress.parse(mac) for mac in hello.hardware.macs[:MAX_MACS])
        except BoardError as error:
            raise RefusedError(400, "hello", error.message) from error
        now = self._ground.clock()
        self._forget_old_sessions(now)
        welcome = Welcome(
            session=self._ground.random_hex(16), server_nonce=self._ground.random_hex(32), server_time=now
        )
        self._sessions[welcome.session] = Session(hello, welcome, serial, macs, now)
        return welcome

    def prove(self, proof: Proof, peer_certificate: str | None) -> Verdict:
        """Decide about the session's caller.

        Args:
            peer_certificate: Hex serial number of the client certificate of the connection, verified against
                the control CA.

        Raises:
            RefusedError: The session is unknown: it ended, or the server was started again.
        """
        now = self._ground.clock()
        session = self._sessions.pop(proof.session, None)
        if session is None or now - session.opened > SESSION_TTL_S:
            raise RefusedError(409, "session", "this session is not open", "Say hello again.")
        if session.hello.stage is Stage.INSTALLER:
            return self._prove_installer(session, proof, now)
        return self._prove_agent(session, proof, peer_certificate, now)

    def approve(self, name: str, key: str | None = None) -> str:
        """A person lets the node in: the key that waits is approved, or a quarantined node may try again.

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
            node = tx.node(name)
            if node is None:
                raise RefusedError(404, "node", f"there is no node {name!r}", "'bramble nodes' lists them.")
            if node.state is State.QUARANTINED:
                intent = ground.open_new_intent(tx, name, now)
                tx.move(node, Happening.RELEASED, events.released(intent.number), now)
                done = f"{name} is released from quarantine; switch it on"
            elif node.pending_key is None:
                raise RefusedError(
                    409,
                    "nothing-pending",
                    f"nothing of {name} waits for approval, it is {node.state}",
                    f"'bramble show {name}' tells what happened.",
                )
            else:
                fingerprint = node.pending_key[:FINGERPRINT_DIGITS]
                if key is not None and not (key and node.pending_key.startswith(key)):
                    raise RefusedError(
                        409,
                        "other-key",
                        f"the key of {name} that waits now is {fingerprint}, not {key or 'none'}",
                        f"Somebody else asked meanwhile: compare {fingerprint} with the board's screen, then "
                        f"run 'bramble approve {name} --key {fingerprint}'.",
                    )
                tx.update_node(node, approved_key=node.pending_key, pending_key=None)
                tx.add_event(events.approved(fingerprint), now, node=name, board=node.board_id)
                done = f"{name} is approved (key {fingerprint}); it goes on within seconds"
        ground.on_boot_change()
        return done

    def _prove_installer(self, session: Session, proof: Proof, now: float) -> Verdict:
        ground = self._ground
        if not _key_matches(proof.installer_key, session.hello.key_sha256):
            return Verdict(Outcome.REJECTED, "the session key does not fit the hello")
        match = recognise(ground.spec.nodes, session.serial, session.macs)
        with ground.store.write() as tx:
            node = self._sight(tx, session, match, now)
            intent = None
            if node is not None:
                node, intent = ground.ensure_intent(tx, node, now)
            case = InstallerCase(
                recognition=match.recognition,
                state=node.state if node else None,
                proof=proof.kind,
                intent_open=intent is not None and intent.number == session.hello.intent,
                policy=_policy(ground, match),
                approved=node is not None and node.approved_key == session.hello.key_sha256,
                occupied=intent is not None and intent.occupant is not None,
            )
            decision = decide_installer(case)
            if node is None:
                return _verdict(decision, None)
            entry = events.installer_decided(decision, session.fingerprint, node.name)
            if decision.outcome is Outcome.ADMITTED and intent is not None:
                token = ground.random_hex(32)
                tx.update_intent(intent, token_sha256=hash_token(token))
                learned = self._learned(node, session)
                tx.move(
                    node, Happening.ADMITTED, entry, now, pending_key=None, disk_signature=None, **learned
                )
                verdict = _verdict(decision, node.name, token=token)
            else:
                self._hold_installer(tx, node, session, decision, now)
                verdict = _verdict(decision, node.name)
        ground.on_boot_change()
        return verdict

    def _hold_installer(
        self, tx: Transaction, node: NodeRecord, session: Session, decision: Decision, now: float
    ) -> None:
        """Record that a person must look; a caller that asks again and again is told of once."""
        entry = events.installer_decided(decision, session.fingerprint, node.name)
        key = session.hello.key_sha256
        waits = decision.outcome is Outcome.PENDING and allows(node.state, Happening.HELD)
        if not waits:
            self._ground.say_once(tx, entry, now, node=node)
        elif node.state is State.PENDING and node.pending_key == key:
            tx.note_progress(node, Happening.HELD, now, f"key {session.fingerprint}")
        else:
            detail = f"key {session.fingerprint}"
            tx.move(node, Happening.HELD, entry, now, pending_key=key, approved_key=None, detail=detail)

    def _prove_agent(self, session: Session, proof: Proof, certificate: str | None, now: float) -> Verdict:
        ground = self._ground
        try:
            key = key_sha256(csr_public_key(proof.csr_pem))
        except CsrError as error:
            return Verdict(Outcome.REJECTED, error.message)
        if not hmac.compare_digest(key, session.hello.key_sha256):
            return Verdict(Outcome.REJECTED, "the certificate request is for another key than the hello")
        match = recognise(ground.spec.nodes, session.serial, session.macs)
        with ground.store.write() as tx:
            node = self._sight(tx, session, match, now)
            ticket, standing = (None, None)
            if node is not None and proof.kind is ProofKind.TICKET:
                ticket, standing = self._weigh_ticket(tx, node, session, proof)
            case = AgentCase(
                recognition=match.recognition,
                state=node.state if node else None,
                proof=proof.kind,
                ticket=standing,
                previous_valid=node is not None
                and certificate is not None
                and certificate in (node.certificate, node.previous_certificate),
                approved=node is not None and node.approved_key == key,
            )
            decision = decide_agent(case)
            if node is None:
                return _verdict(decision, None)
            if decision.outcome is not Outcome.ENROLLED:
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
            # Only a renewal leaves the certificate that was shown in force; all others end here.
            kept = certificate if proof.kind is ProofKind.PREVIOUS else None
            learned = self._learned(node, session)
            node = tx.update_node(node, **learned) if learned else node
            verdict = self._enrol(tx, node, key, proof, decision, now, kept=kept)
        ground.on_boot_change()
        return verdict

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
    ) -> Verdict:
        issued = self._ground.pki.issue_node_certificate(
            proof.csr_pem, uuid=node.uuid, node=node.name, now=now
        )
        entry = events.agent_decided(decision, key[:FINGERPRINT_DIGITS], node.name)
        identity = {
            "certificate": issued.serial,
            # The answer may get lost, more than once: the one that the node has is good until a newer one
            # was used.
            "previous_certificate": kept,
            "agent_key": key,
            "pending_key": None,
            "approved_key": None,
        }
        if allows(node.state, Happening.ENROLLED):
            intent = tx.open_intent(node.name)
            if intent is not None:
                tx.close_intent(intent, "installed: its agent enrolled", now)
            fresh = {"generation": node.generation + 1, "join_allowed": False, "boot_id": None, "boots": 0}
            tx.move(node, Happening.ENROLLED, entry, now, **identity, **fresh, status=None, status_sequence=0)
        else:
            tx.update_node(node, **identity)
            tx.add_event(entry, now, node=node.name, board=node.board_id)
        return _verdict(decision, node.name, certificate_pem=issued.pem, ca_pem=self._ground.pki.ca_pem)

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

    def _forget_old_sessions(self, now: float) -> None:
        if len(self._sessions) < MAX_SESSIONS:
            return
        live = {key: item for key, item in self._sessions.items() if now - item.opened <= SESSION_TTL_S}
        # Still full: the oldest half makes room, so that a flood cannot lock out a board that comes later.
        self._sessions = dict(list(live.items())[len(live) // 2 :]) if len(live) >= MAX_SESSIONS else live


def hash_token(token: str) -> str:
    """How a bearer token is stored."""
    return hashlib.sha256(token.encode()).hexdigest()


def _key_matches(key_hex: str, expected_sha256: str) -> bool:
    try:
        key = bytes.fromhex(key_hex)
    except ValueError:
        return False
    return len(key) >= 16 and hmac.compare_digest(hashlib.sha256(key).hexdigest(), expected_sha256)


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
