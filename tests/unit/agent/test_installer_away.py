"""The installer while others are away: its address without a DHCP server, its last word without a server."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from agent_images import HARDWARE

from agent import network
from agent.client import ControlClient, PinMismatch, PinnedTrust, Unreachable
from agent.dhcp import Lease
from agent.errors import AgentError
from agent.installer.session import COMPLETE_PATIENCE_S, InstallSession
from agent.protocol import InstallComplete

COMPLETE = InstallComplete(1, "cafe", "/dev/nvme0n1", 1, 1, 1.0)


class Router:
    """Gives addresses with this lease time, as long as it is there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, lease_s: int) -> None:
        self.lease_s, self.address, self.is_away = lease_s, IPv4Address("10.0.0.7"), False
        self.asked = 0
        self.configured: list[IPv4Address] = []
        monkeypatch.setattr(network, "acquire_lease", self._acquire)
        monkeypatch.setattr(network, "configure", lambda _name, lease: self.configured.append(lease.address))

    def _acquire(self, _interface: str, _mac: str, _xid: int, *, timeout_s: float) -> Lease:
        self.asked += 1
        if self.is_away:
            raise AgentError(f"no DHCP server within {timeout_s:g} s")
        return Lease(
            address=self.address,
            netmask=IPv4Address("255.255.255.0"),
            router=None,
            server=IPv4Address("10.0.0.1"),
            lease_s=self.lease_s,
        )


def test_address_is_kept_over_its_half_time_and_over_a_router_that_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    router, now, said = Router(monkeypatch, 600), [0.0], list[str]()
    connection = network.Connection("eth0", "2c:cf:67:12:34:56", clock=lambda: now[0], say=said.append)
    connection.refresh(1)
    for now[0] in (1.0, 100.0, 299.0):
        connection.keep(2)
    assert router.asked == 1
    router.is_away = True
    for now[0] in (300.0, 301.0, 359.0, 360.0):
        connection.keep(2)
    assert router.asked == 3, "not with every chunk"
    assert said[0].endswith("10.0.0.7 stays in use")
    router.is_away, router.address = False, IPv4Address("10.0.0.8")
    now[0] = 420.0
    connection.keep(2)
    assert router.configured[-1] == IPv4Address("10.0.0.8")
    assert said[-1] == "eth0 has 10.0.0.8 now, before it was 10.0.0.7"
    now[0] = 719.0
    connection.keep(2)
    assert router.asked == 4


@pytest.mark.parametrize("lease_s", [0, 1, 10])
def test_lease_of_no_length_is_not_asked_for_all_the_time(
    monkeypatch: pytest.MonkeyPatch, lease_s: int
) -> None:
    router, now = Router(monkeypatch, lease_s), [0.0]
    connection = network.Connection("eth0", "2c:cf:67:12:34:56", clock=lambda: now[0])
    connection.refresh(1)
    for second in range(59):
        now[0] = float(second)
        connection.keep(2)
    assert router.asked == 1


class Away(ControlClient):
    """A control server that answers in none of its calls."""

    def __init__(self, fault: AgentError) -> None:
        super().__init__(("https://10.0.0.1",), PinnedTrust("00" * 32))
        self._fault = fault

    def send(self, path: str, message: object) -> None:
        raise self._fault


@pytest.mark.parametrize("fault", [Unreachable("nobody there"), PinMismatch("another certificate")])
def test_complete_disk_is_booted_whatever_the_server_says_to_it(fault: AgentError) -> None:
    now, said, looked = [0.0], list[str](), list[float]()

    def sleep(seconds: float) -> None:
        now[0] += seconds

    session = InstallSession(
        Away(fault),
        HARDWARE,
        intent=1,
        boot_id="boot-1",
        say=said.append,
        sleep=sleep,
        clock=lambda: now[0],
        keep_address=lambda: looked.append(now[0]),
    )
    session.complete(COMPLETE)
    assert said[-1] == f"the server could not be told that the install is complete: {fault.message}"
    if isinstance(fault, Unreachable):
        assert COMPLETE_PATIENCE_S - 30 < now[0] < COMPLETE_PATIENCE_S
        assert len(looked) > 20, "its lease may end meanwhile"
