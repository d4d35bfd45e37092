from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from fleet.boards import DiskKind, MacAddress, Soc
from lab.disk import VirtualDisk
from lab.qemu import Cpu, MachineSpec, build_argv, firmware_cmdline

SPEC = MachineSpec(
    name="node-1",
    cpu=Cpu.of(Soc.BCM2712),
    memory_mib=1024,
    kernel=Path("/run/kernel"),
    initramfs=Path("/run/initramfs"),
    dtb=Path("/run/board.dtb"),
    cmdline="console=serial0,115200 console=tty1 root=PARTUUID=72625a4e-02",
    disks=(),
    mac=MacAddress.parse("2c:cf:67:12:34:56"),
    tap="tap0",
)


def _values(argv: list[str], option: str) -> list[str]:
    return [value for name, value in pairwise(argv) if name == option]


def _disk(kind: DiskKind, path: str = "/disks/a.img") -> VirtualDisk:
    return VirtualDisk(kind=kind, path=Path(path), size_bytes=1 << 30, serial="S1")


@pytest.mark.parametrize(("soc", "cpu"), [(Soc.BCM2711, "cortex-a72"), (Soc.BCM2712, "cortex-a76")])
def test_the_processor_is_that_of_the_board(soc: Soc, cpu: str) -> None:
    assert _values(build_argv(replace(SPEC, cpu=Cpu.of(soc)), monitor_fd=7), "-cpu") == [cpu]


def test_the_machine_starts_with_what_was_fetched_and_waits_for_us() -> None:
    argv = build_argv(SPEC, monitor_fd=7)

    assert _values(argv, "-kernel") == ["/run/kernel"]
    assert _values(argv, "-initrd") == ["/run/initramfs"]
    assert _values(argv, "-dtb") == ["/run/board.dtb"]
    assert _values(argv, "-append") == ["console=ttyAMA0,115200 console=tty1 root=PARTUUID=72625a4e-02"]
    assert "socket,id=monitor,fd=7" in _values(argv, "-chardev")
    assert {"-S", "-no-reboot", "-nodefaults"} <= set(argv)
    assert "virtio-rng-pci" in _values(argv, "-device")


def test_a_kernel_may_come_without_an_initramfs() -> None:
    assert "-initrd" not in build_argv(replace(SPEC, initramfs=None), monitor_fd=7)


def test_the_network_card_has_the_boards_address_and_cable() -> None:
    argv = build_argv(SPEC, monitor_fd=7)
    assert _values(argv, "-netdev") == ["tap,id=net0,ifname=tap0,script=no,downscript=no"]
    assert "virtio-net-pci,netdev=net0,mac=2c:cf:67:12:34:56,romfile=" in _values(argv, "-device")
    assert "-netdev" not in build_argv(replace(SPEC, tap=None), monitor_fd=7)


@pytest.mark.parametrize(
    ("kind", "devices"),
    [
        (DiskKind.NVME, ["nvme,drive=disk0,serial=S1"]),
        (DiskKind.SD, ["sdhci-pci,id=disk0-host", "sd-card,drive=disk0"]),
        (DiskKind.USB, ["qemu-xhci,id=xhci", "usb-storage,bus=xhci.0,drive=disk0,serial=S1"]),
    ],
)
def test_a_disk_is_on_the_bus_of_its_kind(kind: DiskKind, devices: list[str]) -> None:
    argv = build_argv(replace(SPEC, disks=(_disk(kind),)), monitor_fd=7)
    assert [device for device in _values(argv, "-device") if not device.startswith("virtio")] == devices


def test_disks_stay_sparse_and_a_comma_in_a_path_is_kept() -> None:
    argv = build_argv(
        replace(SPEC, disks=(_disk(DiskKind.NVME), _disk(DiskKind.USB, "/a,b.img"))), monitor_fd=7
    )
    first, second = _values(argv, "-drive")
    assert "discard=unmap,detect-zeroes=unmap" in first
    assert "id=disk1,file=/a,,b.img,format=raw" in second


def test_only_the_console_named_serial0_is_renamed() -> None:
    assert firmware_cmdline("console=serial0,115200 x=serial0") == "console=ttyAMA0,115200 x=serial0"
    assert firmware_cmdline("console=ttyAMA0") == "console=ttyAMA0"
