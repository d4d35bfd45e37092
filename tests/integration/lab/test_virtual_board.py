"""A virtual board's bootloader fetches real files over a real tap, and QEMU starts with them."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import select
import threading
import time
from ipaddress import IPv4Address
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from fakes_lab import (
    HELLO_THEN_OFF,
    HELLO_THEN_RESET,
    HELLO_THEN_STAY,
    TinyBootServer,
    in_private_network,
    tiny_kernel,
)

from fleet.boards import BoardModel, DiskKind, MacAddress, Serial
from lab.board import BoardConfig, VirtualBoard
from lab.disk import VirtualDisk
from lab.errors import LabError
from lab.events import EventKind
from lab.network import BRIDGE, add_tap, enter_private_network
from lab.runner import run
from lab.tap import Tap

pytestmark = pytest.mark.integration

SERIAL = Serial.parse("10000000d03114aa")
MAC = MacAddress.parse("2c:cf:67:12:34:56")


def _files(kernel: bytes) -> dict[str, bytes]:
    return {
        "d03114aa/config.txt": b"[pi5]\nkernel=kernel8.img\nauto_initramfs=1\n",
        "d03114aa/bcm2712-rpi-5-b.dtb": b"dtb",
        "d03114aa//config.txt": b"[pi5]\nkernel=kernel8.img\nauto_initramfs=1\n",
        "d03114aa//kernel8.img": kernel,
        "d03114aa//initramfs8": b"0123456789abcdef" * 65536,
        "d03114aa//bcm2712-rpi-5-b.dtb": b"dtb",
        "d03114aa//cmdline.txt": b"console=serial0,115200\n",
    }


def _address_beside_a_lower_one() -> tuple[str, str]:
    def address() -> str:
        (bridge,) = json.loads(run(["ip", "-json", "link", "show", "dev", BRIDGE]).stdout)
        return str(bridge["address"])

    before = address()
    add_tap("tap0")
    run(["ip", "link", "set", "tap0", "address", "02:00:00:00:00:01"])
    return before, address()


def test_the_servers_address_stays_while_boards_are_added() -> None:
    """A bootloader asks for it once, and would send the rest of its file to nobody."""
    before, after = in_private_network(_address_beside_a_lower_one)
    assert after == before


def _boot(run_dir: Path, kernel: bytes, final: EventKind, disk: VirtualDisk | None) -> list[tuple[str, str]]:
    add_tap("tap0")
    config = BoardConfig(
        name="pi5",
        model=BoardModel.PI5,
        serial=SERIAL,
        mac=MAC,
        tap="tap0",
        disks=(disk,) if disk else (),
        memory_mib=256,
        link_up_s=0.0,
    )
    with (
        TinyBootServer(_files(kernel), IPv4Address("10.77.0.50")),
        VirtualBoard(config, run_dir=run_dir) as board,
    ):
        board.power_on()
        board.wait_for(final, timeout_s=60)
        assert board.wait_for_console("!", timeout_s=60)
    assert not board.is_on
    return [(event.kind.value, event.text) for event in board.events]


def test_a_board_boots_what_it_fetched_and_powers_off(tmp_path: Path) -> None:
    events = in_private_network(_boot, tmp_path, tiny_kernel(HELLO_THEN_OFF), EventKind.POWERED_OFF, None)

    kinds = [kind for kind, _ in events]
    assert kinds[0] == "powered-on"
    assert kinds[-1] == "powered-off"
    assert ("kernel-started", "kernel8.img and initramfs8 from NETWORK") in events
    assert (tmp_path / "initramfs").stat().st_size == 1_048_576


def test_a_reboot_of_the_guest_goes_back_to_the_bootloader(tmp_path: Path) -> None:
    disk = VirtualDisk(kind=DiskKind.NVME, path=tmp_path / "nvme.img", size_bytes=1 << 30, serial="NV1")
    events = in_private_network(_boot, tmp_path, tiny_kernel(HELLO_THEN_RESET), EventKind.REBOOTED, disk)

    kinds = [kind for kind, _ in events]
    assert kinds.index("kernel-started") < kinds.index("rebooted")
    assert kinds[-1] == "power-cut"
    assert disk.path.stat().st_blocks * 512 < 1 << 20


def board_thread_id() -> int:
    """Kernel's id of the one thread that is a board's."""
    return next(
        thread.native_id
        for thread in threading.enumerate()
        if thread.name.startswith("board-") and thread.native_id is not None
    )


def _boot_and_report_the_process(run_dir: Path, pipe: Connection) -> None:
    """Boot a guest that stays, tell QEMU's process id, and wait to be killed."""
    enter_private_network()
    add_tap("tap0")
    config = BoardConfig(name="pi5", model=BoardModel.PI5, serial=SERIAL, mac=MAC, tap="tap0", memory_mib=256)
    files = _files(tiny_kernel(HELLO_THEN_STAY))
    with TinyBootServer(files, IPv4Address("10.77.0.50")), VirtualBoard(config, run_dir=run_dir) as board:
        board.power_on()
        board.wait_for_console("!", timeout_s=60)
        children = Path(f"/proc/self/task/{board_thread_id()}/children").read_text().split()
        pipe.send(int(children[0]))
        pipe.poll(60)


def test_qemu_dies_with_a_process_that_is_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_boot_and_report_the_process, args=(tmp_path, theirs))
    process.start()
    try:
        assert ours.poll(60), "the board did not start"
        pid = ours.recv()
        assert Path(f"/proc/{pid}/comm").read_text().startswith("qemu-system")
    finally:
        process.kill()
        process.join()
        ours.close()
        theirs.close()
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            assert select.select([descriptor], [], [], 60)[0], "QEMU outlived its lab"
        finally:
            os.close(descriptor)


def _cut(run_dir: Path) -> tuple[float, list[str]]:
    add_tap("tap0")
    config = BoardConfig(name="pi5", model=BoardModel.PI5, serial=SERIAL, mac=MAC, tap="tap0", memory_mib=256)
    files = _files(tiny_kernel(HELLO_THEN_STAY))
    with TinyBootServer(files, IPv4Address("10.77.0.50")), VirtualBoard(config, run_dir=run_dir) as board:
        board.power_on()
        board.wait_for_console("!", timeout_s=60)
        started = time.monotonic()
        board.power_cut()
        seconds = time.monotonic() - started
        board.power_on()  # the tap is free again
        board.wait_for_console("!", timeout_s=60, since=board.console.position)
        return seconds, [event.kind.value for event in board.events]


def test_a_power_cut_is_at_once_and_the_board_can_be_switched_on_again(tmp_path: Path) -> None:
    seconds, kinds = in_private_network(_cut, tmp_path)
    assert seconds < 40.0  # nobody waits for the guest, which would not end by itself
    assert kinds.count("kernel-started") == 2
    assert kinds.count("power-cut") == 1


def _two_threads() -> str:
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="early-bird")
    thread.start()
    try:
        enter_private_network()
    except LabError as error:
        return error.message
    finally:
        done.set()
        thread.join()
    return ""


def test_the_network_is_not_entered_once_threads_run() -> None:
    assert "early-bird" in in_private_network(_two_threads)


def _tap_problems() -> list[str]:
    problems = []
    for name in ("a-name-that-is-too-long", "tap0"):
        try:
            add_tap(name)
            with Tap(name), Tap(name):
                pass
        except LabError as error:
            problems.append(error.message)
    return problems


def test_a_tap_that_can_not_be_had_is_explained() -> None:
    too_long, busy = in_private_network(_tap_problems)
    assert "at most 15" in too_long
    assert "can not be attached" in busy
