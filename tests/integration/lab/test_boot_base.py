"""A base from the store boots on a virtual board, from its own disk, as the firmware would start it."""

from __future__ import annotations

import shutil
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from fakes_lab import TinyBootServer, in_private_network

from fleet.boards import BoardModel, DiskKind, MacAddress, Serial
from imagebuilder.bases import find_base
from imagebuilder.store import Store
from lab.board import BoardConfig, VirtualBoard
from lab.disk import VirtualDisk
from lab.events import EventKind
from lab.network import add_tap
from lab.runner import run

pytestmark = pytest.mark.e2e

BASE = "debian-trixie"
LOGIN_TIMEOUT_S = 900.0
"""Generous: emulation shares the cores with whatever else runs."""


@pytest.fixture
def disk(tmp_path: Path) -> VirtualDisk:
    """A sparse copy of the base, on a disk of 8 GiB."""
    base = find_base(BASE, Store.default())
    if base is None:
        pytest.skip(f"the store holds no {BASE}; `bramble base build {BASE}` makes it")
    made = VirtualDisk(kind=DiskKind.NVME, path=tmp_path / "nvme.img", size_bytes=8 << 30, serial="LAB1")
    run(["cp", "--sparse=always", str(base.disk), str(made.path)])
    with made.path.open("r+b") as image:
        image.truncate(made.size_bytes)
    return made


def _boot_to_login(run_dir: Path, disk: VirtualDisk) -> list[tuple[EventKind, str]]:
    add_tap("tap0")
    config = BoardConfig(
        name="pi5",
        model=BoardModel.PI5,
        serial=Serial.parse("10000000d03114aa"),
        mac=MacAddress.parse("2c:cf:67:12:34:56"),
        tap="tap0",
        disks=(disk,),
    )
    # The server has an address for everybody and files for nobody: an installed board's way to its disk.
    with TinyBootServer({}, IPv4Address("10.77.0.50")), VirtualBoard(config, run_dir=run_dir) as board:
        board.power_on()
        started = board.wait_for(EventKind.KERNEL_STARTED, timeout_s=60)
        board.wait_for_console(r"login:", timeout_s=LOGIN_TIMEOUT_S)
        assert "from NVME" in started.text
    return [(event.kind, event.text) for event in board.events]


def test_an_installed_board_boots_to_its_login_prompt(tmp_path: Path, disk: VirtualDisk) -> None:
    timeout_s = LOGIN_TIMEOUT_S + 100
    events = in_private_network(_boot_to_login, tmp_path / "run", disk, timeout_s=timeout_s)

    assert (EventKind.MODE_FAILED, "NETWORK: config.txt not found") in events
    assert not [text for kind, text in events if kind in (EventKind.PANIC, EventKind.BROKEN)]
    shutil.rmtree(tmp_path / "run")
