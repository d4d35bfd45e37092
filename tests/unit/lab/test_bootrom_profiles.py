"""Every EEPROM era byte for byte: the DISCOVER, option 97, the read request, and how blocks are counted."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from fakes_boot_server import ModelServer, run_boot

from fleet.boards import BoardModel, MacAddress, Serial
from lab.bootloader.client import FIRST_PORT, NetworkBoot
from lab.bootloader.dhcp import DhcpExchange, discover
from lab.bootloader.files import BootFiles, FileRequest, ModeFailedError
from lab.bootloader.profile import (
    BOOTCODE,
    PI3_ROM,
    PI4_2019,
    PI4_2021,
    PI4_2023,
    PI5_2025,
    PROFILES,
    AnyBoard,
    BoardIdentity,
    EepromProfile,
    Family,
    GuidStyle,
    LegacyBoard,
    render_guid,
)
from lab.bootloader.settings import EepromSettings, PrefixMode
from lab.bootloader.tftp import Download, Outcome, PayloadCarrier
from pxe.boot.identity import IdentifiedBy, identify_client
from pxe.dhcp.wire import Option, parse_request
from pxe.tftp.wire import Data, OptionAck

SERIAL = Serial.parse("1000000091cdf03d")
MAC = MacAddress.parse("e4:5f:01:09:02:f7")
CM4_MAC = MacAddress.parse("e4:5f:01:f8:de:b9")
XID = 0x01020304
MODELS = {"cm4": BoardModel.CM4, "cm5": BoardModel.CM5}


def _board(profile: EepromProfile) -> AnyBoard:
    if profile.soc is None:
        return LegacyBoard(serial=SERIAL, mac=MacAddress.parse("b8:27:eb:09:02:f7"))
    usual = BoardModel.PI4 if profile.family is Family.BCM2711 else BoardModel.PI5
    model = MODELS.get(profile.name, usual)
    return BoardIdentity(model=model, serial=SERIAL, mac=MAC, revision=model.revision_codes[-1])


def test_the_table_has_every_era_of_the_facts() -> None:
    assert set(PROFILES) == {
        *("pi3rom", "bootcode", "pi4-2019", "pi4-2021", "pi4-2023", "pi4-2026", "cm4"),
        *("pi5-2023", "pi5-2025", "pi5-2026", "cm5"),
    }


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_discover_has_the_size_and_the_order_of_options_of_its_family(profile: EepromProfile) -> None:
    data = discover(_board(profile), profile, XID).encode()
    message = parse_request(data)

    assert len(data) == (320 if profile.family is Family.ROM3 else 322)
    assert [code for code, _ in message.options] == [55, 93, 94, 97, 60]
    assert message.flags == 0
    assert message.option(Option.CLIENT_ARCH) == b"\0\0"
    assert message.vendor_class == b"PXEClient:Arch:00000:UNDI:002001"
    assert message.xid == (0x26F30339 if profile.family is Family.ROM3 else XID)


def test_the_lists_of_wanted_options_of_a_pi_3() -> None:
    rom = discover(_board(PI3_ROM), PI3_ROM, XID).option(Option.PARAMETER_LIST)
    bootcode = discover(_board(BOOTCODE), BOOTCODE, XID).option(Option.PARAMETER_LIST)
    assert rom == bytes((43, 60, 67, *range(128, 136), 66))
    assert bootcode == bytes((43, 60, 67, *range(128, 136), 66, 1, 3))


@pytest.mark.parametrize(
    ("profile", "board", "guid"),
    [
        # A Pi 4 of 8 GB and a CM4 whose first 14 bytes stand in public logs.
        (PI4_2023, BoardIdentity(model=BoardModel.PI4, serial=SERIAL, mac=MAC, revision=0xD03114),
         "0034695052" "1431d000" "010902f7" "3df0cd91"),
        (PI4_2023, BoardIdentity(model=BoardModel.CM4, serial=SERIAL, mac=CM4_MAC, revision=0xA03141),
         "0034695052" "4131a000" "01f8deb9" "3df0cd91"),
        (PI4_2021, BoardIdentity(model=BoardModel.PI4, serial=SERIAL, mac=MAC, revision=0xA03111),
         "0052506934" "1131a000" "010902f7" "3df0cd91"),
        (PI5_2025, BoardIdentity(model=BoardModel.CM5, serial=SERIAL, mac=MAC, revision=0xD04180),
         "0035695052" "8041d000" "010902f7" "3df0cd91"),
        (PI4_2019, BoardIdentity(model=BoardModel.PI4, serial=SERIAL, mac=MAC, revision=0xA03111),
         "00" + "3df0cd91" * 4),
        (BOOTCODE, LegacyBoard(serial=SERIAL, mac=MAC), "00" + "3df0cd91" * 4),
        (PI3_ROM, LegacyBoard(serial=SERIAL, mac=MAC), "00" + "44" * 16),
        (replace(PI4_2021, guid_style=GuidStyle.FOURCC_WITHOUT_MAC),
         BoardIdentity(model=BoardModel.PI4, serial=SERIAL, mac=MAC, revision=0xA03111),
         "0052506934" "1131a000" "00000000" "3df0cd91"),
    ],
    ids=["pi4-new", "cm4-new", "pi4-old", "cm5", "pi4-2019", "bootcode", "rom", "without-mac"],
)  # fmt: skip
def test_option_97_byte_for_byte(profile: EepromProfile, board: AnyBoard, guid: str) -> None:
    assert render_guid(board, profile).hex() == guid


@pytest.mark.parametrize(
    ("profile", "number", "start"),
    [
        (PI4_2023, 0x34695052, "0034695052"),
        (PI4_2021, 0x34695052, "0052506934"),
        (PI5_2025, 0x41424344, "0041424344"),
        (PI5_2025, 0, "003df0cd913df0cd91"),
    ],
)
def test_a_fourcc_of_the_users_own(profile: EepromProfile, number: int, start: str) -> None:
    changed = profile.with_settings(replace(profile.settings, option97=number))
    assert render_guid(_board(profile), changed).hex().startswith(start)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_the_server_knows_every_era_for_what_it_is(profile: EepromProfile) -> None:
    board = _board(profile)
    seen = identify_client(discover(board, profile, XID))

    assert seen is not None
    assert seen.is_pi
    assert seen.mac == board.mac
    match profile.guid_style:
        case GuidStyle.ROM:
            assert (seen.serial_low, seen.how) == (None, IdentifiedBy.MAC)
        case GuidStyle.SERIAL_X4:
            assert (seen.serial_low, seen.how) == (SERIAL.low, IdentifiedBy.OPTION_97_LEGACY)
        case _:
            assert (seen.serial_low, seen.how) == (SERIAL.low, IdentifiedBy.OPTION_97)
            assert seen.family is profile.soc


@pytest.mark.parametrize(
    ("profile", "tail"),
    [
        (PI3_ROM, b"octet\0"),
        (BOOTCODE, b"octet\0tsize\x000\0"),
        (PI4_2019, b"octet\0tsize\x000\0blksize\x001024\0"),
        (PI4_2023, b"octet\0tsize\x000\0blksize\x001468\0"),
        (PI5_2025, b"octet\0tsize\x000\0blksize\x001468\0"),
    ],
    ids=lambda value: value.name if isinstance(value, EepromProfile) else "",
)
def test_the_read_request_carries_the_options_of_its_era(profile: EepromProfile, tail: bytes) -> None:
    download = Download(FileRequest("f"), PayloadCarrier(), profile, port=49152, now=0.0)
    assert download.to_send == [b"\0\x01f\0" + tail]


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_files_past_65535_blocks_end_only_where_numbers_wrap(profile: EepromProfile) -> None:
    """65,536 full blocks of the era's own size: 96,206,848 bytes where that is 1468, as in rpi-eeprom#720."""
    download = Download(
        FileRequest("f", is_read=False),
        PayloadCarrier(),
        profile,
        port=49152,
        now=0.0,
        keeps_content=False,
    )
    if profile.blksize != 512:
        download.receive(OptionAck((("blksize", str(profile.blksize)),)).encode(), 40000, 0.0)
    full = bytes(profile.blksize)
    download.receive(Data(1, full).encode(), 40000, 0.0)
    for number in range(2, 65537):
        download.receive_data(number % 65536, full, 0.0)
    download.to_send.clear()
    download.receive_data(1, b"end", 0.0)

    if profile.wraps_block_numbers:
        assert download.outcome is Outcome.FOUND
        assert download.received_bytes == 65536 * profile.blksize + 3
    else:
        assert download.outcome is None
        assert download.received_bytes == 65535 * profile.blksize
        download.handle_timeout(31.0)
        assert download.outcome is Outcome.TIMED_OUT


