"""The lane of status reports: the answers that router and middlewares give, and the same guards."""

from __future__ import annotations

import json
from asyncio.sslproto import SSLProtocol
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes_fleet import AgentKey, cluster_spec, hardware_of, node_spec, status_report
from fakes_fleet_server import Answer, Caller, Running, running

from agent.protocol import StatusAccepted
from agent.wire import MAX_BODY_BYTES, decode, encode
from fleet.api.guard import Limits
from fleet.spec.model import Role

pytestmark = pytest.mark.integration

NODE = node_spec("pi5-1", 1, role=Role.SERVER)
PATH = "/v1/node/status"
AROUND = {"Expect": "100-continue"}
"""Such a request goes the way of all others."""
BURST = 12


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path, cluster_spec(NODE), Limits(node_burst=BURST, node_per_second=0.001)) as one:
        yield one


@pytest.fixture
def node(server: Running) -> Caller:
    """A node that was enrolled, without the way there."""
    key, fleet = AgentKey(), server.fleet

    def enrol() -> str:
        with fleet.store.write() as tx:
            record = tx.require_node("pi5-1")
            issued = fleet.pki.issue_node_certificate(
                key.csr_pem, uuid=record.uuid, node="pi5-1", now=fleet.clock()
            )
            tx.update_node(record, certificate=issued.serial)
        return issued.pem

    return server.caller(server.node_context(server.in_loop(enrol), key))


def said(answer: Answer) -> tuple[int, object, object, object]:
    """Status, error, and the headers that matter."""
    body = json.loads(answer.body)
    body.pop("request_id", None)
    return answer.status, body, answer.headers.get("Content-Type"), answer.headers.get("Cache-Control")


REPORT = status_report(hardware_of(NODE), 1)
BODIES = {
    "report": encode(REPORT),
    "no JSON": b"{",
    "no UTF-8": b"\xff\xfe",
    "empty": b"",
    "a field of another type": encode(REPORT).replace(b'"sequence":1', b'"sequence":"1"'),
    "out of range": encode(REPORT).replace(b'"sequence":1', b'"sequence":-1'),
    "too large": b" " * (MAX_BODY_BYTES + 1),
    "longer than one piece of TLS": encode(REPORT).replace(b'"addresses":[]', b'"addresses":[]')
    + b" " * 50_000,
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_every_body_is_answered_alike(node: Caller, body: bytes) -> None:
    assert said(node.ask("POST", PATH, body)) == said(node.ask("POST", PATH, body, AROUND))


def test_it_is_taken_and_answered_with_the_request_s_own_id(node: Caller, server: Running) -> None:
    answer = node.ask("POST", PATH, encode(REPORT), {"X-Request-Id": "mine-1"})
    assert answer.status == 200
    assert answer.headers["X-Request-Id"] == "mine-1"
    assert decode(StatusAccepted, answer.body).interval_s > 0
    with server.fleet.store.read() as reader:
        assert reader.require_node("pi5-1").status_sequence == 1
    unsound = node.ask("POST", PATH, b"{", {"X-Request-Id": "no good\tid"})
    assert json.loads(unsound.body)["request_id"] == unsound.headers["X-Request-Id"] != "no good\tid"


def test_without_a_certificate_or_with_a_stranger_s_it_is_closed(server: Running, node: Caller) -> None:
    stranger = server.caller()
    assert said(stranger.ask("POST", PATH, encode(REPORT))) == said(
        stranger.ask("POST", PATH, encode(REPORT), AROUND)
    )
    assert stranger.ask("POST", PATH, encode(REPORT)).status == 401
    server.in_loop(lambda: server.fleet.controller.people.revoke("pi5-1"))
    assert node.ask("POST", PATH, encode(REPORT)).status == 401


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", PATH, 405), ("PUT", PATH, 405), ("POST", f"{PATH}?more=1", 400), ("POST", f"{PATH}/", 404)],
)
def test_what_is_not_exactly_a_report_is_the_router_s(
    node: Caller, method: str, path: str, status: int
) -> None:
    assert node.ask(method, path, encode(REPORT)).status == status


def test_both_ways_count_for_one_rate(node: Caller) -> None:
    for number in range(BURST):
        headers = AROUND if number % 2 else None
        assert node.ask("POST", PATH, encode(REPORT), headers).status == 200
    limited = node.ask("POST", PATH, encode(REPORT))
    assert (limited.status, limited.error) == (429, "too-many")
    assert "Retry-After" in limited.headers
    assert node.ask("POST", PATH, encode(REPORT), AROUND).status == 429
    assert node.ask("GET", "/v1/node/desired").status == 429


def test_a_connection_of_tls_keeps_no_large_buffer(server: Running) -> None:
    """asyncio's own is 256 KiB, all of it written to: 1.3 GB of 5,000 nodes."""
    assert server.port
    assert SSLProtocol.max_size <= 16 * 1024
