"""Whole power-ons on a virtual clock: BOOT_ORDER, pauses, resets, one-shot flags, for every EEPROM era."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pytest
from fakes_boot_server import LATENCY_S, ModelServer, run_boot
from hypothesis import given
from hypothesis import strategies as st

from fleet.boards import BoardModel, BootMode, DiskKind, MacAddress, Serial
from lab.bootloader.console import render_console_line
from lab.bootloader.eeprom_config import parse_netconsole
from lab.bootloader.files import BoardStuckError, BootFiles
from lab.bootloader.machine import FATAL_PATTERN_S, LINK_UP_S, RESTART_PAUSE_S, Bootrom, Hardware, Registers
from lab.bootloader.profile import (
    PI4_2019,
    PI4_2023,
    PI4_2026,
    PI5_2025,
    PI5_2026,
    PROFILES,
    AnyBoard,
    BoardIdentity,
    EepromProfile,
    Family,
    LegacyBoard,
)
from lab.events import EventKind, Notice
from lab.frames import Udp, parse_frame

SERIAL = Serial.parse("10000000d03114aa")
S = SERIAL.prefix
MAC = MacAddress.parse("2c:cf:67:12:34:56")
PI4_TREE = {"start4.elf": b"firmware", "bcm2711-rpi-4-b.dtb": b"dtb", "bcm2711-rpi-cm4.dtb": b"dtb"}
TREE = {
    "config.txt": b"kernel=kernel8.img\n",
    "bcm2712-rpi-5-b.dtb": b"dtb",
    "bcm2712-rpi-cm5-cm5io.dtb": b"dtb",
    "kernel8.img": b"network kernel",
    "cmdline.txt": b"quiet",
    "bootcode.bin": b"second stage",
    "start.elf": b"firmware",
    "kernel7.img": b"unused",
} | PI4_TREE
DISK_TREE = {**TREE, "kernel8.img": b"disk kernel"}


@dataclass
class MemoryDisk:
    files: Mapping[str, bytes]

    def partitions(self) -> Sequence[int]:
        return (1,)

    def read(self, partition: int, name: str) -> bytes | None:
        return self.files.get(name)


def _board(profile: EepromProfile) -> AnyBoard:
    if profile.soc is None:
        return LegacyBoard(serial=SERIAL, mac=MacAddress.parse("b8:27:eb:12:34:56"))
    model = {"cm4": BoardModel.CM4, "cm5": BoardModel.CM5}.get(profile.name) or (
        BoardModel.PI4 if profile.family is Family.BCM2711 else BoardModel.PI5
    )
    return BoardIdentity(model=model, serial=SERIAL, mac=MAC, revision=model.revision_codes[0])


def _hardware(profile: EepromProfile, config: str = "", *, disk: bool = True) -> Hardware:
    disks = {DiskKind.SD: MemoryDisk(DISK_TREE), DiskKind.NVME: MemoryDisk(DISK_TREE)} if disk else {}
    return Hardware(board=_board(profile), profile=profile, eeprom_config=config.encode(), disks=disks)


def _power_on(hardware: Hardware, registers: Registers | None = None) -> Bootrom:
    return Bootrom(hardware, random_bits=lambda bits: 7, now=0.0, registers=registers)


def _story(rom: Bootrom, kinds: Iterable[EventKind]) -> list[str]:
    told: list[str] = []
    while (notice := rom.next_notice()) is not None:
        if notice.kind in kinds:
            told.append(notice.text)
    return told


def _modes(rom: Bootrom) -> list[str]:
    return [text.split()[2] for text in _story(rom, {EventKind.MODE_STARTED})]


ERAS = [profile for profile in PROFILES.values() if profile.family not in (Family.ROM3, Family.BOOTCODE)]


@pytest.mark.parametrize("profile", ERAS, ids=lambda profile: profile.name)
def test_network_first_boots_the_installer_when_one_is_served(profile: EepromProfile) -> None:
    rom = _power_on(_hardware(profile, "BOOT_ORDER=0xf12"))
    seconds = run_boot(rom, ModelServer(TREE))

    assert isinstance(rom.outcome, BootFiles)
    assert rom.outcome.kernel == b"network kernel"
    assert rom.outcome.source is BootMode.NETWORK
    assert LINK_UP_S < seconds < LINK_UP_S + 0.5


@pytest.mark.parametrize("profile", ERAS, ids=lambda profile: profile.name)
def test_not_found_costs_the_link_and_milliseconds_before_the_disk(profile: EepromProfile) -> None:
    rom = _power_on(_hardware(profile, "BOOT_ORDER=0xf12"))
    server = ModelServer({})
    seconds = run_boot(rom, server)

    assert isinstance(rom.outcome, BootFiles)
    assert rom.outcome.kernel == b"disk kernel"
    assert seconds < LINK_UP_S + 60 * LATENCY_S
    assert server.requested[0] in (f"{S}/start4.elf", f"{S}/config.txt")


@pytest.mark.parametrize("profile", ERAS, ids=lambda profile: profile.name)
def test_a_silent_network_costs_the_link_and_45_seconds(profile: EepromProfile) -> None:
    rom = _power_on(_hardware(profile, "BOOT_ORDER=0xf12"))
    seconds = run_boot(rom, ModelServer({}), copies=lambda: 0)
    assert isinstance(rom.outcome, BootFiles)
    assert seconds == pytest.approx(LINK_UP_S + 45.0)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_the_default_order_of_each_era(profile: EepromProfile) -> None:
    """No default asks the network first; a Pi 3 and a flashed CM5 ask it last."""
    rom = _power_on(replace(_hardware(profile, disk=False), eeprom_config=None))
    for _ in range(40):
        due = rom.next_timeout()
        if rom.outcome is not None or due is None:
            break
        rom.handle_timeout(due)
    modes = _modes(rom)
    expected = {
        **{"pi3rom": ["SD", "NETWORK"], "bootcode": ["NETWORK"], "pi4-2019": ["SD"]},
        **{"cm4": ["SD", "USB_MSD", "NVME"], "cm5": ["SD", "NVME", "USB_MSD", "NETWORK"]},
        **{"pi5-2025": ["SD", "NVME", "USB_MSD"], "pi5-2026": ["SD", "NVME", "USB_MSD"]},
    }.get(profile.name, ["SD", "USB_MSD"])
    assert modes[: len(expected)] == expected


def test_a_pi_3_boots_by_its_rom() -> None:
    rom = _power_on(replace(_hardware(PROFILES["pi3rom"], disk=False), eeprom_config=None))
    server = ModelServer(TREE | {"config.txt": b"arm_64bit=1\n"})
    server.ignores_options = True
    run_boot(rom, server)
    assert isinstance(rom.outcome, BootFiles)


def test_retries_wait_five_seconds_and_restart_begins_again() -> None:
    rom = _power_on(
        _hardware(PI5_2025, "BOOT_ORDER=0xf2\nNET_BOOT_MAX_RETRIES=1\nMAX_RESTARTS=1", disk=False)
    )
    server = ModelServer({})
    with pytest.raises(AssertionError, match="never ends"):
        run_boot(rom, server, until_s=4 * LINK_UP_S + 5.0 + RESTART_PAUSE_S + 5.0 + 1.0)

    assert _modes(rom)[:4] == ["NETWORK"] * 4
    assert rom.resets == 1  # MAX_RESTARTS: the board resets and begins anew


def test_stop_is_the_end_and_says_so() -> None:
    rom = _power_on(_hardware(PI5_2025, "BOOT_ORDER=0xe2", disk=False))
    run_boot(rom, ModelServer({}))
    assert isinstance(rom.outcome, BoardStuckError)
    assert str(rom.outcome) == "BOOT_ORDER 0xe2 is at its end, nothing could be booted"
    assert rom.next_timeout() is None


@pytest.mark.parametrize(("profile", "resets"), [(PI5_2025, False), (PI5_2026, True), (PI4_2026, True)])
def test_a_fatal_error_is_for_ever_until_april_2026(profile: EepromProfile, resets: bool) -> None:
    rom = _power_on(_hardware(profile, "BOOT_ORDER=0xe6" if profile.soc else "", disk=False))
    rom.handle_timeout(0.0)
    assert (rom.outcome is None) is resets
    if resets:
        assert rom.next_timeout() == FATAL_PATTERN_S
        rom.handle_timeout(FATAL_PATTERN_S)
        assert rom.resets == 1


def test_the_watchdog_frees_a_board_that_hangs_in_its_kernel() -> None:
    """rpi-eeprom#687: without it a server that falls silent late leaves the board dark."""
    config = "BOOT_ORDER=0xf12\nBOOT_WATCHDOG_TIMEOUT=60"
    server = ModelServer({f"{S}//{name}": data for name, data in TREE.items()})
    server.files |= {f"{S}/{name}": data for name, data in TREE.items()}
    server.silent_about = {f"{S}//kernel8.img"}
    rom = _power_on(_hardware(PI5_2025, config))
    with pytest.raises(AssertionError, match="never ends"):
        run_boot(rom, server, until_s=61.0)
    assert rom.resets == 1

    dark = _power_on(_hardware(PI5_2025, "BOOT_ORDER=0xf12"))
    server.requested.clear()
    run_boot(dark, server)
    assert isinstance(dark.outcome, BoardStuckError)


