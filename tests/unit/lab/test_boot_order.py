from __future__ import annotations

from itertools import islice

import pytest

from fleet.boards import BootMode, DiskKind
from lab.bootloader.boot_order import (
    NET_RETRY_PAUSE_S,
    Attempt,
    RestartsUsedUpError,
    network_first,
    parse_boot_order,
    walk,
)


@pytest.mark.parametrize(
    ("value", "modes"),
    [
        (0xF12, [BootMode.NETWORK, BootMode.SD, BootMode.RESTART]),
        (0xF461, [BootMode.SD, BootMode.NVME, BootMode.USB_MSD, BootMode.RESTART]),
        (0xE2, [BootMode.NETWORK, BootMode.STOP]),
        (0xF41F2, [BootMode.NETWORK, BootMode.RESTART]),
        (0x28, [BootMode.SD, BootMode.NETWORK]),
    ],
    ids=["network-sd", "default-pi5", "stop", "restart-ends-it", "unknown-nibble-is-sd"],
)
def test_modes_are_read_from_the_least_significant_nibble(value: int, modes: list[BootMode]) -> None:
    assert list(parse_boot_order(value)) == modes


@pytest.mark.parametrize("value", [0, 0x1_0000_0000, -1])
def test_a_number_that_is_no_boot_order_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="BOOT_ORDER"):
        parse_boot_order(value)


def test_restart_begins_again_and_stop_ends() -> None:
    assert [a.mode for a in islice(walk(0xF12), 5)] == [
        *(BootMode.NETWORK, BootMode.SD),
        *(BootMode.NETWORK, BootMode.SD),
        BootMode.NETWORK,
    ]
    assert [a.mode for a in walk(0xE12)] == [BootMode.NETWORK, BootMode.SD]
    assert [a.mode for a in walk(0x12)] == [BootMode.NETWORK, BootMode.SD]


def test_an_order_without_any_device_ends_at_once() -> None:
    assert list(walk(0xF)) == []
    assert list(walk(0xE)) == []


def test_network_is_retried_after_a_pause_before_the_next_mode() -> None:
    assert list(walk(0xE12, net_boot_max_retries=2)) == [
        Attempt(BootMode.NETWORK, 0.0, 0xE1, begins_round=True),
        Attempt(BootMode.NETWORK, NET_RETRY_PAUSE_S, 0xE1),
        Attempt(BootMode.NETWORK, NET_RETRY_PAUSE_S, 0xE1),
        Attempt(BootMode.SD, 0.0, 0xE),
    ]


def test_the_card_is_retried_without_a_pause() -> None:
    assert [(a.mode, a.pause_s) for a in walk(0xE21, sd_boot_max_retries=1)] == [
        *((BootMode.SD, 0.0), (BootMode.SD, 0.0)),
        (BootMode.NETWORK, 0.0),
    ]


def test_restarts_are_counted_and_end_in_a_reset() -> None:
    attempts = walk(0xF2, max_restarts=2)
    assert [next(attempts).begins_round for _ in range(3)] == [True] * 3
    with pytest.raises(RestartsUsedUpError, match="MAX_RESTARTS is 2"):
        next(attempts)


def test_minus_one_retries_the_network_for_ever() -> None:
    attempts = list(islice(walk(0xF12, net_boot_max_retries=-1), 50))
    assert {attempt.mode for attempt in attempts} == {BootMode.NETWORK}


@pytest.mark.parametrize(
    ("disks", "value"),
    [([DiskKind.SD], 0xF12), ([DiskKind.SD, DiskKind.NVME], 0xF612), ([DiskKind.USB], 0xF42), ([], 0xF2)],
)
def test_network_first_then_the_disks_as_listed(disks: list[DiskKind], value: int) -> None:
    assert network_first(disks) == value
