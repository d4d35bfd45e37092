"""Emulated bootloaders of every era boot from the real cores: the diagnosis has nothing to say about it.

What healthy boards do is not written down here, as in the sequences made by hand: the emulation does it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from fakes_boot_server import BOARD_IP, run_boot
from fakes_core_server import CoreServer, UnpluggedError

from fleet.boards import BoardModel, BootMode, DiskKind, MacAddress, Serial
from fleet.spec.model import DhcpMode
from lab.bootloader.files import BootFiles
from lab.bootloader.machine import Bootrom, Hardware
from lab.bootloader.profile import PROFILES, BoardIdentity, EepromProfile, Family
from pxe.boot.table import BootTable, BootTree, NodeBootState
from pxe.events import BootFile, BootFileMissing, DhcpAck, DhcpDiscover, ForeignServerChosen, TransferDone

SERIAL = Serial.parse("10000000d03114aa")
MAC = MacAddress.parse("2c:cf:67:12:34:56")
ORDER = b"BOOT_ORDER=0xf12\n"
TREE = {
    "config.txt": b"kernel=kernel8.img\ncmdline=cmdline.txt\ninitramfs installer.img followkernel\n",
    "cmdline.txt": b"bramble.node=one bramble.intent=7",
    "start4.elf": b"f" * 230_000,
    "fixup4.dat": b"f" * 5_400,
    "bcm2711-rpi-4-b.dtb": b"d" * 55_000,
    "bcm2711-rpi-cm4.dtb": b"d" * 55_000,
    "bcm2712-rpi-5-b.dtb": b"d" * 78_000,
    "bcm2712-rpi-cm5-cm5io.dtb": b"d" * 78_000,
    "kernel8.img": b"k" * 960_000,
    "installer.img": b"i" * 1_468_000,
}
ERAS = [profile for profile in PROFILES.values() if profile.family in (Family.BCM2711, Family.BCM2712)]
EVERY_ERA = pytest.mark.parametrize("profile", ERAS, ids=lambda profile: profile.name)
OUTDATED = {"pi4-2019": ["legacy-identity"], "pi4-2021": ["sleeping-phy"]}
"""What is said of a bootloader for its age alone: true, and said once."""
BOTH_MODES = pytest.mark.parametrize("mode", [DhcpMode.FULL, DhcpMode.PROXY], ids=str)


@dataclass
class InstalledDisk:
    """The SD card with a system that was installed."""

    def partitions(self) -> tuple[int, ...]:
        return (1,)

    def read(self, partition: int, name: str) -> bytes | None:
        return {**TREE, "kernel8.img": b"installed kernel"}.get(name)


def node(tree: Mapping[str, bytes], intent: int | None) -> BootTable:
    return BootTable(
        (
            NodeBootState(
                name="one",
                serial=SERIAL,
                address=BOARD_IP,
                install_intent=intent,
                reason="" if intent else "installed",
                tree=BootTree(rendered=tree),
            ),
        )
    )


def power_on(
    server: CoreServer, profile: EepromProfile, *, has_disk: bool, settings: bytes = b""
) -> BootFiles | None:
    """One power-on and what the board starts; None where it found nothing."""
    model = {"cm4": BoardModel.CM4, "cm5": BoardModel.CM5}.get(profile.name) or (
        BoardModel.PI4 if profile.family is Family.BCM2711 else BoardModel.PI5
    )
    hardware = Hardware(
        board=BoardIdentity(model=model, serial=SERIAL, mac=MAC, revision=model.revision_codes[0]),
        profile=profile,
        eeprom_config=ORDER + settings,
        disks={DiskKind.SD: InstalledDisk()} if has_disk else {},
    )
    rom = Bootrom(hardware, random_bits=lambda bits: 7, now=0.0)
    run_boot(rom, server)
    return rom.outcome if isinstance(rom.outcome, BootFiles) else None


@BOTH_MODES
@EVERY_ERA
def test_an_installation_and_five_power_cycles_bring_no_diagnosis(
    profile: EepromProfile, mode: DhcpMode
) -> None:
    server = CoreServer(node(TREE, 7), mode)
    started = power_on(server, profile, has_disk=False)
    assert started is not None
    assert (started.source, started.kernel) == (BootMode.NETWORK, TREE["kernel8.img"])
    board = next(event for event in server.events if isinstance(event, BootFile)).board
    server.pass_time(25)
    server.see(
        TransferDone(
            at=server.utc, board=board, node="one", name="f00/disk.img.zst", sent_bytes=1, seconds=9.0
        )
    )
    server.table = node(TREE, None)
    for _ in range(5):
        server.pass_time(200)
        started = power_on(server, profile, has_disk=True)
        assert started is not None
        assert started.kernel == b"installed kernel"
    server.pass_time(200)

    told = {type(event) for event in server.events}
    given = DhcpAck if mode is DhcpMode.FULL else ForeignServerChosen
    assert {DhcpDiscover, given, BootFile, BootFileMissing} <= told
    assert [diagnosis.finding.rule for diagnosis in server.said] == OUTDATED.get(profile.name, [])


@pytest.mark.parametrize(
    ("file", "rule", "families"),
    [
        ("kernel8.img", "kernel-missing", {Family.BCM2711, Family.BCM2712}),
        ("start4.elf", "firmware-missing", {Family.BCM2711}),
        ("config.txt", "config-missing", {Family.BCM2712}),
    ],
)
@EVERY_ERA
def test_a_file_that_is_missing_is_found(
    profile: EepromProfile, file: str, rule: str, families: set[Family]
) -> None:
    server = CoreServer(node({name: TREE[name] for name in TREE if name != file}, 7), DhcpMode.FULL)
    server.unplugged_at = 60.0  # some would go on for ever
    with contextlib.suppress(UnpluggedError):
        power_on(server, profile, has_disk=True)
    server.pass_time(200)

    assert (rule in {diagnosis.finding.rule for diagnosis in server.said}) == (profile.family in families)


@BOTH_MODES
@EVERY_ERA
def test_an_eeprom_that_names_another_boot_server_is_found(profile: EepromProfile, mode: DhcpMode) -> None:
    server = CoreServer(node(TREE, 7), mode)
    server.unplugged_at = 200.0
    with contextlib.suppress(UnpluggedError):
        power_on(server, profile, has_disk=False, settings=b"TFTP_IP=10.77.0.9\n")
    server.pass_time(200)

    assert not any(isinstance(event, BootFile | BootFileMissing) for event in server.events)
    said = [diagnosis.finding.rule for diagnosis in server.said]
    assert said.count("boot-offer-ignored") == 1, said
    assert "no-address-server" not in said