def test_the_rom_of_a_pi_3_gives_up_after_five_tries_of_five_seconds() -> None:
    exchange = DhcpExchange(_board(PI3_ROM), PI3_ROM, xid=XID, now=0.0)
    while exchange.failed is None:
        exchange.handle_timeout(exchange.next_timeout())
    assert len(exchange.to_send) == 5
    assert "25 s" in exchange.failed


PI3_FILES = {
    "bootcode.bin": b"second stage",
    "start.elf": b"firmware",
    "config.txt": b"arm_64bit=1\n",
    "kernel8.img": b"kernel",
    "cmdline.txt": b"quiet",
}


def test_a_pi_3_boots_through_its_rom_without_asking_for_its_address() -> None:
    board = _board(PI3_ROM)
    boot = NetworkBoot(board, PI3_ROM, xid=XID, first_port=FIRST_PORT, now=0.0)
    server = ModelServer(PI3_FILES)
    server.menu_spaces, server.names_server = "   ", False
    server.ignores_options = True
    run_boot(boot, server)

    assert isinstance(boot.outcome, BootFiles)
    assert boot.outcome.kernel == b"kernel"
    assert server.requested[:3] == ["bootcode.bin", "bootsig.bin", f"{SERIAL.prefix}/start.elf"]
    assert f"{SERIAL.prefix}/autoboot.txt" not in server.requested
    assert server.dhcp_requests == 0