def test_one_shot_order_holds_for_one_boot_of_a_pi_5_and_never_on_a_pi_4() -> None:
    for profile, modes in ((PI5_2025, ["NETWORK"]), (PI4_2023, ["SD"])):
        registers = Registers(one_shot_order=0xF612)
        hardware = _hardware(profile, "BOOT_ORDER=0xf1")
        rom = _power_on(hardware, registers)
        run_boot(rom, ModelServer(TREE))
        assert _modes(rom) == modes
        assert registers.one_shot_order is None

        again = _power_on(hardware, registers)
        run_boot(again, ModelServer(TREE))
        assert _modes(again) == ["SD"]


def test_tryboot_can_choose_the_network_once_on_a_pi_4_of_2024() -> None:
    config = "BOOT_ORDER=0xf1\n[tryboot]\nBOOT_ORDER=0xf12\n"
    files = TREE | {"tryboot.txt": TREE["config.txt"]}
    registers = Registers(tryboot=True)
    rom = _power_on(_hardware(PI4_2026, config), registers)
    run_boot(rom, ModelServer(files))
    assert _modes(rom) == ["NETWORK"]
    again = _power_on(_hardware(PI4_2026, config), registers)
    run_boot(again, ModelServer(files))
    assert _modes(again) == ["SD"]


