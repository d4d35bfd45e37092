"""Partition tables of both kinds, and which first-boot dialect an image speaks."""

from __future__ import annotations

import struct
import uuid
import zlib
from dataclasses import replace

import pytest

from imagebuilder.disk.mbr import Mbr, Partition
from imagebuilder.disk.source import MemorySource
from imagebuilder.disk.table import TableKind, read_table
from imagebuilder.errors import NotUnderstood
from imagebuilder.inspect.dialect import Marks, decide_dialect, parse_os_release
from imagebuilder.inspect.facts import Dialect

SECTORS = 4096
DISK_GUID = uuid.UUID("11111111-2222-3333-4444-555555555555")
TYPE = uuid.UUID("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7")
GUIDS = (uuid.UUID(int=0xA1), uuid.UUID(int=0xA2))


def make_gpt(*parts: tuple[int, int], sectors: int = SECTORS) -> bytearray:
    """A disk with a protective MBR and both copies of a GPT; ``parts`` are (first, last) sectors."""
    disk = bytearray(sectors * 512)
    protective = Partition(start_lba=1, sectors=sectors - 1, type=0xEE)
    disk[:512] = Mbr(signature=0, entries=(protective, None, None, None)).encode()
    entries = b"".join(
        TYPE.bytes_le
        + guid.bytes_le
        + struct.pack("<QQQ", first, last, 0)
        + name.encode("utf-16-le").ljust(72, b"\0")
        for (first, last), guid, name in zip(parts, GUIDS, ("boot", "root"), strict=False)
    ).ljust(128 * 128, b"\0")
    for own, other, at in ((1, sectors - 1, 2), (sectors - 1, 1, sectors - 33)):
        disk[at * 512 : at * 512 + len(entries)] = entries
        body = struct.pack("<QQQQ", own, other, 34, sectors - 34) + DISK_GUID.bytes_le
        body += struct.pack("<QIII", at, 128, 128, zlib.crc32(entries))
        head = b"EFI PART" + struct.pack("<II", 0x10000, 92)
        crc = zlib.crc32(head + bytes(8) + body)
        disk[own * 512 : own * 512 + 92] = head + struct.pack("<II", crc, 0) + body
    return disk


def test_a_gpt_gives_partuuids_and_names() -> None:
    disk = make_gpt((100, 199), (200, 299))
    table = read_table(MemorySource(bytes(disk)), len(disk))
    assert (table.kind, table.disk_id) == (TableKind.GPT, str(DISK_GUID))
    assert [(p.number, p.start_lba, p.sectors, p.partuuid, p.name) for p in table.partitions] == [
        (1, 100, 100, str(GUIDS[0]), "boot"),
        (2, 200, 100, str(GUIDS[1]), "root"),
    ]


def test_a_damaged_first_copy_is_replaced_by_the_one_at_the_end() -> None:
    disk = make_gpt((100, 199), (200, 299))
    disk[512 + 60] ^= 1
    table = read_table(MemorySource(bytes(disk)), len(disk))
    assert table.disk_id == str(DISK_GUID)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: d.__setitem__(slice(512, 520), bytes(8)), "at byte 512.*at byte 2096640"),
        (lambda d: d.__setitem__(1024 + 40, 7), "entries' CRC-32"),
    ],
    ids=["no header", "entries"],
)
def test_both_copies_damaged_is_told_for_each(spoil: object, message: str) -> None:
    disk = make_gpt((100, 199), (200, 299))
    assert callable(spoil)
    spoil(disk)
    disk[(SECTORS - 1) * 512 : (SECTORS - 1) * 512 + 8] = b"garbage!"
    with pytest.raises(NotUnderstood, match=message):
        read_table(MemorySource(bytes(disk)), len(disk))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (((100, 199), (150, 299)), "overlap at byte"),
        (((100, 5000),), "the disk has 4096"),
        (((100, 50),), "sectors 100–50"),
    ],
)
def test_impossible_gpt_partitions_are_told(parts: tuple[tuple[int, int], ...], message: str) -> None:
    disk = make_gpt(*parts)
    with pytest.raises(NotUnderstood, match=message):
        read_table(MemorySource(bytes(disk)), len(disk))


def test_a_gpt_of_4096_byte_sectors_is_named() -> None:
    disk = make_gpt((100, 199))
    disk[512:4096] = bytes(3584)
    disk[-512:] = bytes(512)
    disk[4096:4104] = b"EFI PART"
    with pytest.raises(NotUnderstood, match="sectors of 4096 bytes"):
        read_table(MemorySource(bytes(disk)), len(disk))


def test_a_card_with_several_systems_is_named() -> None:
    extended = Partition(start_lba=2048, sectors=1000, type=0x05)
    disk = Mbr(signature=1, entries=(extended, None, None, None)).encode() + bytes(2**21)
    with pytest.raises(NotUnderstood, match=r"extended partition.*\n.*PINN"):
        read_table(MemorySource(disk), len(disk))


MARKS = Marks(
    os_id="debian",
    is_raspios=True,
    has_cloud_init=True,
    cloud_init_off=False,
    has_sys_mods_firstboot=False,
    has_preseed_units=False,
)


@pytest.mark.parametrize(
    ("marks", "dialect"),
    [
        (MARKS, Dialect.RASPIOS_TRIXIE),
        (replace(MARKS, has_sys_mods_firstboot=True), Dialect.RASPIOS_TRIXIE),
        (replace(MARKS, has_preseed_units=True), Dialect.RASPIOS_TRIXIE),
        (replace(MARKS, has_cloud_init=False, has_sys_mods_firstboot=True), Dialect.RASPIOS_BOOKWORM),
        (replace(MARKS, cloud_init_off=True, has_sys_mods_firstboot=True), Dialect.RASPIOS_BOOKWORM),
        (replace(MARKS, has_cloud_init=False, has_preseed_units=True), Dialect.RPI_PRESEED),
        (replace(MARKS, os_id="ubuntu", is_raspios=False), Dialect.UBUNTU),
        (replace(MARKS, is_raspios=False), Dialect.DEBIAN),
    ],
)
def test_the_machinery_on_the_image_decides_the_dialect(marks: Marks, dialect: Dialect) -> None:
    assert decide_dialect(marks) is dialect


@pytest.mark.parametrize(
    "marks",
    [
        replace(MARKS, has_cloud_init=False),
        replace(MARKS, is_raspios=False, has_cloud_init=False),
        replace(MARKS, os_id="ubuntu", is_raspios=False, cloud_init_off=True),
        replace(MARKS, os_id="fedora", is_raspios=False),
    ],
)
def test_an_image_without_known_machinery_is_refused_by_name(marks: Marks) -> None:
    with pytest.raises(NotUnderstood, match="os-release says"):
        decide_dialect(marks)


def test_os_release_is_read_in_all_quotings() -> None:
    text = "ID=debian\nNAME=\"Debian GNU/Linux\"\nVERSION_ID='13'\n# comment\nbroken line\nEMPTY=\n"
    assert parse_os_release(text) == {
        "ID": "debian",
        "NAME": "Debian GNU/Linux",
        "VERSION_ID": "13",
        "EMPTY": "",
    }
