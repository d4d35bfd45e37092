"""Waiting for the disk: nothing is written to the first that is up while another may still come."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.errors import AgentError
from agent.hardware import Disk
from agent.installer.disks import DISK_PATIENCE_S, SETTLE_LIMIT_S, SETTLE_S, NoSuchDisk, find_disk
from agent.protocol import DiskSelector

GIB = 1 << 30


def make_disk(name: str, kind: str, serial: str) -> Disk:
    return Disk(path=Path("/dev") / name, kind=kind, size_bytes=64 * GIB, model="m", serial=serial)


DATA = make_disk("sda", "usb", "DATA")
SYSTEM = make_disk("sdb", "usb", "SYSTEM")
NVME = make_disk("nvme0n1", "nvme", "N1")
CARD = make_disk("mmcblk0", "sd", "0x1")


class Board:
    """A clock that moves by sleeping, and the disks that are up at each time (seconds)."""

    def __init__(self, *views: tuple[float, Sequence[Disk]]) -> None:
        self.now = 0.0
        self._views = views
        self.said: list[str] = []

    def disks(self) -> Sequence[Disk]:
        return [disks for since, disks in self._views if since <= self.now][-1]

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def find(self, kind: str, serial: str | None = None) -> Disk:
        return find_disk(
            self.disks,
            DiskSelector(kind, serial),
            GIB,
            clock=lambda: self.now,
            sleep=self.sleep,
            say=self.said.append,
        )


@pytest.mark.parametrize("late_s", [0.5, 5.0, DISK_PATIENCE_S - 0.5])
def test_data_disk_is_not_taken_while_the_other_spins_up(late_s: float) -> None:
    board = Board((0, [DATA]), (late_s, [DATA, SYSTEM]))
    with pytest.raises(AgentError, match="2 disks match"):
        board.find("usb")
    assert board.now == late_s


def test_second_nvme_disk_within_the_settle_time_is_seen() -> None:
    second = make_disk("nvme1n1", "nvme", "N2")
    with pytest.raises(AgentError, match="2 disks match"):
        Board((0, [NVME]), (SETTLE_S - 0.5, [NVME, second])).find("nvme")


@pytest.mark.parametrize(
    ("disk", "settle_s"),
    [(DATA, DISK_PATIENCE_S), (NVME, SETTLE_S), (CARD, SETTLE_S)],
    ids=["usb", "nvme", "sd"],
)
def test_only_match_is_taken_after_its_settle_time(disk: Disk, settle_s: float) -> None:
    board = Board((0, []), (2, [disk]))
    assert board.find(disk.kind) == disk
    assert board.now == 2 + settle_s
    assert len(board.said) == 1
    assert disk.describe() in board.said[0]


def test_disk_with_its_serial_is_taken_at_once() -> None:
    board = Board((0, [DATA]), (4, [DATA, SYSTEM]))
    assert board.find("usb", "system") == SYSTEM
    assert board.now == 4
    assert board.said == []


def test_disk_that_is_replaced_settles_anew() -> None:
    board = Board((0, [DATA]), (10, []), (12, [SYSTEM]))
    assert board.find("usb") == SYSTEM
    assert board.now == 12 + DISK_PATIENCE_S


def test_disk_of_another_kind_does_not_delay() -> None:
    board = Board((0, [NVME]), (1, [NVME, DATA]))
    assert board.find("nvme") == NVME
    assert board.now == SETTLE_S


@pytest.mark.parametrize("serial", [None, "SYSTEM"])
def test_absent_disk_is_given_up_after_the_patience(serial: str | None) -> None:
    board = Board((0, [NVME]))
    with pytest.raises(NoSuchDisk):
        board.find("usb", serial)
    assert board.now == DISK_PATIENCE_S


def test_disks_that_never_settle_are_given_up() -> None:
    board = Board(*((at, [DATA if at % 20 else SYSTEM]) for at in range(0, 1000, 10)))
    with pytest.raises(AgentError, match="kept changing"):
        board.find("usb")
    assert board.now == SETTLE_LIMIT_S
