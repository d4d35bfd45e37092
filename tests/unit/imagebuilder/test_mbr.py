from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.disk.mbr import (
    TYPE_FAT32_LBA,
    TYPE_LINUX,
    Mbr,
    MbrError,
    Partition,
    parse_mbr,
    raspios_layout,
    raspios_root_bytes,
)

MIB = 2**20

# Sector 0 as sfdisk 2.38.1 writes it for this script, the table from byte 440 on:
#   label: dos / label-id: 0x1a2b3c4d
#   start=16384, size=1048576, type=c / start=1064960, size=3276800, type=83
SFDISK = bytes.fromhex(
    "4d3c2b1a0000000505010c4a08420040000000001000004a09428342740e0040100000003200" + "00" * 32 + "55aa"
)


def test_raspios_trixie_layout_has_its_published_offsets() -> None:
    mbr = raspios_layout(0x1A2B3C4D, 3_276_800 * 512)
    boot, root = mbr.partition(1), mbr.partition(2)
    assert (boot.start_lba, boot.sectors, boot.type) == (16384, 1_048_576, TYPE_FAT32_LBA)
    assert (root.start_lba, root.sectors, root.type) == (1_064_960, 3_276_800, TYPE_LINUX)
    assert (boot.offset, root.offset) == (8 * MIB, 520 * MIB)
    assert [number for number, _ in mbr.partitions] == [1, 2]


def test_partuuid_is_the_signature_in_hex_and_the_number() -> None:
    assert raspios_layout(0xA1, 512).partuuid(2) == "000000a1-02"


def test_encoding_equals_what_sfdisk_writes() -> None:
    encoded = raspios_layout(0x1A2B3C4D, 3_276_800 * 512).encode()
    assert encoded[:440] == bytes(440)
    assert encoded[440:] == SFDISK


def test_reading_what_sfdisk_wrote_gives_the_layout() -> None:
    assert parse_mbr(bytes(440) + SFDISK) == raspios_layout(0x1A2B3C4D, 3_276_800 * 512)


def test_root_is_used_times_1_2_plus_200_mib_rounded_up_to_8_mib() -> None:
    assert raspios_root_bytes(0) == 200 * MIB
    assert raspios_root_bytes(1000 * MIB) == 1400 * MIB
    assert raspios_root_bytes(1000 * MIB + 1) == 1408 * MIB


def test_boot_code_survives_reading_and_writing() -> None:
    data = b"\xfa\x31\xc0" + raspios_layout(7, MIB).encode()[3:]
    assert parse_mbr(data).encode() == data


def test_growing_a_partition_keeps_the_others() -> None:
    mbr = raspios_layout(1, MIB)
    grown = mbr.with_partition(2, Partition(start_lba=1_064_960, sectors=4096, type=TYPE_LINUX))
    assert grown.partition(2).sectors == 4096
    assert grown.partition(1) == mbr.partition(1)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(b"\0" * 511, "511 bytes", id="short"),
        pytest.param(b"\x1f\x8b" + b"\0" * 510, "ends in 00 00", id="no magic"),
        pytest.param(bytes(440) + SFDISK.replace(b"\x0c", b"\xee", 1), "GPT", id="gpt"),
    ],
)
def test_what_is_no_partition_table_is_named(data: bytes, words: str) -> None:
    with pytest.raises(MbrError, match=words):
        parse_mbr(data)


def test_overlapping_partitions_are_named() -> None:
    one = Partition(start_lba=2048, sectors=4096, type=TYPE_LINUX)
    two = Partition(start_lba=6143, sectors=1, type=TYPE_LINUX)
    with pytest.raises(MbrError, match=r"partitions 1 .* and 2 .* overlap"):
        Mbr(signature=1, entries=(one, two, None, None))


def test_neighbours_do_not_overlap_in_any_order() -> None:
    one = Partition(start_lba=2048, sectors=4096, type=TYPE_LINUX)
    two = Partition(start_lba=6144, sectors=1, type=TYPE_LINUX)
    assert len(Mbr(signature=1, entries=(two, None, one, None)).partitions) == 2


def test_partition_beyond_the_disk_is_named() -> None:
    data = raspios_layout(1, 8 * MIB).encode()
    assert parse_mbr(data, disk_bytes=528 * MIB).signature == 1
    with pytest.raises(MbrError, match="partition 2 ends at byte 553648128, the disk has 553648127"):
        parse_mbr(data, disk_bytes=528 * MIB - 1)


@pytest.mark.parametrize(("start", "sectors"), [(2048, 0), (0, 8), (0xFFFF_FFFF, 2)])
def test_impossible_partitions_cannot_be_made(start: int, sectors: int) -> None:
    with pytest.raises(MbrError):
        Partition(start_lba=start, sectors=sectors, type=TYPE_LINUX)


def test_missing_partition_says_which_there_are() -> None:
    with pytest.raises(MbrError, match=r"no partition 3 \(it has: 1, 2\)"):
        raspios_layout(1, MIB).partition(3)


@given(st.binary(min_size=512, max_size=512))
def test_any_sector_is_read_or_refused(data: bytes) -> None:
    try:
        mbr = parse_mbr(data[:510] + b"\x55\xaa")
    except MbrError:
        return
    assert parse_mbr(mbr.encode()) == mbr


@given(
    st.integers(0, 0xFFFF_FFFF),
    st.lists(st.tuples(st.integers(1, 1000), st.integers(1, 2**29), st.booleans()), min_size=1, max_size=4),
)
def test_tables_survive_encoding(signature: int, gaps: list[tuple[int, int, bool]]) -> None:
    entries: list[Partition | None] = [None] * 4
    start = 1
    for index, (gap, sectors, bootable) in enumerate(gaps):
        start += gap
        entries[index] = Partition(start_lba=start, sectors=sectors, type=TYPE_LINUX, bootable=bootable)
        start += sectors
    one, two, three, four = entries
    mbr = Mbr(signature=signature, entries=(one, two, three, four))
    assert parse_mbr(mbr.encode()) == mbr