def test_rpiboot_waits_for_a_host_and_only_the_watchdog_ends_it() -> None:
    rom = _power_on(_hardware(PI5_2026, "BOOT_ORDER=0xf13"))
    rom.handle_timeout(0.0)
    assert isinstance(rom.outcome, BoardStuckError)
    assert "RPIBOOT" in str(rom.outcome)

    guarded = _power_on(_hardware(PI5_2026, "BOOT_ORDER=0xf13\nBOOT_WATCHDOG_TIMEOUT=60"))
    guarded.handle_timeout(0.0)
    assert (guarded.outcome, guarded.next_timeout()) == (None, 60.0)
    guarded.handle_timeout(60.0)
    assert guarded.resets == 1


def test_no_cable_is_no_wait() -> None:
    hardware = _hardware(PI5_2025, "BOOT_ORDER=0xf12")
    hardware.has_cable = False
    rom = _power_on(hardware)
    assert run_boot(rom, ModelServer({})) == 0.0
    assert _story(rom, {EventKind.MODE_FAILED}) == ["NETWORK: no link: the cable is not plugged in"]


def test_a_mistyped_property_is_told_before_the_first_mode() -> None:
    rom = _power_on(_hardware(PI5_2025, "BOOT_ORDR=0xf12"))
    first = rom.next_notice()
    assert first == Notice(
        EventKind.EEPROM_PROBLEM, "line 1: BOOT_ORDR is no property that the firmware knows"
    )


