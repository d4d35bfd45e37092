"""Partitions that an install leaves alone: how they are found, and every reason not to touch the disk."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import AgentError
from agent.installer.index import ImageIndex
from agent.installer.kept import (
    RECORD_OFFSET,
    Kept,
    add_entries,
    decode_record,
    encode_record,
    find_kept,
    probe_label,
    require_room,
    rest_of,
)
from agent.installer.layout import MIB, parse_partitions
from agent.installer.writer import ImageWriter

DISK = 256 * MIB


def ext4(label: str) -> bytes:
    data = bytearray(4096)
    data[1080:1082] = b"\x53\xef"
    data[1144:1160] = label.encode().ljust(16, b"\0")
    return bytes(data)


def xfs(label: str) -> bytes:
    return b"XFSB".ljust(108, b"\0") + label.encode().ljust(12, b"\0") + bytes(400)


def btrfs(label: str) -> bytes:
    return bytes(65600) + b"_BHRfS_M".ljust(235, b"\0") + label.encode().ljust(256, b"\0")


def luks(label: str) -> bytes:
    return b"LUKS\xba\xbe\x00\x02".ljust(24, b"\0") + label.encode().ljust(48, b"\0")


def f2fs(label: str) -> bytes:
    return bytes(1024) + b"\x10\x20\xf5\xf2".ljust(124, b"\0") + label.encode("utf-16-le").ljust(1024, b"\0")


def fat32(label: str) -> bytes:
    data = bytearray(512)
    data[71:82] = label.encode().ljust(11)
    data[82:90] = b"FAT32   "
    data[510:512] = b"\x55\xaa"
    return bytes(data)


def fat16(label: str) -> bytes:
    data = bytearray(512)
    data[43:54] = label.encode().ljust(11)
    data[54:62] = b"FAT16   "
    data[510:512] = b"\x55\xaa"
    return bytes(data)


class Disk:
    """Partitions (start, sectors, first bytes) on a small disk."""

    def __init__(self, *partitions: tuple[int, int, bytes], gpt: bool = False) -> None:
        self.data = bytearray(DISK)
        for start, _sectors, content in partitions:
            self.data[start * 512 : start * 512 + len(content)] = content
        if gpt:
            self._write_gpt(partitions)
        elif partitions:
            self._write_mbr([(start, sectors, 0x83) for start, sectors, _content in partitions])

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.data[offset : offset + length])

    def find(self, *labels: str, may_be_absent: bool = False) -> tuple[Kept, ...]:
        return find_kept(self.read, len(self.data), labels, may_be_absent=may_be_absent)

    def _write_mbr(self, entries: list[tuple[int, int, int]]) -> None:
        for number, (start, sectors, kind) in enumerate(entries):
            struct.pack_into("<B3xB3xII", self.data, 446 + 16 * number, 0, kind, start, sectors)
        self.data[510:512] = b"\x55\xaa"

    def _write_gpt(self, partitions: tuple[tuple[int, int, bytes], ...]) -> None:
        self._write_mbr([(1, DISK // 512 - 1, 0xEE)])
        table = bytearray(128 * 128)
        for number, (start, sectors, _content) in enumerate(partitions):
            table[number * 128 : number * 128 + 16] = b"L" * 16
            struct.pack_into("<QQ", table, number * 128 + 32, start, start + sectors - 1)
        self.data[1024 : 1024 + len(table)] = table
        header = bytearray(92)
        header[:12] = b"EFI PART\x00\x00\x01\x00"
        struct.pack_into("<I", header, 12, 92)
        struct.pack_into("<QQ", header, 24, 1, DISK // 512 - 1)
        struct.pack_into("<QIII", header, 72, 2, 128, 128, zlib.crc32(table))
        struct.pack_into("<I", header, 16, zlib.crc32(header))
        self.data[512:604] = header


BOOT, ROOT = (2048, 20480, fat32("BOOT")), (22528, 102400, ext4("rootfs"))
DATA = (131072, 204800, ext4("data"))
MORE = (335872, 65536, xfs("more"))


@pytest.mark.parametrize("gpt", [False, True], ids=["mbr", "gpt"])
def test_partition_is_found_by_the_label_of_its_file_system(gpt: bool) -> None:
    disk = Disk(BOOT, ROOT, MORE, DATA, gpt=gpt)
    assert disk.find("data") == (Kept("data", 131072, 204800, 0x83),)
    assert [one.label for one in disk.find("more", "data")] == ["data", "more"], "by their place"


@pytest.mark.parametrize("make", [ext4, xfs, btrfs, luks, f2fs, fat32, fat16])
def test_file_systems_tell_their_labels(make: Callable[[str], bytes]) -> None:
    assert probe_label(make("data")) == "data"
    assert probe_label(make("")) == ""


@given(st.binary(max_size=3000))
def test_any_bytes_are_probed(data: bytes) -> None:
    assert isinstance(probe_label(data), str)


@pytest.mark.parametrize(
    ("disk", "labels", "words"),
    [
        (
            Disk(BOOT, ROOT, DATA),
            ["dta"],
            r"no partition has the label 'dta'.*BOOT .*rootfs .*data",
        ),
        (Disk(BOOT, DATA, (400000, 2048, ext4("data"))), ["data"], "2 partitions have the label 'data'"),
        (Disk(BOOT, ROOT, DATA, MORE), ["data", "more", "x"], "an MBR has room for 2"),
        (Disk((100, 60000, ext4("data"))), ["data"], "within the first MiB"),
        (Disk(BOOT, (131072, 999999, ext4("data"))), ["data"], "behind the disk's end"),
        (Disk(BOOT, DATA, (200000, 204800, xfs("more"))), ["data", "more"], "overlap"),
        (Disk(), ["data"], "has no partition table"),
        (Disk((1, DISK // 512 - 1, b"")), ["data"], "no file system with a label"),
    ],
    ids=["typo", "twice", "too many", "too early", "too long", "overlap", "erased", "nothing"],
)
def test_anything_but_exactly_that_partition_is_refused(disk: Disk, labels: list[str], words: str) -> None:
    before = bytes(disk.data)
    with pytest.raises(AgentError, match=words):
        disk.find(*labels)
    assert disk.data == before


def test_typo_is_refused_on_a_first_installation_too_unless_the_disk_is_blank() -> None:
    with pytest.raises(AgentError, match="no partition has"):
        Disk(BOOT, ROOT, DATA).find("dta", may_be_absent=True)
    assert Disk().find("data", may_be_absent=True) == ()


@pytest.mark.parametrize("place", [512, 530, 700, 1030, 1024 + 40])
def test_damaged_gpt_is_not_guessed_at(place: int) -> None:
    disk = Disk(BOOT, ROOT, DATA, gpt=True)
    disk.data[place] ^= 0x01
    if place == 700:  # behind the header: nothing that counts
        assert disk.find("data")
        return
    with pytest.raises(AgentError, match="GPT"):
        disk.find("data")


def test_what_is_kept_is_known_from_its_record_when_the_table_is_gone() -> None:
    disk = Disk(BOOT, ROOT, DATA, MORE)
    kept = disk.find("data", "more")
    disk.data[:MIB] = bytes(MIB)
    disk.data[RECORD_OFFSET : RECORD_OFFSET + 512] = encode_record(kept)
    assert disk.find("data", "more") == kept
    assert disk.find("data", "more", may_be_absent=True) == kept


def test_record_without_its_file_system_is_not_believed() -> None:
    disk = Disk(BOOT, ROOT, DATA)
    kept = disk.find("data")
    disk.data[:MIB] = bytes(MIB)
    disk.data[RECORD_OFFSET : RECORD_OFFSET + 512] = encode_record(kept)
    disk.data[DATA[0] * 512 : DATA[0] * 512 + 4096] = ext4("other")
    with pytest.raises(AgentError, match="no partition has the label 'data'"):
        disk.find("data")


@given(st.integers(0, 511), st.integers(1, 255))
def test_damaged_record_counts_for_nothing(place: int, flip: int) -> None:
    sector = bytearray(encode_record((Kept("data", 131072, 204800, 0x83),)))
    sector[place] ^= flip
    assert decode_record(bytes(sector)) is None


def test_image_that_reaches_into_what_is_kept_is_refused() -> None:
    kept = Disk(BOOT, ROOT, DATA).find("data")
    require_room(kept, kept[0].range.offset)
    with pytest.raises(AgentError, match=r"the image needs the first 64\.0 MiB"):
        require_room(kept, kept[0].range.offset + 1)


def test_kept_partitions_become_the_third_and_fourth_of_the_new_table() -> None:
    disk = Disk(BOOT, ROOT)
    kept = Disk(BOOT, ROOT, DATA, MORE).find("more", "data")
    found = parse_partitions(add_entries(bytes(disk.data[:512]), kept))
    assert [(one.start_sector, one.sectors) for one in found] == [
        (2048, 20480),
        (22528, 102400),
        (131072, 204800),
        (335872, 65536),
    ]


def test_rest_of_a_disk_is_a_partition_where_it_is_worth_one() -> None:
    disk = Disk(BOOT, ROOT)
    (rest,) = rest_of(bytes(disk.data[:512]), DISK)
    assert (rest.start_sector, rest.start_sector + rest.sectors) == (124928, DISK // 512)
    assert rest_of(bytes(disk.data[:512]), 124928 * 512 + 63 * MIB) == ()


class Tearing:
    """In the target's place: what is written between two flushes may be lost sector by sector."""

    def __init__(self, data: bytearray) -> None:
        self.data = data
        self.size_bytes = len(data)
        self.flushed: list[list[tuple[int, bytes]]] = []
        self._dirty: list[tuple[int, bytes]] = []

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        self.data[offset : offset + len(data)] = data
        self._dirty += [(offset + at, bytes(data[at : at + 512])) for at in range(0, len(data), 512)]

    def flush(self) -> None:
        self.flushed.append(self._dirty)
        self._dirty = []

    def read_back(self, offset: int, length: int) -> memoryview:
        return memoryview(self.data)[offset : offset + length]


