"""Where a card's values come from: the running server, or the state that the next one will find."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from fakes_fleet import cluster_spec, node_spec
from fakes_fleet_server import running

from bramble.node_images import open_handouts, require_node
from bramble.paths import StateLayout
from fleet.admin_client import FleetReader
from fleet.errors import FleetError
from fleet.spec.model import ClusterSpec, Role

pytestmark = pytest.mark.integration

SPEC = cluster_spec(node_spec("pi5-1", 1, role=Role.SERVER))


def with_address(spec: ClusterSpec) -> ClusterSpec:
    return replace(spec, network=replace(spec.network, server_address=IPv4Address("10.77.0.1")))


def test_values_come_from_the_running_server(tmp_path: Path) -> None:
    with running(tmp_path, SPEC), open_handouts(SPEC, StateLayout(directory=tmp_path)) as handouts:
        handout = handouts.begin("pi5-1")
        handouts.finish("pi5-1", handout.intent, image_id="a" * 40, medium="a card")
        assert len(handout.ticket.reveal()) == 64
        assert FleetReader(tmp_path).nodes()["nodes"][0]["state"] == "flashed"
        with pytest.raises(FleetError, match="no node 'pi9'"):
            handouts.begin("pi9")


def test_values_come_from_the_state_where_no_server_runs(tmp_path: Path) -> None:
    state = StateLayout(directory=tmp_path / "attic")
    with open_handouts(with_address(SPEC), state) as handouts:
        first = handouts.begin("pi5-1")
        handouts.finish("pi5-1", first.intent, image_id="a" * 40, medium="a card")
    assert state.directory.stat().st_mode & 0o777 == 0o700
    assert first.control_urls == (f"https://10.77.0.1:{SPEC.network.ports.control}",)
    with open_handouts(with_address(SPEC), state) as handouts:
        again = handouts.begin("pi5-1")
    assert (again.ca_pem, again.intent) == (first.ca_pem, first.intent + 1)


def test_unknown_node_is_named_with_the_known_ones() -> None:
    with pytest.raises(FleetError, match="no node 'pi9'"):
        require_node(SPEC, "pi9")
