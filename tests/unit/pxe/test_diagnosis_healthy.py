"""A board that boots gets no diagnosis: a false alarm costs an evening as surely as silence does."""

from __future__ import annotations

import pytest
from fakes_diagnosis import ADDRESS, PI5, PROFILES, Bench, Profile

from fleet.spec.model import DhcpMode
from pxe.events import BootFileProbed, RestartExpected, TransferFailed

BOTH_MODES = pytest.mark.parametrize("dhcp", [DhcpMode.FULL, DhcpMode.PROXY], ids=str)
EVERY_PROFILE = pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)


@BOTH_MODES
@EVERY_PROFILE
def test_installation_and_first_boot_from_disk(profile: Profile, dhcp: DhcpMode) -> None:
    bench = Bench(dhcp=dhcp, profile=profile)
    bench.install()
    bench.see(RestartExpected(at=bench.now, board=bench.board, node="one"))
    bench.wait(13)
    bench.boot_from_disk()
    assert bench.rules == set()


@EVERY_PROFILE
def test_five_power_cycles_of_an_installed_board(profile: Profile) -> None:
    bench = Bench(profile=profile)
    for _ in range(5):
        bench.boot_from_disk()
    assert bench.rules == set()


def test_one_lost_request_and_an_early_termination_are_daily_business() -> None:
    bench = Bench()
    bench.discover(4.0)
    bench.offer()
    bench.discover(4.0)
    for _ in range(6):
        bench.see(
            BootFileProbed(at=bench.now, board=bench.board, node="one", name="config.txt", size_bytes=9)
        )
    bench.install()
    assert bench.rules == set()


def test_a_power_cut_in_the_middle_of_the_boot_and_another_attempt() -> None:
    bench = Bench()
    bench.take_address()
    bench.read_all(PI5.files[:3])
    bench.progress("kernel_2712.img", 2_000_000, 9_800_000, 5)
    bench.see(
        TransferFailed(
            at=bench.now,
            board=bench.board,
            node="one",
            name="kernel_2712.img",
            sent_bytes=2_000_000,
            size_bytes=9_800_000,
            reason="no answer",
        )
    )
    bench.wait(10)
    bench.install()
    assert bench.rules == set()


def test_a_board_that_waits_for_approval_for_an_hour_is_no_loop() -> None:
    bench = Bench()
    bench.take_address()
    bench.read_all()
    bench.wait(3600)
    assert bench.rules == set()


def test_two_failed_installations_are_not_yet_a_loop() -> None:
    bench = Bench()
    for _ in range(2):
        bench.take_address()
        bench.read_all()
        bench.wait(60)
    assert bench.rules == set()


def test_the_address_of_bootloader_and_system_may_be_the_same() -> None:
    bench = Bench()
    bench.ack(ADDRESS)
    bench.ack(ADDRESS, boots=False)
    bench.wait(30)
    assert bench.rules == set()


def test_a_large_file_that_goes_on_after_the_last_block_number() -> None:
    bench = Bench()
    bench.take_address()
    bench.read("boot.img", 65_535 * 1468 + 5_000_000, rate=8_000_000)
    assert bench.rules == set()
