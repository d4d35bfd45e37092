"""The bootloader's way to a disk: real FAT filesystems, real QEMU, no network."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from fakes_lab import HELLO_THEN_OFF, HELLO_THEN_RESET, tiny_kernel

from fleet.boards import BoardModel, DiskKind, MacAddress, Serial
from lab.board import BoardConfig, VirtualBoard
from lab.bootloader.machine import Registers
from lab.disk import DiskFiles, VirtualDisk
from lab.errors import LabError, WaitTimeoutError
from lab.events import BoardEvent, EventHandler, EventKind
from lab.registers import write_registers

pytestmark = pytest.mark.integration

OFFSET = 1 << 20
FILES = {
    "config.txt": b"kernel=kernel8.img\n",
    "bcm2712-rpi-5-b.dtb": b"dtb",
    "cmdline.txt": b"console=serial0\n",
    "kernel8.img": tiny_kernel(HELLO_THEN_OFF),
}


def _disk(path: Path, kind: DiskKind = DiskKind.NVME) -> VirtualDisk:
    return VirtualDisk(kind=kind, path=path, size_bytes=64 << 20, serial="S1")


def _fill(disk: VirtualDisk, files: dict[str, bytes], scratch: Path) -> None:
    """Give a disk an MBR with one FAT partition that holds `files`."""
    disk.create()
    entry = (
        bytes(4) + b"\x0c" + bytes(3) + (OFFSET // 512).to_bytes(4, "little") + (65536).to_bytes(4, "little")
    )
    with disk.path.open("r+b") as image:
        image.write(bytes(446) + entry.ljust(64, b"\0") + b"\x55\xaa")
    drive = f"{disk.path}@@{OFFSET}"
    subprocess.run(["mformat", "-i", drive, "-T", "65536", "-h", "16", "-s", "63", "::"], check=True)
    for name, data in files.items():
        source = scratch / name
        source.write_bytes(data)
        subprocess.run(["mcopy", "-i", drive, source, f"::{name}"], check=True)


def _board(
    run_dir: Path, *disks: VirtualDisk, boot_order: int, on_event: EventHandler | None = None
) -> VirtualBoard:
    config = BoardConfig(
        name="pi5",
        model=BoardModel.PI5,
        serial=Serial.parse("10000000d03114aa"),
        mac=MacAddress.parse("2c:cf:67:12:34:56"),
        tap=None,
        disks=disks,
        memory_mib=256,
        boot_order=boot_order,
        link_up_s=0.0,
    )
    return VirtualBoard(config, run_dir=run_dir / "run", on_event=on_event)


def test_files_of_a_boot_partition_are_read_by_name(tmp_path: Path) -> None:
    disk = _disk(tmp_path / "d.img")
    _fill(disk, FILES, tmp_path)
    found = DiskFiles(disk.path)

    assert found.partitions() == (1,)
    assert found.read(1, "config.txt") == FILES["config.txt"]
    assert found.read(1, "CONFIG.TXT") == FILES["config.txt"]
    assert found.read(1, "overlays/none.dtbo") is None
    assert found.read(1, "*.txt") is None
    assert found.read(2, "config.txt") is None


@pytest.mark.parametrize("kind", [DiskKind.NVME, DiskKind.SD, DiskKind.USB])
def test_a_board_falls_through_to_its_disk_and_boots_it(tmp_path: Path, kind: DiskKind) -> None:
    disk = _disk(tmp_path / "d.img", kind)
    _fill(disk, FILES, tmp_path)
    with _board(tmp_path, disk, boot_order=0xF46_12) as board:
        board.power_on()
        board.wait_for(EventKind.POWERED_OFF, timeout_s=60)
        events = [(event.kind, event.text) for event in board.events]

    assert events[2] == (EventKind.MODE_FAILED, "NETWORK: no link: the cable is not plugged in")
    assert events[-2][0] is EventKind.KERNEL_STARTED
    assert (tmp_path / "run" / "console.log").read_text() == "!\n"


def test_the_guest_finds_the_boards_identity_in_its_device_tree(tmp_path: Path) -> None:
    disk = _disk(tmp_path / "d.img")
    _fill(disk, FILES, tmp_path)
    with _board(tmp_path, disk, boot_order=0xE6) as board:
        board.power_on()
        board.wait_for(EventKind.KERNEL_STARTED, timeout_s=60)

    def get(kind: str, node: str, name: str) -> str:
        argv = ["fdtget", "-t", kind, str(tmp_path / "run" / "board.dtb"), node, name]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()

    assert get("s", "/", "serial-number") == "10000000d03114aa"
    assert get("s", "/", "model").startswith("Raspberry Pi 5 Model B Rev 1.")
    assert get("x", "/system", "linux,revision") == f"{BoardModel.PI5.revision_codes[-1]:x}"
    assert get("u", "/chosen/bootloader", "boot-mode") == "6"


def test_boot_order_for_one_start_outlives_a_restart_and_no_power_cut(tmp_path: Path) -> None:
    """The running system writes the registers, as the stand-in for vcmailbox does, and restarts the board."""
    disk = _disk(tmp_path / "d.img")
    _fill(disk, {**FILES, "kernel8.img": tiny_kernel(HELLO_THEN_RESET)}, tmp_path)
    registers = tmp_path / "run" / "registers.json"
    starts: list[str] = []

    def write_once(event: BoardEvent) -> None:
        if event.kind is not EventKind.KERNEL_STARTED:
            return
        dtb = str(tmp_path / "run" / "board.dtb")
        argv = ["fdtget", "-t", "u", dtb, "/chosen/bootloader", "arg1"]
        starts.append(subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip())
        if len(starts) == 1:
            write_registers(registers, Registers(one_shot_order=0xE62, boot_arg1=7))

    with _board(tmp_path, disk, boot_order=0xE6, on_event=write_once) as board:
        board.power_on()
        for number in range(3):
            seen = [place for place, event in enumerate(board.events) if event.kind is EventKind.REBOOTED]
            since = seen[-1] + 1 if number else 0
            board.wait_for(EventKind.REBOOTED, timeout_s=60, since=since)
        tried = [event.text.split()[2] for event in board.events if event.kind is EventKind.MODE_STARTED]
        board.power_cut()
    assert starts[:3] == ["0", "7", "7"]
    assert tried[:4] == ["NVME", "NETWORK", "NVME", "NVME"]
    assert not registers.exists()


@pytest.mark.parametrize("damage", ["wiped-mbr", "wiped-boot-sector", "never-written"])
def test_a_half_written_disk_is_no_disk_to_boot_from(tmp_path: Path, damage: str) -> None:
    disk = _disk(tmp_path / "d.img")
    if damage != "never-written":
        _fill(disk, FILES, tmp_path)
        with disk.path.open("r+b") as image:
            image.seek(0 if damage == "wiped-mbr" else OFFSET)
            image.write(bytes(512))
    with _board(tmp_path, disk, boot_order=0xE6) as board:
        board.power_on()
        stuck = board.wait_for(EventKind.STUCK, timeout_s=60)
        assert "nothing could be booted" in stuck.text
        assert board.is_on  # it shows its error pattern until somebody pulls the plug
    assert board.events[-1].kind is EventKind.POWER_CUT


def test_a_board_that_restarts_its_order_stops_when_the_plug_is_pulled(tmp_path: Path) -> None:
    with _board(tmp_path, boot_order=0xF6) as board:
        board.power_on()
        board.wait_for(EventKind.MODE_FAILED, timeout_s=60)
        with pytest.raises(LabError, match="is on already"):
            board.power_on()
        board.power_cut()
        assert not board.is_on
        board.power_on()
        seen = len(board.events)
        board.wait_for(EventKind.MODE_FAILED, timeout_s=60, since=seen - 1)


def test_waiting_in_vain_tells_what_the_board_did_instead(tmp_path: Path) -> None:
    with _board(tmp_path, boot_order=0xF6) as board:
        board.power_on()
        board.wait_for(EventKind.MODE_FAILED, timeout_s=60)
        with pytest.raises(WaitTimeoutError, match="mode-failed: NVME: no such device"):
            board.wait_for(EventKind.KERNEL_STARTED, timeout_s=0.3)
