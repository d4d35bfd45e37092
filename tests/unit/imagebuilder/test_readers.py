"""The FAT and ext4 readers on hand-made volumes, and the arithmetic of block maps."""

from __future__ import annotations

import struct
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.disk.blockmap import BLOCK_BYTES, COALESCE_BYTES, merge
from imagebuilder.disk.ext4_layout import Ext4Error, parse_superblock, set_bit_runs
from imagebuilder.disk.fat import FatError, FatVolume
from imagebuilder.disk.source import MemorySource
from imagebuilder.errors import NotUnderstood

CLUSTERS = 100
RESERVED = 4
FAT_SECTORS = 1


def fat_volume(chains: dict[int, int], directory: bytes, contents: dict[int, bytes]) -> bytes:
    """A FAT32 of 512-byte clusters; ``chains`` are table entries, ``contents`` cluster → bytes; the root is
    cluster 2."""
    boot = bytearray(512)
    struct.pack_into("<HBHB", boot, 11, 512, 1, RESERVED, 2)
    struct.pack_into("<II", boot, 32, RESERVED + 2 * FAT_SECTORS + CLUSTERS, FAT_SECTORS)
    struct.pack_into("<I", boot, 44, 2)
    boot[82:90] = b"FAT32   "
    boot[510:512] = b"\x55\xaa"
    table = [0x0FFFFFF8, 0x0FFFFFFF, 0x0FFFFFFF, *[0] * (CLUSTERS - 1)]
    for cluster, following in chains.items():
        table[cluster] = following
    fat = struct.pack(f"<{len(table)}I", *table).ljust(FAT_SECTORS * 512, b"\0")
    data = bytearray(CLUSTERS * 512)
    for cluster, content in {2: directory, **contents}.items():
        data[(cluster - 2) * 512 : (cluster - 2) * 512 + len(content)] = content
    return bytes(boot).ljust(RESERVED * 512, b"\0") + fat * 2 + bytes(data)


def entry(name: bytes, cluster: int, size: int, *, attributes: int = 0x20, case: int = 0) -> bytes:
    high, low = cluster >> 16, cluster & 0xFFFF
    return struct.pack("<11sBB7xH4xHI", name, attributes, case, high, low, size)


def long_entry(short: bytes, name: str) -> bytes:
    """A long name of at most 12 characters, in front of the entry with its short name."""
    checksum = 0
    for byte in short:
        checksum = ((checksum & 1) << 7) + (checksum >> 1) + byte & 0xFF
    units = f"{name}\0".encode("utf-16-le").ljust(26, b"\xff")
    return bytes((0x41,)) + units[:10] + bytes((0x0F, 0, checksum)) + units[10:22] + bytes(2) + units[22:]


def test_a_scattered_file_is_read_in_the_order_of_its_chain() -> None:
    content = bytes(range(256)) * 5
    volume = fat_volume(
        {10: 11, 11: 5, 5: 0x0FFFFFFF},
        entry(b"DATA    BIN", 10, len(content), case=0x18),
        {10: content[:512], 11: content[512:1024], 5: content[1024:]},
    )
    fat = FatVolume(MemorySource(bytes(1024) + volume), 1024)
    assert fat.read("/data.bin") == content
    start = 1024 + (RESERVED + 2 * FAT_SECTORS) * 512
    assert fat.extents("/data.bin") == ((start + 8 * 512, 1024), (start + 3 * 512, 256))
    assert [found.path for found in fat.walk()] == ["/data.bin"]
    assert fat.free_clusters == CLUSTERS - 4
    assert list(fat.mapped_ranges()) == [
        (1024, (RESERVED + 2 * FAT_SECTORS) * 512),
        (start, 512),
        (start + 3 * 512, 512),
        (start + 8 * 512, 1024),
    ]


def test_deleted_entries_and_labels_are_no_files() -> None:
    directory = (
        entry(b"bootfs     ", 0, 0, attributes=0x08)
        + entry(b"\xe5LD     TXT", 9, 5)
        + entry(b"A          ", 0, 0)
    )
    fat = FatVolume(MemorySource(fat_volume({}, directory, {})), 0)
    assert [found.path for found in fat.walk()] == ["/A"]
    assert fat.read("/a") == b""
    assert fat.find("/old.txt") is None


@pytest.mark.parametrize(
    ("chains", "message"),
    [
        ({10: 0x0FFFFFFF}, "shorter than its size"),
        ({10: 10}, "loop"),
        ({10: 99_999}, "does not exist"),
    ],
    ids=["short", "loop", "outside"],
)
def test_a_broken_chain_is_an_error_and_never_a_hang(chains: dict[int, int], message: str) -> None:
    fat = FatVolume(MemorySource(fat_volume(chains, entry(b"DATA       ", 10, 2000), {})), 0)
    with pytest.raises(FatError, match=message):
        fat.read("/data")


