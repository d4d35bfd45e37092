"""A virtual board's bootloader fetches real files over a real tap, and QEMU starts with them."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest
from fakes_lab import HELLO_THEN_OFF, HELLO_THEN_RESET, TinyBootServer, in_private_network, tiny_kernel

from fleet.boards import BoardModel, DiskKind, MacAddress, Serial
from lab.board import BoardConfig, VirtualBoard
from lab.disk import VirtualDisk
from lab.events import EventKind
from lab.network import add_tap

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
        board.wait_for(final, timeout_s=30)
        assert board.wait_for_console("!", timeout_s=5)
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
