"""Connections of nodes between their reports: the first ones are kept, the others connect anew."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from fakes_fleet import AgentKey, cluster_spec, hardware_of, node_spec, status_report
from fakes_fleet_server import TIMEOUT_S, Running, running

from agent.client import AuthorityTrust, ControlClient, Refused
from agent.protocol import StatusAccepted
from fleet.api.guard import Limits
from fleet.spec.model import NodeSpec, Role

pytestmark = pytest.mark.integration

PATH = "/v1/node/status"
SERVER, AGENT = node_spec("pi5-1", 1, role=Role.SERVER), node_spec("pi4-1", 2)
NUMBERS = count(1)


class Node:
    """A node that was enrolled without the way there, with the agent's own client."""

    def __init__(self, server: Running, spec: NodeSpec) -> None:
        self._spec = spec
        key, name = AgentKey(), spec.name

        def enrol() -> str:
            with server.fleet.store.write() as tx:
                record = tx.require_node(name)
                issued = server.fleet.pki.issue_node_certificate(
                    key.csr_pem, uuid=record.uuid, node=name, now=server.fleet.clock()
                )
                tx.update_node(record, certificate=issued.serial)
            return issued.pem

        certificate, private = server.state / f"{name}.crt", server.state / f"{name}.key"
        certificate.write_text(server.in_loop(enrol))
        private.write_bytes(key.key_pem)
        trust = AuthorityTrust(ca_pem=server.fleet.pki.ca_pem, certificate=certificate, key=private)
        self.client = ControlClient((f"https://127.0.0.1:{server.port}",), trust)
        self.connect = MagicMock(wraps=self.client._connect)
        self.client._connect = self.connect  # type: ignore[method-assign]

    def report(self) -> StatusAccepted:
        return self.client.post(
            PATH, replace(status_report(hardware_of(self._spec), 1), sequence=next(NUMBERS)), StatusAccepted
        )


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr("fleet.api.silence.KEPT_CONNECTIONS", 1)
    monkeypatch.setattr("fleet.api.silence.LOOK_EVERY_S", 0.05)
    limits = Limits(node_burst=10_000, node_per_second=10_000.0)
    with running(tmp_path, cluster_spec(SERVER, AGENT), limits) as one:
        yield one


@pytest.fixture
def nodes(server: Running) -> Iterator[tuple[Node, Node]]:
    first, second = Node(server, SERVER), Node(server, AGENT)
    with closing(first.client), closing(second.client):
        yield first, second


def test_a_node_beyond_the_kept_ones_connects_anew_for_each_report(nodes: tuple[Node, Node]) -> None:
    first, second = nodes
    for _ in range(3):
        assert first.report().interval_s == second.report().interval_s
    assert (first.connect.call_count, second.connect.call_count) == (1, 3)
    assert second.client._connection is None


def test_the_place_of_a_node_that_went_is_another_s(nodes: tuple[Node, Node]) -> None:
    first, second = nodes
    first.report()
    first.client.close()
    deadline = time.monotonic() + TIMEOUT_S
    while second.client._connection is None:
        assert time.monotonic() < deadline
        second.report()
    connected = second.connect.call_count
    second.report()
    assert second.connect.call_count == connected


def test_only_a_report_ends_with_its_connection(nodes: tuple[Node, Node]) -> None:
    first, second = nodes
    first.report()
    for _ in range(2):
        with pytest.raises(Refused):
            second.client.get("/v1/node/eeprom", StatusAccepted)
    assert second.connect.call_count == 1


def test_a_report_that_is_refused_takes_no_place(server: Running, nodes: tuple[Node, Node]) -> None:
    first, second = nodes
    server.in_loop(lambda: server.fleet.controller.people.revoke("pi5-1"))
    with pytest.raises(Refused):
        first.report()
    for _ in range(2):
        second.report()
    assert second.connect.call_count == 1
