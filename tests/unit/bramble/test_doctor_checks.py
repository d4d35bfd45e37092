"""Each complaint of the doctor, from facts; and a healthy machine without one."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from bramble.doctor.checks import run_checks
from bramble.doctor.facts import Answered, Clock, Facts, LinkDelay, LinkFacts, PortFacts, Rights, Room, Wanted
from bramble.doctor.firewall import Ruleset, parse_iptables
from bramble.doctor.report import Check, Status, as_json, exit_code
from fleet.spec.model import DhcpMode
from pxe.dhcp.probe import HeardServer
from pxe.net.spanning_tree import Bpdu

OURS, ROUTER = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.254")
GIB = 1024**3
FREE_PORTS = tuple(
    PortFacts(protocol, number, service, None)
    for protocol, number, service in (
        ("udp", 67, "DHCP"),
        ("udp", 69, "TFTP"),
        ("tcp", 7080, "HTTP"),
        ("tcp", 7443, "control"),
    )
)
LINK = LinkFacts(name="eth0", addresses=(OURS,), known=("lo", "eth0"))
WANTED = Wanted(interface="eth0", dhcp=DhcpMode.FULL, subnet=IPv4Network("10.0.0.0/24"), server_address=OURS)
HEALTHY = Facts(
    wanted=WANTED,
    link=LINK,
    ports=FREE_PORTS,
    rights=Rights(may_bind=True, may_send_raw=True),
    clock=Clock(now=1000.0, is_synchronised=True, newest_file=990.0),
    rooms=(Room("/", 50 * GIB, 100 * GIB, 10**6),),
    firewall=Ruleset({}, ()),
    servers=(),
    listened_s=5.0,
    bpdus=(),
    answers=(Answered("TFTP", 0.001, None),),
)


def server(address: IPv4Address = ROUTER, *, gives: bool = True, boot: str = "") -> HeardServer:
    offered = IPv4Address("10.0.0.99") if gives else None
    return HeardServer(server=address, address=offered, boot_server=boot, boot_file="", after_s=0.2)


def find(facts: Facts, name: str) -> Check:
    return next(check for check in run_checks(facts) if check.id == name)


def test_a_healthy_machine_has_nothing_to_mend() -> None:
    checks = run_checks(HEALTHY)
    assert {check.status for check in checks} == {Status.OK}
    assert exit_code(checks) == 0


@pytest.mark.parametrize(
    ("change", "name", "status", "words"),
    [
        pytest.param({"exists": False}, "interface", Status.FAIL, "no network interface", id="no interface"),
        pytest.param({"is_up": False}, "interface", Status.FAIL, "switched off", id="down"),
        pytest.param({"has_carrier": False}, "interface", Status.FAIL, "no cable", id="no cable"),
        pytest.param({"is_wireless": True}, "interface", Status.WARN, "wireless", id="wireless"),
        pytest.param({"changes": 90}, "interface", Status.WARN, "90 times", id="flapping"),
        pytest.param({"is_full_duplex": False}, "speed", Status.FAIL, "half duplex", id="half duplex"),
        pytest.param({"speed_mbit": 100}, "speed", Status.WARN, "100 Mbit/s", id="slow"),
        pytest.param({"mtu": 1400}, "mtu", Status.WARN, "1400", id="small packets"),
        pytest.param({"mtu": 9000}, "mtu", Status.OK, "9000", id="jumbo frames"),
        pytest.param({"addresses": ()}, "address", Status.FAIL, "no IPv4 address", id="no address"),
        pytest.param({"addresses": (ROUTER,)}, "address", Status.FAIL, "server_address", id="other address"),
    ],
)
def test_links(change: dict[str, object], name: str, status: Status, words: str) -> None:
    check = find(replace(HEALTHY, link=replace(LINK, **change)), name)  # type: ignore[arg-type]
    assert check.status is status
    assert words in check.text


def test_an_address_outside_of_the_subnet() -> None:
    wanted = replace(WANTED, subnet=IPv4Network("10.9.0.0/24"), server_address=None)
    assert find(replace(HEALTHY, wanted=wanted), "address").status is Status.FAIL


def test_a_port_that_another_program_has() -> None:
    taken = replace(FREE_PORTS[0], holder="dnsmasq (pid 812)")
    check = find(replace(HEALTHY, ports=(taken, *FREE_PORTS[1:])), "ports")
    assert check.status is Status.FAIL
    assert "dnsmasq (pid 812)" in check.text


def test_ports_of_the_running_server_are_no_problem() -> None:
    ours = tuple(replace(port, holder="bramble (pid 7)", is_ours=True) for port in FREE_PORTS)
    assert find(replace(HEALTHY, ports=ours), "ports").status is Status.OK


@pytest.mark.parametrize(
    ("rights", "status"),
    [
        (Rights(may_bind=False, may_send_raw=False), Status.WARN),
        (Rights(may_bind=False, may_send_raw=False, lowest_port=0), Status.OK),
        (Rights(may_bind=True, may_send_raw=False), Status.OK),
    ],
)
def test_rights(rights: Rights, status: Status) -> None:
    assert find(replace(HEALTHY, rights=rights), "rights").status is status


@pytest.mark.parametrize(
    ("mode", "servers", "status", "words"),
    [
        (DhcpMode.FULL, (server(),), Status.FAIL, "'dhcp: full'"),
        (DhcpMode.FULL, (server(OURS),), Status.OK, "no other"),
        (DhcpMode.PROXY, (), Status.FAIL, "'dhcp: proxy'"),
        (DhcpMode.PROXY, (server(gives=False),), Status.FAIL, "'dhcp: proxy'"),
        (DhcpMode.PROXY, (server(),), Status.OK, "as expected"),
        (DhcpMode.PROXY, (server(boot=str(OURS)),), Status.OK, "as expected"),
        (DhcpMode.PROXY, (server(boot="10.0.0.7"),), Status.FAIL, "somewhere else"),
        (DhcpMode.PROXY, (server(), server(ROUTER + 1)), Status.WARN, "2 DHCP servers"),
        (DhcpMode.OFF, (server(),), Status.OK, "offers 10.0.0.99"),
        (None, (), Status.OK, "no other"),
    ],
)
def test_other_servers(
    mode: DhcpMode | None, servers: tuple[HeardServer, ...], status: Status, words: str
) -> None:
    check = find(replace(HEALTHY, wanted=replace(WANTED, dhcp=mode), servers=servers), "dhcp-servers")
    assert check.status is status
    assert words in check.text


@pytest.mark.parametrize(("version", "name"), [(0, "STP"), (2, "RSTP"), (3, "MSTP"), (9, "version 9")])
def test_spanning_tree(version: int, name: str) -> None:
    check = find(replace(HEALTHY, bpdus=(Bpdu(version, 15.0),)), "spanning-tree")
    assert check.status is Status.WARN
    assert name in check.text
    assert "waits 30 s" in check.text
    assert "portfast" in check.mend


@pytest.mark.parametrize(
    ("clock", "status"),
    [
        (Clock(now=0.0, is_synchronised=True, newest_file=1e9), Status.FAIL),
        (Clock(now=1e9, is_synchronised=False), Status.WARN),
    ],
)
def test_clocks(clock: Clock, status: Status) -> None:
    assert find(replace(HEALTHY, clock=clock), "clock").status is status


@pytest.mark.parametrize(
    ("room", "status"),
    [
        (Room("/", 100 * 1024**2, GIB), Status.FAIL),
        (Room("/", 50 * GIB, 100 * GIB, 3), Status.FAIL),
        (Room("/", 2 * GIB, 100 * GIB), Status.WARN),
        (Room("/", 50 * GIB, 100 * GIB), Status.OK),
    ],
)
def test_rooms(room: Room, status: Status) -> None:
    assert find(replace(HEALTHY, rooms=(room,)), "disk").status is status


@pytest.mark.parametrize(
    ("delay", "status", "words"),
    [
        (LinkDelay(30.2, 50.0), Status.WARN, "30.2 s after link-up"),
        (LinkDelay(0.1, 50.0), Status.OK, "0.1 s"),
        (LinkDelay(None, 50.0), Status.WARN, "nothing came"),
        (LinkDelay(None, 0.0, "port 68 is taken"), Status.SKIP, "port 68"),
    ],
)
def test_link_delays(delay: LinkDelay, status: Status, words: str) -> None:
    check = find(replace(HEALTHY, link_delay=delay), "link-delay")
    assert check.status is status
    assert words in check.text


def test_a_server_that_does_not_answer() -> None:
    answers = (Answered("TFTP", 3.0, "timed out"), Answered("HTTP", 0.0, None))
    check = find(replace(HEALTHY, answers=answers), "server")
    assert check.status is Status.FAIL
    assert "TFTP does not answer: timed out" in check.text


def test_what_needs_root_is_skipped_and_says_so() -> None:
    facts = replace(
        HEALTHY,
        firewall=None,
        firewall_problem="not allowed",
        servers=None,
        servers_problem="port 68",
        bpdus=None,
        bpdus_problem="raw",
        answers=None,
    )
    skipped = {check.id: check.mend for check in run_checks(facts) if check.status is Status.SKIP}
    assert skipped.keys() == {"firewall", "dhcp-servers", "spanning-tree", "server"}
    assert all(skipped.values())
    assert exit_code(run_checks(facts)) == 0
    quiet = {check.id: check.mend for check in run_checks(replace(facts, listened_s=0.0))}
    assert "'--listen 0'" in quiet["dhcp-servers"]
    assert quiet["dhcp-servers"] == quiet["spanning-tree"]


def test_a_firewall_that_drops_is_named_with_its_rule() -> None:
    rules = parse_iptables("*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp --dport 22 -j ACCEPT\nCOMMIT\n")
    check = find(replace(HEALTHY, firewall=rules), "firewall")
    assert check.status is Status.FAIL
    assert len(check.evidence) == 4
    assert "67/udp" in check.mend


def test_results_as_json() -> None:
    values = as_json(run_checks(replace(HEALTHY, servers=(server(),))))
    (complaint,) = [value for value in values if value["status"] == "fail"]
    assert complaint["id"] == "dhcp-servers"
    assert complaint["evidence"] == ["10.0.0.254 offers 10.0.0.99 after 0.2 s"]


def test_a_complaint_has_a_mend() -> None:
    with pytest.raises(ValueError, match="helps nobody"):
        Check(id="x", status=Status.FAIL, text="broken")
