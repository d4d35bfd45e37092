"""QEMU's command line for the two machines, and for a port that reaches nobody."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from fleet.boards import DiskKind, MacAddress
from lab.disk import VirtualDisk
from lab.qemu import Cpu, MachineKind, MachineSpec, UserNetwork, build_argv

NETWORK = UserNetwork(subnet=IPv4Network("10.77.0.0/24"), host=IPv4Address("10.77.0.1"))


def _argv(kind: MachineKind, network: UserNetwork | None) -> list[str]:
    spec = MachineSpec(
        name="proof",
        cpu=Cpu("cortex-a72"),
        memory_mib=1024,
        kernel=Path("kernel"),
        initramfs=None,
        dtb=Path("dtb"),
        cmdline="console=serial0,115200",
        disks=(VirtualDisk(kind=DiskKind.SD, path=Path("a,b.img"), size_bytes=2**30, serial="X"),),
        mac=MacAddress.parse("dc:a6:32:01:02:03"),
        tap=None,
        user_network=network,
        kind=kind,
    )
    return build_argv(spec, monitor_fd=9)


@pytest.mark.parametrize("kind", list(MachineKind))
def test_a_user_network_is_restricted_and_plays_the_declared_subnet(kind: MachineKind) -> None:
    argv = _argv(kind, NETWORK)
    netdev = argv[argv.index("-netdev") + 1]
    assert netdev == "user,id=net0,restrict=on,ipv6=off,net=10.77.0.0/24,host=10.77.0.1,dns=10.77.0.254"
    assert "-netdev" not in _argv(kind, None)


def test_the_pi_4_model_has_its_card_in_its_own_slot_and_a_usb_adapter() -> None:
    argv = _argv(MachineKind.RASPI4B, NETWORK)
    assert argv[argv.index("-machine") + 1] == "raspi4b"
    assert "-cpu" not in argv
    adapter = argv[argv.index("-device") + 1].split(",")
    assert {"driver=usb-net", "netdev=net0", "port=1", "mac=dc:a6:32:01:02:03"} <= set(adapter)
    drive = argv[argv.index("-drive") + 1]
    assert drive.startswith("if=sd,file=a,,b.img,format=raw,")
    assert not any(word.startswith(("virtio", "sdhci")) for word in argv)


def test_the_virtual_machine_keeps_what_it_had() -> None:
    argv = _argv(MachineKind.VIRT, NETWORK)
    assert argv[argv.index("-machine") + 1] == "virt"
    assert argv[argv.index("-cpu") + 1] == "cortex-a72"
    assert "virtio-net-pci,netdev=net0,mac=dc:a6:32:01:02:03,romfile=" in argv
    assert "virtio-rng-pci" in argv
