"""Each problem on the way to an address is recognised by what the server sees of it."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from fakes_diagnosis import ADDRESS, ROUTER, SERVER, Bench

from fleet.boards import MacAddress
from fleet.spec.model import DhcpMode
from pxe.events import (
    AddressConflict,
    AddressDeclined,
    ContentRefused,
    DhcpNak,
    ForeignNak,
    ForeignOffer,
    ForeignServerChosen,
    NoAddressLeft,
    RestartExpected,
)


def ask_in_vain(bench: Bench, times: int = 6) -> None:
    for _ in range(times):
        bench.discover()
        bench.offer()
        bench.wait(4)


def foreign_offer(bench: Bench, **fields: object) -> ForeignOffer:
    base = ForeignOffer(
        at=bench.now,
        board=bench.board,
        node="one",
        server=ROUTER,
        source=ROUTER,
        address=IPv4Address("10.0.0.99"),
        options=(53, 54, 51, 1, 3),
        expected=bench.dhcp is not DhcpMode.FULL,
    )
    for name, value in fields.items():
        object.__setattr__(base, name, value)
    return base


def test_offers_that_nobody_takes_do_not_reach_the_board() -> None:
    bench = Bench()
    ask_in_vain(bench)
    finding = bench.finding("offers-unheard")
    assert "snooping" in finding.mend
    assert any("asks for an address" in evidence.text for evidence in finding.evidence)
    assert any("offered the address 10.0.0.21" in evidence.text for evidence in finding.evidence)


def test_proxy_mode_without_any_other_server() -> None:
    bench = Bench(dhcp=DhcpMode.PROXY)
    ask_in_vain(bench)
    assert bench.rules == {"no-address-server"}


def test_proxy_mode_with_a_server_that_was_overheard_has_another_cause() -> None:
    bench = Bench(dhcp=DhcpMode.PROXY)
    bench.see(foreign_offer(bench))
    ask_in_vain(bench)
    assert bench.rules == {"boot-offer-unheard"}
    finding = bench.finding("boot-offer-unheard")
    assert "PXE_OPTION43" in finding.mend
    assert any("offers the address 10.0.0.99" in evidence.text for evidence in finding.evidence)


def test_a_boot_offer_that_is_heard_at_the_second_request_is_no_problem() -> None:
    bench = Bench(dhcp=DhcpMode.PROXY)
    bench.see(foreign_offer(bench))
    bench.discover(4.0)
    bench.take_address()
    bench.read_all()
    bench.wait(5)
    assert bench.rules == set()


def test_proxy_mode_and_the_boot_offer_is_not_believed() -> None:
    bench = Bench(dhcp=DhcpMode.PROXY)
    bench.take_address()
    bench.wait(30)
    assert bench.rules == {"boot-offer-ignored"}
    assert "PXE_OPTION43" in bench.finding("boot-offer-ignored").mend


def take_address_in_vain(bench: Bench, times: int, pause_s: float) -> None:
    for _ in range(times):
        bench.take_address()
        bench.wait(pause_s)


@pytest.mark.parametrize("pause_s", [20, 45, 3600], ids=["same-attempt", "after-timeout", "after-a-restart"])
def test_full_mode_and_the_board_asks_another_machine_for_its_files(pause_s: float) -> None:
    bench = Bench()
    take_address_in_vain(bench, 2, pause_s)
    assert bench.rules == {"boot-offer-ignored"}
    finding = bench.finding("boot-offer-ignored")
    assert "given an address here 2 times" in finding.cause
    for word in ("TFTP_IP", "PXE_OPTION43", "port 69"):
        assert word in finding.mend
    assert any("has the address 10.0.0.21" in evidence.text for evidence in finding.evidence)


@pytest.mark.parametrize("dhcp", [DhcpMode.FULL, DhcpMode.PROXY], ids=str)
def test_a_board_that_comes_round_every_six_seconds_is_found_while_it_does(dhcp: DhcpMode) -> None:
    """Another machine says at once that it has no such file."""
    bench = Bench(dhcp=dhcp)
    take_address_in_vain(bench, 5, 6)
    assert bench.rules == {"boot-offer-ignored"}


def test_full_mode_and_one_address_without_a_file_is_a_power_cut() -> None:
    bench = Bench()
    take_address_in_vain(bench, 1, 170)
    assert bench.rules == set()
    bench.install()
    assert bench.rules == set()


def test_full_mode_and_a_request_that_was_repeated_is_one_round() -> None:
    """The ACK got lost: REQUEST comes again, within seconds and without another DISCOVER."""
    bench = Bench()
    bench.take_address()
    for _ in range(4):
        bench.wait(4)
        bench.ack()
    bench.wait(60)
    assert bench.rules == set()


def test_full_mode_and_an_operating_system_that_renews_is_no_bootloader() -> None:
    bench = Bench()
    bench.boot_from_disk()
    for _ in range(3):
        bench.wait(1800)
        bench.ack(boots=False)
    bench.wait(60)
    assert bench.rules == set()


def test_full_mode_and_http_boot_that_was_refused_did_ask_here() -> None:
    bench = Bench()
    for _ in range(2):
        bench.take_address()
        refused = ContentRefused(
            at=bench.now, board=bench.board, node="one", name="boot.sig", reason="installed"
        )
        bench.see(refused)
        bench.wait(45)
    assert "boot-offer-ignored" not in bench.rules


def test_full_mode_and_another_server_was_faster() -> None:
    bench = Bench()
    bench.discover()
    bench.offer()
    bench.see(ForeignServerChosen(at=bench.now, board=bench.board, node="one", server=ROUTER, expected=False))
    bench.wait(5)
    assert bench.rules == {"other-server-won"}
    assert str(ROUTER) in bench.finding("other-server-won").cause


def test_the_pool_is_used_up() -> None:
    bench = Bench()
    bench.see(
        NoAddressLeft(at=bench.now, board=bench.board, node=None, reason="no address of the pool is free")
    )
    bench.wait(5)
    assert bench.rules == {"no-address-left"}


def test_a_nodes_own_address_that_is_kept_from_it_is_no_matter_of_the_pool_alone() -> None:
    bench = Bench()
    bench.see(NoAddressLeft(at=bench.now, board=bench.board, node="one", reason="it rests", own=ADDRESS))
    bench.wait(5)
    finding = bench.finding("no-address-left")
    assert str(ADDRESS) in finding.cause
    assert "switch that machine off" in finding.mend


@pytest.mark.parametrize("kind", ["declined", "answered"])
def test_an_address_of_the_pool_is_in_use(kind: str) -> None:
    bench = Bench()
    if kind == "declined":
        bench.see(AddressDeclined(at=bench.now, board=bench.board, node=None, address=ADDRESS))
    else:
        holder = MacAddress.parse("02:00:00:00:00:01")
        bench.see(AddressConflict(at=bench.now, board=bench.board, node=None, address=ADDRESS, holder=holder))
    bench.wait(5)
    assert bench.rules == {"address-in-use"}


def test_refused_three_times_is_a_problem_and_once_is_none() -> None:
    bench = Bench()
    for expected in (set(), set(), {"refused-again"}):
        bench.see(
            DhcpNak(at=bench.now, board=bench.board, node="one", reason="10.9.9.9 is not in the subnet")
        )
        bench.wait(5)
        assert bench.rules == expected


def test_bootloader_and_system_with_an_address_each() -> None:
    bench = Bench()
    bench.ack(ADDRESS)
    bench.ack(ADDRESS + 1, boots=False)
    bench.wait(5)
    assert bench.rules == {"two-addresses"}
    assert len(bench.finding("two-addresses").evidence) == 2


def test_another_boot_server_is_named() -> None:
    bench = Bench(dhcp=DhcpMode.PROXY)
    bench.discover()
    bench.see(foreign_offer(bench, tftp_server="10.0.0.77"))
    bench.wait(5)
    assert "10.0.0.77" in bench.finding("foreign-boot-server").cause


def test_a_router_that_names_this_server_is_no_rival() -> None:
    bench = Bench(dhcp=DhcpMode.PROXY)
    bench.discover()
    bench.see(foreign_offer(bench, tftp_server=str(SERVER)))
    bench.wait(5)
    assert bench.rules == set()


def test_a_boot_file_name_for_pcs_does_not_help_a_board() -> None:
    bench = Bench(dhcp=DhcpMode.OFF)
    bench.discover()
    bench.see(foreign_offer(bench, boot_file="pxelinux.0"))
    bench.wait(20)
    assert "pxelinux.0" in bench.finding("foreign-boot-file").cause


def test_another_server_refuses_what_was_given() -> None:
    bench = Bench()
    bench.see(ForeignNak(at=bench.now, board=bench.board, node="one", server=ROUTER))
    bench.wait(5)
    assert bench.rules == {"foreign-refusal"}


@pytest.mark.parametrize(
    ("pause_s", "expected"), [(13, set()), (45, {"late-link"}), (400, set())], ids=["rstp", "stp", "person"]
)
def test_spanning_tree_is_told_from_the_time_that_a_restart_takes(pause_s: float, expected: set[str]) -> None:
    bench = Bench()
    bench.see(RestartExpected(at=bench.now, board=bench.board, node="one"))
    bench.wait(pause_s)
    bench.boot_from_disk()
    assert bench.rules == expected


def test_the_same_finding_is_said_once_an_hour() -> None:
    bench = Bench()
    ask_in_vain(bench, 100)
    assert [diagnosis.finding.rule for diagnosis in bench.said] == ["offers-unheard"]
    bench.wait(3600)
    ask_in_vain(bench)
    assert len(bench.said) == 2