@pytest.mark.parametrize(
    "directory",
    [
        long_entry(b"HARMLESSTXT", "../../victim") + entry(b"HARMLESSTXT", 0, 0),
        entry(b"ETC/RC  TXT", 0, 0),
        entry(b"           ", 0, 0),
    ],
    ids=["long", "short", "empty"],
)
def test_a_name_that_leads_elsewhere_is_an_error(directory: bytes) -> None:
    fat = FatVolume(MemorySource(fat_volume({}, entry(b"A          ", 0, 0) + directory, {})), 0)
    with pytest.raises(FatError, match="which no file can be"):
        list(fat.walk())


def test_a_long_name_is_read() -> None:
    directory = long_entry(b"HARMLESSTXT", "harmless.txt") + entry(b"HARMLESSTXT", 0, 0)
    fat = FatVolume(MemorySource(fat_volume({}, directory, {})), 0)
    assert [found.path for found in fat.walk()] == ["/harmless.txt"]


@given(st.binary(min_size=512, max_size=2048))
def test_any_bytes_are_a_fat_or_an_error(data: bytes) -> None:
    signed = data[:82] + b"FAT32   " + data[90:510] + b"\x55\xaa" + data[512:]
    try:
        names = [found.path for found in FatVolume(MemorySource(signed), 0).walk()]
    except NotUnderstood:
        return
    assert all(name.startswith("/") for name in names)


def superblock(**fields: int) -> bytes:
    """A superblock with the usual values; ``fields`` are names of the table below."""
    offsets = {"blocks": 0x04, "free": 0x0C, "log": 0x18, "per_group": 0x20, "inodes": 0x28}
    offsets |= {"rev": 0x4C, "compat": 0x5C, "incompat": 0x60, "ro": 0x64}
    raw = bytearray(1024)
    values = {
        "blocks": 100_000,
        "free": 500,
        "per_group": 32_768,
        "inodes": 8192,
        "incompat": 0x42,
        "rev": 1,
        "log": 2,
    }
    for name, value in {**values, **fields}.items():
        struct.pack_into("<I", raw, offsets[name], value)
    struct.pack_into("<HxxxxxxH", raw, 0x38, 0xEF53, 0)
    struct.pack_into("<H", raw, 0x58, 256)
    return bytes(raw)


def test_superblock_values() -> None:
    parsed = parse_superblock(superblock(ro=1))
    assert (parsed.block_bytes, parsed.groups, parsed.free_blocks) == (4096, 4, 500)
    assert parsed.inode_table_blocks == 512
    assert [group for group in range(30) if parsed.holds_backup(group)] == [0, 1, 3, 5, 7, 9, 25, 27]
    two = replace(parsed, compat=0x200, backup_groups=(1, 3))
    assert [group for group in range(30) if two.holds_backup(group)] == [0, 1, 3]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (bytes(1024), "no ext4"),
        (b"short", "no ext4"),
        (superblock(incompat=0x46), "journal must be replayed"),
        (superblock(incompat=0x10042), "features that Bramble cannot edit"),
        (superblock(ro=0x200), "features that Bramble cannot edit"),
        (superblock(per_group=0), "impossible"),
    ],
)
def test_other_filesystems_are_told(raw: bytes, message: str) -> None:
    with pytest.raises(Ext4Error, match=message):
        parse_superblock(raw)


@given(st.lists(st.booleans(), max_size=200))
def test_bit_runs_are_exactly_the_set_bits(bits: list[bool]) -> None:
    number = sum(1 << index for index, bit in enumerate(bits) if bit)
    runs = list(set_bit_runs(number.to_bytes(32, "little") + b"\xff", len(bits)))
    assert [index for first, count in runs for index in range(first, first + count)] == [
        index for index, bit in enumerate(bits) if bit
    ]


@given(st.lists(st.tuples(st.integers(0, 3_000_000), st.integers(0, 200_000)), max_size=30))
def test_merged_ranges_cover_every_piece_on_the_grid_and_stay_apart(pieces: list[tuple[int, int]]) -> None:
    size = 4_000_000
    ranges = list(merge(pieces, size))
    for offset, length in pieces:
        assert length == 0 or any(r.start <= offset and offset + length <= r.end for r in ranges)
    for one, two in pairwise(ranges):
        assert two.start - one.end >= COALESCE_BYTES
    assert all(r.start % BLOCK_BYTES == 0 and (r.end % BLOCK_BYTES == 0 or r.end == size) for r in ranges)
