"""The boards catalogue and the values that identify a board."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.boards import (
    BoardError,
    BoardModel,
    BootMode,
    DiskKind,
    MacAddress,
    Serial,
    Soc,
    decode_revision,
)

every_model = pytest.mark.parametrize("model", BoardModel, ids=lambda model: model.yaml_name)


@every_model
def test_every_revision_code_of_the_catalogue_decodes_to_its_model(model: BoardModel) -> None:
    decoded = [decode_revision(code) for code in model.revision_codes]
    assert decoded
    assert {revision.model for revision in decoded} == {model}
    assert {revision.soc for revision in decoded} == {model.soc}


@every_model
def test_every_model_can_boot_from_the_network_and_from_each_of_its_disks(model: BoardModel) -> None:
    needed = {DiskKind.SD: BootMode.SD, DiskKind.USB: BootMode.USB_MSD, DiskKind.NVME: BootMode.NVME}
    assert BootMode.NETWORK in model.boot_modes
    assert {needed[disk] for disk in model.disks} <= set(model.boot_modes)


@every_model
def test_model_is_found_by_its_yaml_name_however_it_is_spelt(model: BoardModel) -> None:
    assert BoardModel.parse(model.yaml_name) is model
    assert BoardModel.parse(model.yaml_name.upper().replace("-", "_")) is model


def test_device_trees_belong_to_one_model_and_follow_the_soc() -> None:
    names = [name for model in BoardModel for name in model.dtb_names]
    assert len(names) == len(set(names))
    for model in BoardModel:
        assert all(name.startswith(model.soc.name.lower()) for name in model.dtb_names)


@pytest.mark.parametrize(
    ("model", "has_nvme"),
    [
        (BoardModel.PI4, False),
        (BoardModel.PI400, False),
        (BoardModel.CM4, True),
        (BoardModel.PI5, True),
        (BoardModel.CM5, True),
        (BoardModel.CM5_LITE, True),
    ],
)
def test_only_boards_with_pcie_have_nvme(model: BoardModel, has_nvme: bool) -> None:
    assert (DiskKind.NVME in model.disks) is has_nvme


def test_unknown_board_is_answered_with_the_known_ones() -> None:
    with pytest.raises(BoardError, match="'pi6' is not a board") as caught:
        BoardModel.parse("pi6")
    assert "cm5-lite" in caught.value.hint


def test_memory_choices_follow_from_the_revision_codes() -> None:
    assert BoardModel.PI4.memory_choices_mib == (1024, 2048, 4096, 8192)
    assert BoardModel.PI500.memory_choices_mib == (8192, 16384)


@pytest.mark.parametrize(
    ("code", "model", "memory_mib", "board_rev", "manufacturer"),
    [
        # Codes and their meaning as in the Raspberry Pi documentation's table of new-style codes.
        (0xA03111, BoardModel.PI4, 1024, "1.1", "Sony UK"),
        (0xD03114, BoardModel.PI4, 8192, "1.4", "Sony UK"),
        (0xC03130, BoardModel.PI400, 4096, "1.0", "Sony UK"),
        (0xE04171, BoardModel.PI5, 16384, "1.1", "Sony UK"),
        (0xB041A0, BoardModel.CM5_LITE, 2048, "1.0", "Sony UK"),
        (0xA22082, None, 1024, "1.2", "Embest"),  # Pi 3B
        (0x2A03111, BoardModel.PI4, 1024, "1.1", "Sony UK"),  # warranty bit set by over-clocking
        (0xF04171, BoardModel.PI5, None, "1.1", "Sony UK"),  # memory "other"
        (0x8F4170, BoardModel.PI5, 256, "1.0", "manufacturer 15"),
    ],
    ids=lambda value: f"{value:x}" if isinstance(value, int) else None,
)
def test_revision_code_is_decoded(
    code: int, model: BoardModel | None, memory_mib: int | None, board_rev: str, manufacturer: str
) -> None:
    revision = decode_revision(code)
    assert revision.model is model
    assert revision.memory_mib == memory_mib
    assert revision.board_rev == board_rev
    assert revision.manufacturer == manufacturer
    assert f"{code:x}" in str(revision)


@pytest.mark.parametrize("code", [0x000E, 0x1_0000_0000, -1])
def test_code_that_is_not_new_style_is_refused(code: int) -> None:
    with pytest.raises(BoardError):
        decode_revision(code)


@given(st.integers(min_value=0, max_value=0xFFFF_FFFF))
def test_any_32_bits_decode_or_are_refused(code: int) -> None:
    try:
        revision = decode_revision(code)
    except BoardError:
        assert not code & 1 << 23
        return
    assert revision.code == code
    assert revision.model is None or revision.model.type_code == code >> 4 & 0xFF


def test_option_97_carries_the_family_in_both_byte_orders() -> None:
    assert Soc.BCM2711.option97_prefixes == (b"RPi4", b"4iPR")
    assert BoardModel.CM5.option97_prefixes == (b"RPi5", b"5iPR")


@pytest.mark.parametrize(
    "text", ["dc:a6:32:01:02:03", "DC-A6-32-01-02-03", "dca6.3201.0203", "dca632010203", " dc:a6:32:1:2:3 "]
)
def test_mac_is_read_in_every_usual_spelling(text: str) -> None:
    mac = MacAddress.parse(text)
    assert str(mac) == "dc:a6:32:01:02:03"
    assert mac.dashed == "dc-a6-32-01-02-03"
    assert mac.is_raspberry_pi


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("dc:a6:32:1", "has 4 octets, a MAC has 6"),
        ("dc:a6:32:01:02:03:04", "has 7 octets"),
        ("dc:a6:32:01:02:0g", "'0g' is not an octet"),
        ("dc:a6:32:01:02:", "'' is not an octet"),
        ("", "'' is not an octet"),
        ("dc:a6:32:01:02:003", "'003' is not an octet"),
        ("01:00:5e:00:00:01", "group address"),
        ("ff:ff:ff:ff:ff:ff", "group address"),
        ("00:00:00:00:00:00", "no interface's address"),
    ],
)
def test_faulty_mac_is_explained(text: str, complaint: str) -> None:
    with pytest.raises(BoardError) as caught:
        MacAddress.parse(text)
    assert complaint in caught.value.message
    assert "ip link show" in caught.value.hint


@given(st.binary(min_size=6, max_size=6).filter(lambda octets: not octets[0] & 1 and any(octets)))
def test_mac_survives_its_own_text(octets: bytes) -> None:
    mac = MacAddress(octets)
    assert MacAddress.parse(str(mac)) == MacAddress.parse(mac.dashed) == mac


@given(st.text(max_size=20))
def test_any_text_is_a_mac_or_a_board_error(text: str) -> None:
    try:
        mac = MacAddress.parse(text)
    except BoardError:
        return
    assert len(mac.octets) == 6


def test_serial_gives_the_directory_that_the_board_asks_for() -> None:
    serial = Serial.parse("0C8F7E5CBD989AE1")
    assert str(serial) == "0c8f7e5cbd989ae1"
    assert serial.prefix == "bd989ae1"
    assert serial.low == 0xBD989AE1
    assert not serial.is_short


def test_short_serial_matches_the_board_by_its_low_half() -> None:
    short, full = Serial.parse("5b154510"), Serial.parse("0x100000005b154510")
    assert short.is_short
    assert short.matches(full)
    assert full.matches(short)
    assert not full.matches(Serial.parse("200000005b154510"))
    assert not short.matches(Serial.parse("5b154511"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("d03114", "has 6 digits, a serial has 16"),
        ("10000000d03114zz", "'z' is not a hexadecimal digit"),
        ("", "has 0 digits"),
        ("0000000000000000", "names no board"),
        ("１0000000d03114aa", "not a hexadecimal digit"),
    ],
)
def test_faulty_serial_is_explained(text: str, complaint: str) -> None:
    with pytest.raises(BoardError) as caught:
        Serial.parse(text)
    assert complaint in caught.value.message


def test_values_cannot_be_made_invalid() -> None:
    with pytest.raises(BoardError, match="has 3 octets"):
        MacAddress(b"\x00\x01\x02")
    with pytest.raises(BoardError, match="not a serial of 16"):
        Serial("5B154510")
