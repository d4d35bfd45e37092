"""What a caller that nobody knows yet can do to the control API: too often, too much, too late, once more."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from fakes_device import board_of
from fakes_fleet import AgentKey, agent_hello, cluster_spec, hardware_of, installer_hello, node_spec
from fakes_fleet_server import TIMEOUT_S, Running, running

from agent.protocol import Hello, Outcome, Proof, ProofKind, Verdict, Welcome, ticket_proof
from agent.wire import decode, encode
from fleet.admission.reception import RETRY_AFTER_S
from fleet.api.control import MAX_ANONYMOUS_BODY_BYTES, SERIAL_BURST
from fleet.lifecycle import State
from fleet.sessions import MAX_SESSIONS, SESSION_TTL_S
from fleet.spec.model import Role

pytestmark = pytest.mark.integration

SERVER = node_spec("pi5-1", 1, role=Role.SERVER)
AGENT = node_spec("pi4-1", 2)
KEY = b"installer session key of 32 bytes"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """Nobody gets a second burst, however long the test takes."""
    monkeypatch.setattr("fleet.api.control.SERIAL_PER_SECOND", 1e-6)
    monkeypatch.setattr("fleet.api.control.ANONYMOUS_PER_SECOND", 1e-6)
    with running(tmp_path, cluster_spec(SERVER, AGENT)) as one:
        yield one


def post_from(server: Running, source: str, body: bytes) -> int:
    """Status of a hello that comes from another address of this machine."""
    connection = http.client.HTTPSConnection(
        "127.0.0.1",
        server.port,
        context=ssl._create_unverified_context(),
        timeout=TIMEOUT_S,
        source_address=(source, 0),
    )
    try:
        connection.request("POST", "/v1/hello", body)
        return connection.getresponse().status
    finally:
        connection.close()


def test_one_serial_is_asked_for_in_vain_from_many_addresses_and_others_go_on(server: Running) -> None:
    claimed = encode(installer_hello(hardware_of(SERVER), KEY))
    other_spelling = claimed.replace(b'"10000000abcd0001"', b'"10000000ABCD0001"')
    assert other_spelling != claimed
    answers = [
        post_from(server, f"127.0.1.{number % 10 + 1}", other_spelling if number % 2 else claimed)
        for number in range(SERIAL_BURST + 15)
    ]
    assert answers == [200] * SERIAL_BURST + [429] * 15
    assert post_from(server, "127.0.2.1", encode(installer_hello(hardware_of(AGENT), KEY))) == 200


@pytest.mark.parametrize("path", ["/v1/hello", "/v1/prove"])
def test_anonymous_body_above_its_limit_is_refused(server: Running, path: str) -> None:
    answer = server.caller().ask("POST", path, b" " * (MAX_ANONYMOUS_BODY_BYTES + 1))
    assert (answer.status, answer.error) == (413, "too-large")
    assert server.caller().ask("POST", path, b" " * 100).status == 400


def test_largest_honest_messages_are_far_below_the_limit() -> None:
    hardware = hardware_of(SERVER)
    macs = tuple(f"2c:cf:67:00:00:{number:02x}" for number in range(16))
    hello = Hello(
        1, agent_hello(hardware, AgentKey()).stage, hardware, "b" * 64, "a" * 64, "c" * 64, 1, "d" * 64
    )
    assert len(encode(hello)) + len(json.dumps(macs)) < MAX_ANONYMOUS_BODY_BYTES / 4
    assert len(encode(Proof("s" * 32, ProofKind.TICKET, "a" * 64, AgentKey().csr_pem))) < 4096


def recorded_ticket_proof(server: Running) -> tuple[Proof, Verdict]:
    """An honest enrolment over TLS, as somebody who could read it would have it."""
    board = board_of(server.fleet, AGENT)
    verdict: Verdict = server.in_loop(board.install)
    assert verdict.token is not None
    server.in_loop(lambda: server.fleet.controller.installs.plan(verdict.token or ""))
    ticket = server.fleet.images.tickets["pi4-1"][-1].reveal()
    caller, key = server.caller(), AgentKey()
    hello = agent_hello(hardware_of(AGENT), key)
    welcome = decode(Welcome, caller.post("/v1/hello", hello).body)
    proof = Proof(welcome.session, ProofKind.TICKET, ticket_proof(ticket, hello, welcome), key.csr_pem)
    return proof, decode(Verdict, caller.post("/v1/prove", proof).body)


def test_replay_of_an_old_prove_is_refused_in_its_session_and_in_another(server: Running) -> None:
    proof, verdict = recorded_ticket_proof(server)
    assert verdict.outcome is Outcome.ENROLLED
    again = server.caller().post("/v1/prove", proof)
    assert (again.status, again.error) == (409, "session")
    key = AgentKey()
    welcome = decode(Welcome, server.caller().post("/v1/hello", agent_hello(hardware_of(AGENT), key)).body)
    moved = Proof(welcome.session, proof.kind, proof.value, key.csr_pem)
    rejected = decode(Verdict, server.caller().post("/v1/prove", moved).body)
    assert (rejected.outcome, rejected.certificate_pem) == (Outcome.REJECTED, None)
    stolen_request = Proof(welcome.session, proof.kind, proof.value, proof.csr_pem)
    assert server.caller().post("/v1/prove", stolen_request).status == 409


def test_replayed_request_under_a_hello_of_its_own_proves_nothing(server: Running) -> None:
    """Who replays hello and prove with a key that it does not hold gets a certificate that it cannot use."""
    proof, _verdict = recorded_ticket_proof(server)
    key = AgentKey()
    hello = agent_hello(hardware_of(AGENT), key)
    welcome = decode(Welcome, server.caller().post("/v1/hello", hello).body)
    mixed = Proof(welcome.session, ProofKind.TICKET, proof.value, proof.csr_pem)
    verdict = decode(Verdict, server.caller().post("/v1/prove", mixed).body)
    assert verdict.outcome is Outcome.REJECTED
    assert "another key than the hello" in verdict.reason


def test_session_ends_with_its_time(server: Running) -> None:
    welcome = decode(
        Welcome, server.caller().post("/v1/hello", installer_hello(hardware_of(AGENT), KEY)).body
    )
    server.fleet.clock.advance(SESSION_TTL_S + 1)
    late = server.caller().post("/v1/prove", Proof(welcome.session, ProofKind.NONE, installer_key=KEY.hex()))
    assert (late.status, late.error) == (409, "session")
    assert RETRY_AFTER_S < SESSION_TTL_S / 10


def test_flood_of_sessions_keeps_memory_bounded_and_the_newest_caller_served(server: Running) -> None:
    admission = server.fleet.controller.admission

    def flood() -> Verdict:
        for _ in range(MAX_SESSIONS + 50):
            admission.hello(installer_hello(hardware_of(SERVER), KEY))
        welcome = admission.hello(installer_hello(hardware_of(AGENT), KEY))
        assert len(admission._sessions._sessions) <= MAX_SESSIONS
        return admission.prove(Proof(welcome.session, ProofKind.NONE, installer_key=KEY.hex()), None)

    verdict: Verdict = server.in_loop(flood)
    assert verdict.outcome is Outcome.ADMITTED


def test_certificate_names_the_uuid_and_the_board_and_never_the_host_name(server: Running) -> None:
    _proof, verdict = recorded_ticket_proof(server)
    assert verdict.certificate_pem is not None
    certificate = x509.load_pem_x509_certificate(verdict.certificate_pem.encode())
    with server.fleet.store.read() as reader:
        node = reader.require_node("pi4-1")
    assert node.state is State.JOINING
    assert certificate.subject.rfc4514_string() == f"CN={node.uuid}"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    assert uris == ["bramble:node/pi4-1", f"bramble:board/{node.serial}"]
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert life.days == 7
