"""`bramble lab bootrom --interface`: the board's own MAC, DHCP and ARP on an ordinary interface."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from click.testing import CliRunner
from fakes_lab import TinyBootServer, in_private_network

from lab.cli_bootrom import bootrom
from lab.network import BRIDGE
from lab.runner import run

pytestmark = pytest.mark.integration

FILES = {
    "config.txt": b"kernel=kernel8.img\n",
    "bcm2712-rpi-5-b.dtb": b"dtb",
    "kernel8.img": bytes(100_000),
    "cmdline.txt": b"quiet",
}


def _scene() -> tuple[int, str]:
    run(["ip", "link", "add", "p0", "type", "veth", "peer", "name", "p1"])
    run(["ip", "link", "set", "p0", "master", BRIDGE, "up"])
    run(["ip", "link", "set", "p1", "up"])
    words = ["--profile", "pi5-2025", "--interface", "p1", "--no-wait", "--console", "--timeout", "30"]
    with TinyBootServer(FILES, IPv4Address("10.77.0.60")):
        done = CliRunner().invoke(bootrom, [*words, "--set", "BOOT_ORDER=0xe2"])
    return done.exit_code, done.output


def test_a_board_on_an_interface_boots_with_its_own_address() -> None:
    status, output = in_private_network(_scene)
    assert status == 0, output
    assert "DISCOVER as 2c:cf:67:00:00:01" in output
    assert "NET 10.77.0.60 255.255.255.0 gw 0.0.0.0 tftp 10.77.0.1" in output
    assert "boots kernel8.img (100,000 bytes) from NETWORK" in output
