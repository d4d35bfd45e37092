"""A virtual board's bootloader fetches real files over a real tap, and QEMU starts with them."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest
from fakes_lab import TinyBootServer, in_private_network

from fleet.boards import BoardModel, DiskKind, MacAddress, Serial
from lab.board import BoardConfig, VirtualBoard
from lab.disk import VirtualDisk
from lab.events import EventKind
from lab.network import add_tap

pytestmark = pytest.mark.integration

SERIAL = Serial.parse("10000000d03114aa")
MAC = MacAddress.parse("2c:cf:67:12:34:56")

_HEADER_BYTES = 64


def _tiny_kernel(psci_function: int) -> bytes:
    """A position-independent AArch64 "kernel": prints "!" on the UART, then resets or powers off by PSCI.

    Layout of the header: 0 branch over it · 8 text offset · 16 image size · 24 flags · 56 magic "ARM\\x64"
    (Documentation/arch/arm64/booting.rst of the kernel).
    """
    code = b"".join(
        word.to_bytes(4, "little")
        for word in (
            0xD2A12001,  # mov x1, #0x09000000     the UART of -M virt
            0x52800420,  # mov w0, #'!'
            0x39000020,  # strb w0, [x1]
            0x52800140,  # mov w0, #'\n'
            0x39000020,  # strb w0, [x1]
            0x52800000 | (psci_function & 0xFFFF) << 5,  # movz w0, #low
            0x72A00000 | (psci_function >> 16) << 5,  # movk w0, #high, lsl #16
            0xD4000002,  # hvc #0
            0x14000000,  # b .
        )
    )
    header = bytearray(_HEADER_BYTES)
    header[0:4] = (0x14000000 | _HEADER_BYTES // 4).to_bytes(4, "little")
    header[16:24] = (4096).to_bytes(8, "little")
    header[24:32] = (0xA).to_bytes(8, "little")
    header[56:60] = b"ARM\x64"
    return bytes(header) + code


SYSTEM_OFF = 0x84000008
SYSTEM_RESET = 0x84000009


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
    events = in_private_network(_boot, tmp_path, _tiny_kernel(SYSTEM_OFF), EventKind.POWERED_OFF, None)

    kinds = [kind for kind, _ in events]
    assert kinds[0] == "powered-on"
    assert kinds[-1] == "powered-off"
    assert ("kernel-started", "kernel8.img and initramfs8 from NETWORK") in events
    assert (tmp_path / "initramfs").stat().st_size == 1_048_576


def test_a_reboot_of_the_guest_goes_back_to_the_bootloader(tmp_path: Path) -> None:
    disk = VirtualDisk(kind=DiskKind.NVME, path=tmp_path / "nvme.img", size_bytes=1 << 30, serial="NV1")
    events = in_private_network(_boot, tmp_path, _tiny_kernel(SYSTEM_RESET), EventKind.REBOOTED, disk)

    kinds = [kind for kind, _ in events]
    assert kinds.index("kernel-started") < kinds.index("rebooted")
    assert kinds[-1] == "power-cut"
    assert disk.path.stat().st_blocks * 512 < 1 << 20