def test_a_pi_3_does_not_know_a_menu_without_its_three_spaces() -> None:
    boot = NetworkBoot(_board(PI3_ROM), PI3_ROM, xid=XID, first_port=FIRST_PORT, now=0.0)
    server = ModelServer(PI3_FILES)
    server.names_server = False
    run_boot(boot, server)
    assert isinstance(boot.outcome, ModeFailedError)


@pytest.mark.parametrize(
    ("settings", "prefix"),
    [
        (EepromSettings(), "91cdf03d/"),
        (EepromSettings(prefix_mode=PrefixMode.MAC), "e4-5f-01-09-02-f7/"),
        (EepromSettings(prefix_mode=PrefixMode.TEXT, prefix_text="lab/"), "lab/"),
        (EepromSettings(prefix_mode=PrefixMode.TEXT, prefix_text="lab"), "lab"),
        (EepromSettings(prefix_mode=PrefixMode.TEXT), ""),
    ],
    ids=["serial", "mac", "text", "text-without-slash", "no-text"],
)
@pytest.mark.parametrize("profile", [PI4_2023, PI5_2025], ids=["pi4", "pi5"])
def test_every_prefix_mode_goes_before_the_probe(
    settings: EepromSettings, prefix: str, profile: EepromProfile
) -> None:
    boot = NetworkBoot(
        _board(profile), profile.with_settings(settings), xid=XID, first_port=FIRST_PORT, now=0.0
    )
    server = ModelServer({})
    run_boot(boot, server)
    probe = "start4.elf" if profile.family is Family.BCM2711 else "config.txt"
    assert server.requested[0] in (f"{prefix}{probe}", "config.txt")
    assert prefix == "" or server.requested[0] == f"{prefix}{probe}"


def test_with_client_ip_and_tftp_ip_nobody_is_asked_for_an_address() -> None:
    settings = EepromSettings(
        client_ip=IPv4Address("10.77.0.50"),
        subnet=IPv4Address("255.255.255.0"),
        tftp_ip=IPv4Address("10.77.0.1"),
    )
    boot = NetworkBoot(
        _board(PI5_2025), PI5_2025.with_settings(settings), xid=XID, first_port=FIRST_PORT, now=0.0
    )
    server = ModelServer({})
    assert run_boot(boot, server) < 0.1
    assert server.dhcp_requests == server.dhcp_discovers == 0
    assert server.requested == [f"{SERIAL.prefix}/config.txt", "config.txt"]


def test_tftp_ip_alone_makes_any_offer_good_enough() -> None:
    settings = EepromSettings(tftp_ip=IPv4Address("10.77.0.1"))
    boot = NetworkBoot(
        _board(PI5_2025), PI5_2025.with_settings(settings), xid=XID, first_port=FIRST_PORT, now=0.0
    )
    server = ModelServer({}, offers_boot=False)
    assert run_boot(boot, server) < 0.1
    assert server.requested


def test_an_address_of_the_users_own_is_used_everywhere() -> None:
    mac = MacAddress.parse("02:00:00:00:00:07")
    profile = PI5_2025.with_settings(EepromSettings(mac_address=mac))
    assert discover(_board(profile), profile, XID).chaddr == mac.octets
    boot = NetworkBoot(_board(profile), profile, xid=XID, first_port=FIRST_PORT, now=0.0)
    (frame,) = boot.frames_to_send()
    assert frame[6:12] == mac.octets
    assert run_boot(boot, ModelServer({})) < 5.0
