"""Who is this board: every form of option 97, and the names in TFTP requests."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes_pxe import PI4_MAC, PI4_SERIAL_LOW, client_message, pi_discover, pi_guid

from fleet.boards import BoardModel, MacAddress, Soc
from pxe.boot.identity import (
    BoardIdentity,
    IdentifiedBy,
    identify_client,
    identify_directory,
    merge,
)
from pxe.dhcp.wire import MessageType

PI5_MAC = MacAddress.parse("2c:cf:67:b8:11:1c")
STRANGER = MacAddress.parse("52:54:00:12:34:56")


@pytest.mark.parametrize(
    ("fourcc", "revision", "model", "family"),
    [
        pytest.param(b"RPi4", 0xD03114, BoardModel.PI4, Soc.BCM2711, id="pi4, old order"),
        pytest.param(b"4iPR", 0xD03114, BoardModel.PI4, Soc.BCM2711, id="pi4, new order"),
        pytest.param(b"RPi5", 0xD04170, BoardModel.PI5, Soc.BCM2712, id="pi5, old order"),
        pytest.param(b"5iPR", 0xD04180, BoardModel.CM5, Soc.BCM2712, id="cm5, new order"),
        pytest.param(b"RPi4", 0xC04170, BoardModel.PI5, Soc.BCM2712, id="pi5 of 2023 says RPi4"),
        pytest.param(b"ACME", 0xA03141, BoardModel.CM4, Soc.BCM2711, id="fourcc of the user's own"),
    ],
)
def test_option_97_tells_model_and_serial(
    fourcc: bytes, revision: int, model: BoardModel, family: Soc
) -> None:
    guid = pi_guid(fourcc, mac=PI5_MAC, serial_low=0xBD989AE1, revision=revision)
    board = identify_client(pi_discover(mac=PI5_MAC, guid=guid))
    assert board is not None
    assert board.revision is not None
    assert (board.revision.model, board.family) == (model, family)
    assert (board.serial_prefix, board.mac, board.is_pi) == ("bd989ae1", PI5_MAC, True)
    assert board.how is IdentifiedBy.OPTION_97
    assert board.eeprom_style == fourcc.decode()
    assert model.title in board.describe()
    assert "…bd989ae1" in board.describe()


def test_a_guid_without_mac_part_is_of_an_early_eeprom() -> None:
    guid = pi_guid()[:9] + bytes(4) + pi_guid()[13:]
    board = identify_client(pi_discover(guid=guid))
    assert board is not None
    assert board.serial_low == PI4_SERIAL_LOW


def test_a_guid_with_the_mac_of_another_board_is_not_believed() -> None:
    board = identify_client(pi_discover(guid=pi_guid(mac=PI5_MAC)))
    assert board is not None
    assert (board.serial_low, board.how, board.mac) == (None, IdentifiedBy.MAC, PI4_MAC)


def test_the_old_style_repeats_the_serial() -> None:
    board = identify_client(pi_discover(guid=b"\0" + PI4_SERIAL_LOW.to_bytes(4, "little") * 4))
    assert board is not None
    assert (board.serial_low, board.how) == (PI4_SERIAL_LOW, IdentifiedBy.OPTION_97_LEGACY)


@pytest.mark.parametrize(
    "guid",
    [b"\0" + b"\x44" * 16, b"", b"\0" * 17, b"\xff" + pi_guid()[1:], pi_guid()[:16], bytes(range(17))],
    ids=["boot ROM constant", "empty", "zeros", "other type", "too short", "a computer's"],
)
def test_other_guids_leave_the_mac_address(guid: bytes) -> None:
    board = identify_client(pi_discover(guid=guid))
    assert board is not None
    assert (board.serial_low, board.mac, board.how) == (None, PI4_MAC, IdentifiedBy.MAC)


def test_a_computer_with_pxe_is_no_pi() -> None:
    board = identify_client(pi_discover(mac=STRANGER, guid=b"\0" + b"\x12\x34" * 8))
    assert board is not None
    assert not board.is_pi


def test_the_old_style_is_not_believed_of_a_computer() -> None:
    board = identify_client(pi_discover(mac=STRANGER, guid=b"\0" + b"\x12\x34\x56\x78" * 4))
    assert board is not None
    assert (board.serial_low, board.is_pi) == (None, False)


def test_a_pis_operating_system_is_no_bootloader() -> None:
    board = identify_client(client_message(MessageType.REQUEST, vendor_class=b"dhcpcd-10.1.0"))
    assert board is not None
    assert not board.is_pi


@pytest.mark.parametrize("octets", [bytes(6), b"\xff" * 6, b"\x01\x00\x5e\x00\x00\x01"], ids=str)
def test_a_hardware_address_of_no_interface_is_nobody(octets: bytes) -> None:
    assert identify_client(replace(pi_discover(), chaddr=octets)) is None


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("91cdf03d", "91cdf03d"),
        ("91CDF03D", "91cdf03d"),
        ("1000000091cdf03d", "91cdf03d"),
        ("0000001a", "0000001a"),
    ],
)
def test_a_serial_directory_names_the_board(name: str, prefix: str) -> None:
    board = identify_directory(name)
    assert board is not None
    assert board.serial_prefix == prefix


def test_a_mac_directory_names_the_board() -> None:
    board = identify_directory("E4-5F-01-09-02-F7")
    assert board is not None
    assert board.mac == PI4_MAC


@pytest.mark.parametrize(
    "name",
    [
        "overlays",
        "91cdf03",
        "91cdf03d0",
        "91cdf03g",
        "00000000",
        "10000000" + "0" * 8,
        "ff-ff-ff-ff-ff-ff",
        "",
    ],
)
def test_other_directories_name_nobody(name: str) -> None:
    assert identify_directory(name) is None


def test_what_a_board_says_is_completed_by_what_is_known() -> None:
    known = identify_client(pi_discover())
    assert known is not None
    board = merge(BoardIdentity(serial_low=PI4_SERIAL_LOW, is_pi=True), known)
    assert (board.mac, board.revision) == (PI4_MAC, known.revision)


def test_another_serial_is_not_completed_but_keeps_the_networks_mac() -> None:
    known = identify_client(pi_discover())
    board = merge(BoardIdentity(serial_low=1, is_pi=True), known)
    assert (board.serial_low, board.mac, board.revision) == (1, PI4_MAC, None)