LANDED = [slice(0, 1), slice(1, 2), slice(2, 20), slice(0, 20), slice(1, None), slice(None, None, 2)]
"""Sectors of a flush that reach the disk: some of them the table's, the GPT's header, its entries."""


@pytest.mark.parametrize("gpt", [False, True], ids=["mbr", "gpt"])
def test_power_lost_at_any_sector_of_invalidate_leaves_what_is_kept_known(gpt: bool) -> None:
    disk = Disk(BOOT, ROOT, DATA, gpt=gpt)
    kept, old = disk.find("data"), bytes(disk.data[:MIB])
    target = Tearing(disk.data)
    empty = ImageIndex(image_id="i", size_bytes=MIB, chunks=())
    ImageWriter(target, empty, (), lambda _chunks: iter(()), marker=bytes(512), kept=kept).invalidate()  # type: ignore[arg-type]
    assert sum(map(len, target.flushed)) >= 2 * 2048
    for number, written in enumerate(target.flushed):
        before = [one for done in target.flushed[:number] for one in done]
        for landed in LANDED:
            disk.data[:MIB] = old
            for offset, sector in [*before, *written[landed]]:
                disk.data[offset : offset + 512] = sector
            assert disk.find("data", may_be_absent=True) == kept, f"{landed} of flush {number}"
