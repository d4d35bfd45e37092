"""May this installer write its node's disk? The facts for `fleet.enrolment.decide_installer`.

Under one intent the first claimant binds the node. A second board that claims to be it, with another serial,
MAC or key, makes the intent contested until a person decides.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac

from agent.proofs import fingerprint
from agent.protocol import Outcome, Proof, Verdict
from fleet import events
from fleet.admission.reception import Reception, verdict_of
from fleet.bindings import bind, has_other_macs, has_other_serial
from fleet.enrolment import Decision, InstallerCase, decide_installer
from fleet.ground import Ground
from fleet.lifecycle import Happening, State, allows
from fleet.roster import Match, recognise
from fleet.sessions import Session
from fleet.spec.model import FirstBoot, Role
from fleet.store.records import IntentRecord, NodeRecord
from fleet.store.transaction import Transaction
from fleet.timeline import Entry
from fleet.trust.device_keys import verify


class Installers:
    """Answers installers that prove who they are."""

    def __init__(self, ground: Ground, reception: Reception) -> None:
        self._ground = ground
        self._reception = reception

    def prove(self, session: Session, proof: Proof, now: float) -> Verdict:
        """Decide about an installer, and write down what was decided."""
        ground = self._ground
        if not _key_matches(proof.installer_key, session.hello.key_sha256):
            return self._reception.turn_away(session, "the session key does not fit the hello", now)
        match = recognise(ground.spec.nodes, session.serial, session.macs)
        shown = verify(proof.device, session.hello, session.welcome)
        with ground.store.write() as tx:
            node = self._reception.sight(tx, session, match, now)
            intent, contested = None, False
            if node is not None:
                node, intent = ground.ensure_intent(tx, node, now)
                contested = self._is_contested(tx, node, intent, session)
            key = session.hello.key_sha256
            case = InstallerCase(
                recognition=match.recognition,
                state=node.state if node else None,
                proof=proof.kind,
                device=self._reception.device_standing(tx, session, node, shown),
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
                self._reception.note_stranger(tx, session, decision, now)
                return verdict_of(decision, None)
            entry = events.installer_decided(decision, session.fingerprint, node.name)
            if decision.outcome is Outcome.ADMITTED and intent is not None:
                token = ground.random_hex(32)
                tx.update_intent(intent, token_sha256=hash_token(token))
                self._reception.bind(tx, node, session, decision, shown, now, intent=intent)
                learned = self._reception.learned(node, session)
                tx.move(
                    node, Happening.ADMITTED, entry, now, pending_key=None, disk_signature=None, **learned
                )
                if session.hello.boot_arg1 == intent.number:
                    ground.say_once(tx, events.came_by_order(intent.number), now, node=node)
                verdict = verdict_of(decision, node.name, token=token)
            else:
                disturbs = decision.outcome is Outcome.PENDING and contested
                if disturbs and intent is not None and _is_at_work(node, intent):
                    self._come_between(tx, node, intent, entry, now)
                else:
                    self._hold(tx, node, session, decision, now)
                verdict = verdict_of(decision, node.name)
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

    def _hold(
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
