"""Random lives of two nodes with rogues, copied disks, people and crashes: the promises hold.

A crash is an exception at the n-th statement of a request, after which the server is started anew over the
same state directory; a lost answer is a request that was carried out and whose answer nobody got.
"""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from fakes_device import Board, board_of
from fakes_fleet import AgentKey, Clock, Fleet, certificate_serial, cluster_spec, open_fleet, status_report
from fleet_story import AGENT, SERVER, complete, see
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.protocol import Outcome, Verdict
from fleet.boots import BootStage
from fleet.lifecycle import State
from fleet.refusal import RefusedError
from fleet.secret import Secret
from fleet.spec.model import Role
from fleet.views import timeline_view

pytestmark = pytest.mark.integration

NODES = {node.name: node for node in (SERVER, AGENT)}
NAMES = st.sampled_from(sorted(NODES))
OWNERS = st.sampled_from(["board", "rogue", "copy"])
CRASHES = st.none() | st.integers(1, 25)
Answer = TypeVar("Answer")


class Crash(BaseException):
    """The process is gone in the middle of a transaction."""


@dataclasses.dataclass
class Known:
    """What the world knows of one node: what it was given, and what people said."""

    tickets: list[str] = dataclasses.field(default_factory=list)
    tokens: list[str] = dataclasses.field(default_factory=list)
    certificates: list[str] = dataclasses.field(default_factory=list)
    approved: set[str] = dataclasses.field(default_factory=set)
    rejected: set[str] = dataclasses.field(default_factory=set)
    burnt_by: dict[str, str | None] = dataclasses.field(default_factory=dict)
    is_revoked: bool = False


