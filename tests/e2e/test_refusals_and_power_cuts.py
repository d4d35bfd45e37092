"""Boards that must not be installed are not, in words; a cut installation begins again and ends well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from bramble.demo_screen import split_detail
from bramble.rehearsal import Rehearsal
from fleet.boards import DiskKind, Serial
from fleet.spec.model import ClusterSpec
from lab.board import VirtualBoard
from lab.events import EventKind

pytestmark = pytest.mark.e2e

REFUSED_S = 300.0
INSTALLED_S = 600.0

Rehearse = Callable[[ClusterSpec], Rehearsal]
ClusterOf = Callable[..., ClusterSpec]


def test_ambiguous_absent_and_undeclared_are_refused_and_no_disk_is_touched(
    rehearse: Rehearse, cluster_of: ClusterOf
) -> None:
    lab = rehearse(cluster_of(pi5_server={}, pi4_agent={"disk": "sd"}, cm5_agent={}))
    pi4, cm5 = (lab.spec.find_node(name) for name in ("pi4-agent", "cm5-agent"))
    assert pi4 is not None
    assert cm5 is not None
    two = (lab.disk("cm5-agent", DiskKind.NVME, 0), lab.disk("cm5-agent", DiskKind.NVME, 1))
    other = (lab.disk("pi4-agent", DiskKind.USB),)
    ambiguous = lab.add_board(cm5, disks=two)
    absent = lab.add_board(pi4, disks=other)
    for board in (ambiguous, absent):
        board.power_on()

    lab.wait_for_text("cm5-agent", "2 disks match", timeout_s=REFUSED_S)
    lab.wait_for_text("pi4-agent", "disk: sd", timeout_s=REFUSED_S)
    for disk in (*two, *other):
        assert disk.path.stat().st_blocks == 0, disk.path

    # The Pi 4's own slot is free again: the same kind of board, with a serial that no node has.
    absent.power_cut()
    stranger = lab.add_stranger("stranger", pi4, serial=Serial.parse("10000000deadbeef"))
    stranger.power_on()
    stranger.wait_for(EventKind.MODE_FAILED, timeout_s=60)
    held = lab.wait_for_held("deadbeef", timeout_s=60)
    assert held["reason"]
    assert lab.disk_is_blank("stranger")
    assert all(event.kind is not EventKind.KERNEL_STARTED for event in stranger.events)


def test_a_power_cut_while_writing_ends_in_another_attempt_and_a_whole_disk(
    rehearse: Rehearse, cluster_of: ClusterOf
) -> None:
    lab = rehearse(cluster_of(pi5_server={}, cm5_agent={}))
    node = lab.spec.find_node("cm5-agent")
    assert node is not None
    board = lab.add_board(node)
    board.power_on()
    lab.wait_for("cm5-agent", is_well_into_writing, "writing its disk", timeout_s=INSTALLED_S)
    board.power_cut()
    assert not lab.disk_is_blank("cm5-agent")
    assert first_sector(board) == bytes(512), "nothing bootable before the end"

    board.power_on()
    row = lab.wait_for_state("cm5-agent", "first-boot", timeout_s=INSTALLED_S)
    assert row["attempt"] == 2
    assert lab.count_installs("cm5-agent") == 1
    assert first_sector(board)[510:] == b"\x55\xaa"


def is_well_into_writing(row: Mapping[str, Any]) -> bool:
    """Some of the image is on the disk, and much is not: "write 23 %"."""
    step, percent = split_detail(row)
    return step == "imaging: write" and bool(percent) and 10 <= int(percent) <= 80


def first_sector(board: VirtualBoard) -> bytes:
    """Where the partition table is, on a board's first disk."""
    with board.config.disks[0].path.open("rb") as disk:
        return disk.read(512)
