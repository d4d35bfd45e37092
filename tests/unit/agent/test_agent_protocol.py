"""The codec of the wire protocol: round trips, and errors that name the field."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import pytest
from agent_images import HARDWARE
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.protocol import (
    Health,
    Hello,
    K3sState,
    Problem,
    Stage,
    Status,
    Welcome,
    ticket_proof,
    transcript_hash,
)
from agent.wire import MAX_BODY_BYTES, ProtocolError, decode, encode

HELLO = Hello(
    protocol=1,
    stage=Stage.AGENT,
    hardware=HARDWARE,
    boot_id="b",
    key_sha256="ab" * 32,
    client_nonce="cd" * 32,
)
WELCOME = Welcome(session="s", server_nonce="00" * 32, server_time=1.5)
STATUS = Status(
    sequence=1,
    boot_id="b",
    hardware=HARDWARE,
    health=Health(1.0, 0.5, 1, 2, True, pressure_some_avg10={"cpu": 0.5}),
    addresses=("10.0.0.1",),
    k3s=K3sState.STARTING,
    problems=(Problem("clock", "m", "h"),),
)


@pytest.mark.parametrize("message", [HELLO, WELCOME, STATUS], ids=lambda message: type(message).__name__)
def test_messages_survive_the_wire(message: object) -> None:
    assert decode(type(message), encode(message)) == message


def test_encoding_is_canonical() -> None:
    assert encode(WELCOME) == b'{"server_nonce":"' + b"00" * 32 + b'","server_time":1.5,"session":"s"}'


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"protocol": "1"}, "Hello.protocol: expected int, got str"),
        ({"protocol": True}, "Hello.protocol: expected int, got bool"),
        ({"stage": "boss"}, "Hello.stage: 'boss' is none of installer, agent"),
        ({"extra": 1}, "unknown field 'extra'"),
        ({"hardware": []}, "Hello.hardware: expected an object"),
        ({"hardware": {"serial": "x"}}, "field 'model' is missing"),
    ],
)
def test_wrong_fields_are_named(change: dict[str, object], complaint: str) -> None:
    body = json.dumps({**json.loads(encode(HELLO)), **change}).encode()
    with pytest.raises(ProtocolError, match=complaint):
        decode(Hello, body)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_json_number_is_refused(number: str) -> None:
    body = f'{{"session": "s", "server_nonce": "n", "server_time": {number}}}'.encode()
    with pytest.raises(ProtocolError, match="no JSON number"):
        decode(Welcome, body)


def test_large_bodies_are_not_parsed() -> None:
    with pytest.raises(ProtocolError, match="the limit is"):
        decode(Welcome, b" " * (MAX_BODY_BYTES + 1))


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(max_size=8), st.lists, max_leaves=8).map(
        lambda value: json.dumps(value).encode()
    )
)
@settings(max_examples=60)
def test_any_body_is_a_message_or_a_protocol_error(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(Status, body)


def test_ticket_proof_binds_both_nonces_and_the_key() -> None:

    ticket = "5a" * 32
    proofs = {
        ticket_proof(ticket, HELLO, WELCOME),
        ticket_proof("5b" * 32, HELLO, WELCOME),
        ticket_proof(ticket, dataclasses.replace(HELLO, client_nonce="ce" * 32), WELCOME),
        ticket_proof(ticket, dataclasses.replace(HELLO, key_sha256="ac" * 32), WELCOME),
        ticket_proof(ticket, HELLO, dataclasses.replace(WELCOME, server_nonce="01" * 32)),
    }
    assert len(proofs) == 5


def test_hello_without_a_boot_argument_is_that_of_agents_which_do_not_know_it() -> None:
    """An older server takes it, and both sides hash the same."""
    said = json.loads(encode(HELLO))
    assert "boot_arg1" not in said
    older = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
    assert transcript_hash(HELLO, WELCOME) == hashlib.sha256(older + b"\0" + encode(WELCOME)).digest()
    told = dataclasses.replace(HELLO, boot_arg1=7)
    assert decode(Hello, encode(told)) == told
    assert transcript_hash(told, WELCOME) != transcript_hash(HELLO, WELCOME)