def test_a_server_that_offers_a_bootloader_re_flashes_the_board_once() -> None:
    """What Bramble's refusal of pieeprom.* protects from; it ends by itself because of the timestamp."""
    image = b"new eeprom"
    sig = f"{hashlib.sha256(image).hexdigest()}\nts: 200\n".encode()
    hardware = _hardware(PI5_2025, "BOOT_ORDER=0xf2")
    hardware.eeprom_timestamp = 100
    rom = _power_on(hardware)
    run_boot(rom, ModelServer(TREE | {"pieeprom.sig": sig, "pieeprom.upd": image}))
    assert isinstance(rom.outcome, BootFiles)
    assert (rom.resets, hardware.eeprom_timestamp) == (1, 200)


def test_netconsole_sends_the_firmwares_text_as_datagrams() -> None:
    config = "BOOT_ORDER=0xf2\nNETCONSOLE=6665@169.254.1.1/,6666@/\n"
    rom = _power_on(_hardware(PI5_2025, config, disk=False))
    lines: list[str] = []

    class Listener(ModelServer):
        def receive(self, frame: bytes) -> list[bytes]:
            packet = parse_frame(frame)
            if isinstance(packet, Udp) and packet.target_port == 6666:
                assert str(packet.source_ip) == "169.254.1.1"
                lines.append(packet.payload.decode().removesuffix("\r\n"))
                return []
            return super().receive(frame)

    run_boot(rom, Listener(TREE))
    assert lines == rom.console
    assert lines[0] == "Boot mode: NETWORK (02) order f"
    assert lines[1] == "DHCP src: 52:54:00:00:00:01 10.77.0.1"
    assert "YI_ADDR 10.77.0.50" in lines
    assert "\top: 53 len:   1 DHCP recv OFFER (2) expect OFFER" in lines
    assert "\top: 53 len:   1 DHCP recv ACK (5) expect ACK" in lines
    assert "\t\tPXE op:  9 len:  20" in lines
    assert "NET 10.77.0.50 255.255.255.0 gw 0.0.0.0 tftp 10.77.0.1" in lines
    assert "TFTP 1: File not found" in lines


def test_a_console_line_is_never_longer_than_a_datagram() -> None:
    frame = render_console_line("x" * 5000, parse_netconsole("@10.0.0.1/,@/"), MAC.octets)
    assert len(frame) < 1500


@given(st.lists(st.binary(max_size=80), max_size=30), st.sampled_from(ERAS))
def test_noise_never_ends_a_power_on(noise: list[bytes], profile: EepromProfile) -> None:
    rom = _power_on(_hardware(profile, "BOOT_ORDER=0xf12"))
    rom.handle_timeout(LINK_UP_S)
    for data in noise:
        rom.receive_frame(MAC.octets + data, LINK_UP_S)
        rom.receive_frame(MAC.octets + bytes(6) + b"\x08\x00\x45" + data, LINK_UP_S)
    assert rom.outcome is None


def test_an_eeprom_of_2019_takes_no_address_of_a_proxy_for_its_own() -> None:
    rom = _power_on(_hardware(PI4_2019, "BOOT_ORDER=0xf12"))
    server = ModelServer(TREE, offers_boot=False)
    seconds = run_boot(rom, server)
    assert isinstance(rom.outcome, BootFiles)
    assert rom.outcome.kernel == b"disk kernel"
    assert seconds == pytest.approx(LINK_UP_S + 45.0)
    assert server.requested == []
