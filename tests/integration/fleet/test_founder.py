"""Exactly one server ever founds the cluster: several controllers on one store, all at once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from fakes_fleet import Clock, Fleet, cluster_spec, node_spec, open_fleet
from fleet_story import enrol, install, kube_ready
from postgres_server import PostgresServer

from fleet.join.founding import FOUNDED, FOUNDER, founded_for
from fleet.spec.model import Role
from fleet.store.records import NodeRecord

pytestmark = pytest.mark.integration

SERVERS = [node_spec(f"s{number}", number, role=Role.SERVER) for number in range(1, 6)]
TIMEOUT_S = 60.0


def test_servers_that_ask_different_controllers_at_once_found_one_cluster(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = postgres.new_database()
    monkeypatch.setattr("fakes_fleet.store_place", lambda _state: place)
    clock = Clock()
    fleets = [open_fleet(tmp_path, cluster_spec(*SERVERS), clock) for _ in range(3)]
    try:
        for node in SERVERS:
            install(fleets[0], node)
        certificates = {node.name: enrol(fleets[0], node) for node in SERVERS}
        allowed: list[str] = []
        gate = threading.Barrier(len(SERVERS) * len(fleets))

        def ask(fleet: Fleet, name: str) -> None:
            gate.wait(TIMEOUT_S)
            if fleet.controller.joins.desired(certificates[name]).join:
                allowed.append(name)

        threads = [
            threading.Thread(target=ask, args=(fleet, node.name)) for fleet in fleets for node in SERVERS
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_S)
        (founder,) = set(allowed)
        with fleets[0].store.read() as reader:
            assert reader.value(FOUNDER) == founder
            assert [node.name for node in reader.nodes() if node.join_allowed] == [founder]
        material = [fleet.controller.joins.join_material(certificates[founder]) for fleet in fleets]
        assert len({str([(file.path, file.content) for file in one.files]) for one in material}) == 1
        first = next(node for node in SERVERS if node.name == founder)
        fleets[1].controller.watch.apply_kubernetes(kube_ready(first))
        with fleets[2].store.read() as reader:
            assert reader.value(FOUNDED) == founder
            assert founded_for(reader, clock()) == 0.0
        for fleet in fleets:
            assert not fleet.controller.joins.founds(fleet_record(fleet, founder))
    finally:
        for fleet in fleets:
            fleet.store.close()


def fleet_record(fleet: Fleet, name: str) -> NodeRecord:
    with fleet.store.read() as reader:
        return reader.require_node(name)
