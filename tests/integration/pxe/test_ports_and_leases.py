"""Ports that can not be had, explained; and a lease file whose writer is killed."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from fleet.spec.model import DhcpMode
from pxe.errors import PxeError
from pxe.net.interfaces import require_interface
from pxe.net.lease_store import LeaseStore
from pxe.net.ports import bind_tcp, bind_udp, explain_bind_error
from pxe.server import PxeConfig, PxeServer

pytestmark = pytest.mark.integration

LOOPBACK = IPv4Address("127.0.0.1")

WRITER = """
import sys
from ipaddress import IPv4Address
from pathlib import Path
from fleet.boards import MacAddress
from pxe.dhcp.leases import Lease, LeaseState
from pxe.net.lease_store import LeaseStore

store = LeaseStore(Path(sys.argv[1]))
number = 0
while True:
    address = IPv4Address(f"10.0.{number // 250}.{number % 250 + 1}")
    mac = MacAddress(b"\\x02" + number.to_bytes(5, "big"))
    store.append([Lease(address=address, mac=mac, state=LeaseState.BOUND, expires=2e9)])
    print(address, flush=True)  # only now may the client be told
    number += 1
"""


@pytest.mark.parametrize("round_number", range(3))
def test_no_lease_that_a_client_was_told_is_lost_by_a_kill(tmp_path: Path, round_number: int) -> None:
    path = tmp_path / "leases.jsonl"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert writer.stdout is not None
    told = [writer.stdout.readline().strip() for _ in range(20 + 13 * round_number)]
    writer.send_signal(signal.SIGKILL)
    told += writer.stdout.read().split()
    writer.wait()
    writer.stdout.close()
    with LeaseStore(path) as store:
        assert set(told) <= {str(lease.address) for lease in store.leases}
        assert store.corrupt_lines <= 1


def test_a_port_in_use_is_explained_with_its_holder() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind((str(LOOPBACK), 0))
        port = holder.getsockname()[1]
        with pytest.raises(PxeError) as caught:
            bind_udp(LOOPBACK, port, "TFTP", interface=None)
    assert f"udp port {port}" in caught.value.message
    assert f"(pid {os.getpid()})" in caught.value.message
    assert caught.value.hint


def test_a_tcp_port_in_use_is_explained_too() -> None:
    with (
        bind_tcp(LOOPBACK, 0, "HTTP content") as holder,
        pytest.raises(PxeError, match=f"pid {os.getpid()}"),
    ):
        bind_tcp(LOOPBACK, holder.getsockname()[1], "HTTP content")


def test_a_foreign_address_is_explained() -> None:
    with pytest.raises(PxeError, match="not an address of this machine"):
        bind_udp(IPv4Address("192.0.2.1"), 0, "TFTP", interface=None)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_missing_right_is_explained_with_the_ways_to_get_it(number: int) -> None:
    error = explain_bind_error(OSError(number, "denied"), LOOPBACK, 69, "TFTP", "udp")
    assert "TFTP can not listen on udp port 69" in error.message
    for way in ("sudo", "setcap 'cap_net_bind_service,cap_net_raw=+ep'", "AmbientCapabilities"):
        assert way.replace("'", "") in error.hint.replace("'", "")


def test_interfaces_are_named_when_one_is_missing() -> None:
    with pytest.raises(PxeError, match=r"this machine has .*lo"):
        require_interface("nope0")
    loopback = require_interface("lo")
    assert loopback.address == LOOPBACK
    assert loopback.mtu >= 1500


def test_nothing_stays_bound_when_one_port_is_taken(tmp_path: Path) -> None:
    with bind_tcp(LOOPBACK, 0, "test") as holder, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind((str(LOOPBACK), 0))
        tftp_port = free.getsockname()[1]
        free.close()
        config = PxeConfig(
            server_address=LOOPBACK,
            subnet=IPv4Network("127.0.0.0/8"),
            dhcp=DhcpMode.OFF,
            state_dir=tmp_path,
            tftp_port=tftp_port,
            http_port=holder.getsockname()[1],
        )
        with pytest.raises(PxeError, match="HTTP content"):
            PxeServer(config, lambda _event: None).bind()
        bind_udp(LOOPBACK, tftp_port, "TFTP", interface=None).close()
