"""Settings for other people's DHCP servers: complete, parseable, and with this server's address."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from click.testing import CliRunner

from bramble.cli import bramble
from pxe.dhcp_guide.render import DhcpServerKind, Guide, Reservation, render_guide

GUIDE = Guide(
    cluster="attic",
    server=IPv4Address("10.0.0.5"),
    subnet=IPv4Network("10.0.0.0/24"),
    fourccs=("RPi4", "4iPR", "RPi5", "5iPR"),
    nodes=(
        Reservation(name="pi5-1", mac="2c:cf:67:00:00:01", address="10.0.0.21"),
        Reservation(name="pi5-2", mac="2c:cf:67:00:00:02", address="10.0.0.22"),
    ),
)
CLUSTER = """\
version: 1
cluster: {name: attic, domain: attic.internal, k3s: {version: v1.33.5+k3s1}}
image: {base: debian-trixie, user: {name: pi}}
network: {interface: eth0, dhcp: 'off', subnet: 10.0.0.0/24, gateway: 10.0.0.254}
nodes:
  - {name: pi5-1, board: pi5, role: server, mac: '2c:cf:67:00:00:01', address: 10.0.0.21, disk: nvme}
  - {name: pi4-1, board: pi4, role: agent, serial: 10000000d03114aa, address: 10.0.0.22, disk: sd}
"""


@pytest.mark.parametrize("kind", DhcpServerKind)
def test_every_server_is_told_the_boot_server_and_the_nodes(kind: DhcpServerKind) -> None:
    text = render_guide(kind, GUIDE)
    assert text.endswith("\n")
    assert "10.0.0.5" in text
    for node in GUIDE.nodes:
        assert node.address in text
        assert node.mac in text.lower()
        assert node.name in text


@pytest.mark.parametrize("kind", [DhcpServerKind.DNSMASQ, DhcpServerKind.ISC, DhcpServerKind.KEA])
def test_servers_that_can_tell_boards_apart_know_all_four_spellings(kind: DhcpServerKind) -> None:
    text = render_guide(kind, GUIDE)
    for spelling in GUIDE.fourccs:
        assert spelling in text or spelling.encode().hex(":") in text


def test_keas_settings_are_json() -> None:
    parsed = json.loads(render_guide(DhcpServerKind.KEA, GUIDE))["Dhcp4"]
    assert parsed["client-classes"][0]["next-server"] == "10.0.0.5"
    assert [entry["hostname"] for entry in parsed["subnet4"][0]["reservations"]] == ["pi5-1", "pi5-2"]


def test_no_server_is_told_a_menu_that_would_name_the_wrong_machine() -> None:
    for kind in DhcpServerKind:
        assert "Raspberry Pi Boot" not in render_guide(kind, GUIDE)


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.yaml"
    path.write_text(CLUSTER, "utf-8")
    return path


def test_the_command_prints_one_server_as_it_is(cluster: Path) -> None:
    words = ["settings", str(cluster), "--for", "dnsmasq", "--server", "10.0.0.5"]
    result = CliRunner().invoke(bramble, ["dhcp", *words])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("# Bramble, cluster attic")
    assert "dhcp-host=2c:cf:67:00:00:01,10.0.0.21,pi5-1\n" in result.output
    assert "pi4-1" not in result.output  # no MAC address is known


def test_the_command_prints_all_servers_as_json(cluster: Path) -> None:
    result = CliRunner().invoke(bramble, ["dhcp", "settings", str(cluster), "--server", "10.0.0.5", "--json"])
    assert result.exit_code == 0, result.output
    assert set(json.loads(result.output)) == {kind.value for kind in DhcpServerKind}


def test_a_wrong_address_is_a_usage_error(cluster: Path) -> None:
    result = CliRunner().invoke(bramble, ["dhcp", "settings", str(cluster), "--server", "10.0.0"])
    assert result.exit_code == 2
    assert "'10.0.0' is no IPv4 address" in result.output