class Enrolment(RuleBasedStateMachine):
    """The desks of one controller, and everybody who speaks to them."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.fleet = self.open()
        self.known = {name: Known() for name in NODES}
        self.keys = {
            (name, owner): (hashlib.sha256(f"{name} {owner}".encode()).digest(), AgentKey())
            for name in NODES
            for owner in ("board", "rogue")
        }
        self.boots = 0

    def teardown(self) -> None:
        if hasattr(self, "fleet"):
            self.fleet.store.close()
            self.folder.cleanup()

    def open(self) -> Fleet:
        return open_fleet(Path(self.folder.name), cluster_spec(SERVER, AGENT), self.clock)

    def person(self) -> Any:
        return self.fleet.controller.people

    def speak(self, call: Callable[[], Answer], crash: int | None, lost: bool = False) -> Answer | None:
        """One request; None where it was refused, where the server crashed, or where the answer got lost."""
        engine = self.fleet.store._backend.engine
        left = [crash or 0]

        def count(*_arguments: object) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Crash

        if crash is not None:
            sa.event.listen(engine, "before_cursor_execute", count)
        try:
            answer = call()
        except RefusedError:
            return None
        except Crash:
            self.fleet.store.close()
            self.fleet = self.open()
            return None
        finally:
            if crash is not None and self.fleet.store._backend.engine is engine:
                sa.event.remove(engine, "before_cursor_execute", count)
        return None if lost else answer

    def speaker(self, name: str, owner: str) -> Board:
        """The board, a rogue that shows its serial and MAC, or another board with a copy of its disk."""
        session_key, agent_key = self.keys[name, "rogue" if owner == "rogue" else "board"]
        board = board_of(self.fleet, NODES[name])
        if owner == "copy":
            board.hardware = dataclasses.replace(
                board.hardware, serial="10000000deadbeef", macs=("d8:3a:dd:00:00:99",)
            )
        board.session_key, board.key = session_key + bytes([self.boots % 3]), agent_key
        with self.fleet.store.read() as reader:
            intent = reader.open_intent(name)
        board.intent = intent.number if intent else 1
        return board

    @rule(name=NAMES, owner=OWNERS, crash=CRASHES, lost=st.booleans())
    def ask_to_install(self, name: str, owner: str, crash: int | None, lost: bool) -> None:
        board, known = self.speaker(name, owner), self.known[name]
        key = hashlib.sha256(board.session_key).hexdigest()
        state = self.state_of(name)
        verdict = self.speak(board.install, crash, lost)
        if verdict is None or verdict.outcome is not Outcome.ADMITTED:
            return
        assert verdict.token is not None
        assert owner != "copy"
        self.hold(known, key, state)
        if NODES[name].role is Role.SERVER:
            assert key in known.approved, "a server was let in on its serial and MAC alone"
        known.tokens.append(verdict.token)
        self.must_be_told(name, verdict)

    @rule(name=NAMES)
    def install_the_board(self, name: str) -> None:
        """The whole way, as it mostly goes; rogues and crashes come between the other rules' steps."""
        self.boot(name)
        self.ask_to_install(name, "board", None, False)
        if self.pending(name) is not None:
            self.approve(name, None)
            self.ask_to_install(name, "board", None, False)
        self.fetch_the_plan(name, None)
        self.complete_the_install(name, None)

    @precondition(lambda self: self.has("tickets"))
    @rule(name=NAMES, follower=st.none() | OWNERS)
    def enrol_the_board(self, name: str, follower: str | None) -> None:
        """Its first boot; and perhaps somebody else who has read the same ticket."""
        self.enrol_with_a_ticket(name, "board", 1, None, False)
        self.report(name, 0)
        if follower is not None:
            self.enrol_with_a_ticket(name, follower, 1, None, False)

    @precondition(lambda self: self.has("tokens"))
    @rule(name=NAMES, crash=CRASHES)
    def fetch_the_plan(self, name: str, crash: int | None) -> None:
        known = self.known[name]
        if not known.tokens:
            return
        token = known.tokens[-1]
        if self.speak(lambda: self.fleet.controller.installs.plan(token), crash) is not None:
            known.tickets.append(self.fleet.images.tickets[name][-1].reveal())

    @precondition(lambda self: self.has("tokens"))
    @rule(name=NAMES, crash=CRASHES)
    def complete_the_install(self, name: str, crash: int | None) -> None:
        known = self.known[name]
        if known.tokens:
            token = known.tokens[-1]
            installs = self.fleet.controller.installs

            def finish() -> None:
                installs.complete(token, complete(installs.plan(token)))

            self.speak(finish, crash)

    @precondition(lambda self: self.has("tickets"))
    @rule(name=NAMES, owner=OWNERS, age=st.integers(1, 3), crash=CRASHES, lost=st.booleans())
    def enrol_with_a_ticket(self, name: str, owner: str, age: int, crash: int | None, lost: bool) -> None:
        known = self.known[name]
        if len(known.tickets) < age:
            return
        ticket = known.tickets[-age]
        self.enrol(name, owner, crash, lost, ticket=ticket)

    @precondition(lambda self: self.has("certificates"))
    @rule(name=NAMES, owner=OWNERS, age=st.integers(1, 3), crash=CRASHES, lost=st.booleans())
    def renew(self, name: str, owner: str, age: int, crash: int | None, lost: bool) -> None:
        known = self.known[name]
        # TLS lets nobody present a certificate whose key it does not hold: rogues have none.
        if len(known.certificates) >= age and owner != "rogue":
            self.enrol(name, owner, crash, lost, certificate=known.certificates[-age])

    @rule(name=NAMES, owner=OWNERS, crash=CRASHES, lost=st.booleans())
    def enrol_without_a_proof(self, name: str, owner: str, crash: int | None, lost: bool) -> None:
        self.enrol(name, owner, crash, lost)

    def enrol(
        self,
        name: str,
        owner: str,
        crash: int | None,
        lost: bool,
        *,
        ticket: str | None = None,
        certificate: str | None = None,
    ) -> None:
        board, known = self.speaker(name, owner), self.known[name]
        state = self.state_of(name)
        was_valid = certificate is not None and self.works(certificate)
        verdict = self.speak(lambda: board.enrol(ticket=ticket, certificate=certificate), crash)
        if verdict is None or verdict.outcome is not Outcome.ENROLLED:
            return
        assert verdict.certificate_pem is not None
        assert owner != "copy", "a board that is no node got a node's certificate"
        self.hold(known, board.key.sha256, state)
        if ticket is not None:
            burnt_by = self.burner_of(name, ticket)
            assert known.burnt_by.setdefault(ticket, burnt_by) == burnt_by, "a ticket was burnt by two keys"
            is_owner = board.key.sha256 == burnt_by
            assert is_owner or board.key.sha256 in known.approved, "another's ticket let an agent in"
        elif certificate is not None:
            assert was_valid, "a certificate that is not in force was renewed"
        else:
            assert board.key.sha256 in known.approved, "an agent was let in without proof and person"
        # Lost or not: a certificate that was made must be worth no more than the promises say.
        known.certificates.append(certificate_serial(verdict.certificate_pem))
        if not lost:
            self.must_be_told(name, verdict)

    def hold(self, known: Known, key: str, state: State) -> None:
        """What holds of everybody who is let in."""
        assert not known.is_revoked, "a revoked node was let in"
        assert key not in known.rejected, "a rejected key was let in"
        assert state not in (State.QUARANTINED, State.DECOMMISSIONED), f"a node was let in that is {state}"

    @precondition(lambda self: any(self.pending(name) or self.is_revoked(name) for name in NODES))
    @rule(name=NAMES, crash=CRASHES)
    def approve(self, name: str, crash: int | None) -> None:
        known, waits = self.known[name], self.pending(name)
        was_revoked = known.is_revoked
        if self.speak(lambda: self.person().approve(name), crash) is None:
            known.is_revoked = self.is_revoked(name)
            return
        if was_revoked:
            known.is_revoked = False
        elif waits is not None and self.pending(name) is None:
            known.approved.add(waits)
            known.rejected.discard(waits)

    @precondition(lambda self: any(self.pending(name) for name in NODES))
    @rule(name=NAMES, crash=CRASHES)
    def reject(self, name: str, crash: int | None) -> None:
        waits = self.pending(name)
        if waits is not None and self.speak(lambda: self.person().reject(name), crash) is not None:
            self.known[name].rejected.add(waits)
            self.known[name].approved.discard(waits)
            for owner in ("rogue", "board"):  # whoever was turned away does not take it for an answer
                self.ask_to_install(name, owner, None, False)
                self.enrol_without_a_proof(name, owner, None, False)

    @precondition(lambda self: self.has("certificates"))
    @rule(name=NAMES, crash=CRASHES)
    def revoke(self, name: str, crash: int | None) -> None:
        if self.speak(lambda: self.person().revoke(name), crash) is not None:
            self.known[name].is_revoked = True
        assert self.known[name].is_revoked == self.is_revoked(name)

    @rule(name=NAMES)
    def boot(self, name: str) -> None:
        """A board is switched off and on: its installer makes a new key."""
        self.boots += 1
        self.clock.advance(30)
        see(self.fleet, NODES[name], BootStage.KERNEL)

    @rule(seconds=st.sampled_from([1.0, 300.0, 86_400.0 * 3]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.fleet.controller.tick()

    @precondition(lambda self: self.has("certificates"))
    @rule(name=NAMES, boot=st.integers(0, 2))
    def report(self, name: str, boot: int) -> None:
        for certificate in self.known[name].certificates[-1:]:
            report = status_report(board_of(self.fleet, NODES[name]).hardware, 1, boot_id=f"boot-{boot}")
            self.speak(lambda at=certificate, told=report: self.fleet.controller.joins.status(at, told), None)  # type: ignore[misc]

    @rule()
    def restart(self) -> None:
        self.fleet.store.close()
        self.fleet = self.open()

    def has(self, what: str) -> bool:
        return any(getattr(known, what) for known in self.known.values())

    def state_of(self, name: str) -> State:
        with self.fleet.store.read() as reader:
            return reader.require_node(name).state

    def pending(self, name: str) -> str | None:
        with self.fleet.store.read() as reader:
            return reader.require_node(name).pending_key

    def is_revoked(self, name: str) -> bool:
        with self.fleet.store.read() as reader:
            return reader.is_refused(name)

    def burner_of(self, name: str, ticket: str) -> str | None:
        """Hash of the key that used a ticket up, or why it is void."""
        digest = Secret(ticket).sha256
        with self.fleet.store.read() as reader:
            return next(one.used_by for one in reader.tickets(name) if one.sha256 == digest)

    def works(self, certificate: str) -> bool:
        with self.fleet.store.read() as reader:
            return reader.node_of_certificate(certificate) is not None

    def must_be_told(self, name: str, verdict: Verdict) -> None:
        timeline = timeline_view(self.fleet.store, name)
        assert timeline is not None
        words = f"{verdict.outcome.value}: {verdict.reason}"
        assert any(words in event.text for event in timeline.events), f"nothing tells of '{words}'"

    @invariant()
    def certificates_in_force_are_few_and_their_own_nodes(self) -> None:
        if not hasattr(self, "fleet"):
            return
        for name, known in self.known.items():
            working = [one for one in known.certificates if self.works(one)]
            assert len(working) <= 2
            with self.fleet.store.read() as reader:
                assert all(reader.node_of_certificate(one).name == name for one in working)  # type: ignore[union-attr]
            if known.is_revoked:
                assert not working, "a certificate of a revoked node works"

    @invariant()
    def no_node_is_in_two_minds(self) -> None:
        if not hasattr(self, "fleet"):
            return
        with self.fleet.store.read() as reader:
            for node in reader.nodes():
                if node.state in (State.JOINING, State.READY):
                    assert reader.open_intent(node.name) is None, "an enrolled node may be installed"
                if node.pending_key is not None:
                    assert not reader.is_refused(node.name, node.pending_key), "a rejected key waits"


TestEnrolment = Enrolment.TestCase
TestEnrolment.settings = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
