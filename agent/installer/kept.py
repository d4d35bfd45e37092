"""Partitions that an install leaves alone, byte for byte. Pure: bytes come in through `Read`.

A partition is named by the label of its file system. It is found through the disk's partition table, MBR or
GPT. INVALIDATE destroys that table, so what is kept is written down on the disk itself before: a record in
the sector before the marker, which stays there until the next install. Power lost at any moment leaves either
the old table, or the record, or the new table, that names them again. Where sector 0 has no signature the
record counts, also before a GPT: of that, a cut may have left any part.

    record: 0–7 magic, 8–39 SHA-256 of bytes 40–511, 40–511 JSON, padded with zeros

Layouts: UEFI 2.10 §5.3 (GPT); Linux Documentation/filesystems/ext4 "Super Block"; xfs_db(8) "sb"; btrfs
on-disk format "Superblock"; FAT specification 1.03 §3; F2FS on-disk layout; LUKS2 on-disk format 1.1 §2.1.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

from agent.errors import AgentError
from agent.hardware import format_size
from agent.installer.layout import (
    ENTRY_BYTES,
    GPT_PROTECTIVE,
    HEAD_BYTES,
    MAX_SECTORS,
    MIB,
    SECTOR_BYTES,
    SIGNATURE,
    TABLE_OFFSET,
    Range,
    parse_partitions,
)
from agent.installer.occupant import GPT_MAGIC, MARKER_OFFSET

Read = Callable[[int, int], bytes]
"""(offset, length) → bytes; fewer at the end of the disk."""

RECORD_OFFSET = MARKER_OFFSET - SECTOR_BYTES
MAGIC = b"BRAMKEEP"
_DIGEST_END = len(MAGIC) + hashlib.sha256().digest_size
MAX_KEPT = 2
"""An MBR has four entries, and two are the image's."""
LINUX = 0x83
MAX_GPT_ENTRIES = 256
_PROBE_BYTES = 68 * 1024
_HINT = "Correct 'disk.keep' of the node in cluster.yaml, or the disk."


@dataclass(frozen=True)
class Kept:
    """A partition that stays. `kind` is its type in the MBR."""

    label: str
    start_sector: int
    sectors: int
    kind: int

    @property
    def range(self) -> Range:
        start = self.start_sector * SECTOR_BYTES
        return Range(start, start + self.sectors * SECTOR_BYTES)

    def describe(self) -> str:
        return f"{self.label} ({format_size(self.range.length)} at {format_size(self.range.offset)})"


def find_kept(read: Read, disk_bytes: int, labels: Sequence[str], *, may_be_absent: bool) -> tuple[Kept, ...]:
    """The partitions with these labels, by their place.

    Args:
        may_be_absent: a disk without any partition table has nothing to keep: this is the node's first
            installation. On any other disk every label has to be there, so a slip of the pen costs nothing.

    Raises:
        AgentError: a label is missing or is there twice, the table is damaged, or it can not be kept.
        Nothing
            was changed.
    """
    if not labels:
        return ()
    if len(labels) > MAX_KEPT:
        raise AgentError(f"{len(labels)} partitions are to be kept, an MBR has room for {MAX_KEPT}", _HINT)
    head = read(0, HEAD_BYTES)
    recorded = decode_record(head[RECORD_OFFSET : RECORD_OFFSET + SECTOR_BYTES])
    if recorded is not None and head[510:512] != SIGNATURE:
        found = _labelled(read, recorded)
    elif head[510:512] == SIGNATURE or head[SECTOR_BYTES:].startswith(GPT_MAGIC):
        found = _labelled(read, _entries(head, read))
    elif may_be_absent:
        return ()
    else:
        raise AgentError(
            f"the disk has no partition table, so {', '.join(labels)} can not be found on it",
            "Somebody erased it. If nothing is to be kept any more, take 'keep' out of cluster.yaml.",
        )
    kept = [_choose(found, label) for label in labels]
    _require_sound(kept, disk_bytes)
    return tuple(sorted(kept, key=lambda one: one.start_sector))


def require_room(kept: Sequence[Kept], image_bytes: int) -> None:
    """Refuse an image that would reach into what is kept.

    Raises:
        AgentError: it does; nothing was changed.
    """
    for one in kept:
        if one.range.offset < image_bytes:
            raise AgentError(
                f"the image needs the first {format_size(image_bytes)} of the disk, and {one.describe()} is "
                "to be kept",
                "Move that partition further back, or make the image smaller.",
            )


def encode_record(kept: Sequence[Kept]) -> bytes:
    """The record's sector; zeros where nothing is kept."""
    if not kept:
        return bytes(SECTOR_BYTES)
    body = json.dumps([asdict(one) for one in kept], separators=(",", ":")).encode()
    if len(body) > SECTOR_BYTES - _DIGEST_END:
        raise AgentError("the labels of the kept partitions are too long to be written down", _HINT)
    padded = body.ljust(SECTOR_BYTES - _DIGEST_END, b"\0")
    return MAGIC + hashlib.sha256(padded).digest() + padded


def decode_record(sector: bytes) -> tuple[Kept, ...] | None:
    """What a record says; None where there is none, or a damaged one."""
    body = sector[_DIGEST_END:]
    if not sector.startswith(MAGIC) or hashlib.sha256(body).digest() != sector[len(MAGIC) : _DIGEST_END]:
        return None
    try:
        values = json.loads(body.rstrip(b"\0"))
        return tuple(
            Kept(str(one["label"]), int(one["start_sector"]), int(one["sectors"]), int(one["kind"]))
            for one in values
        )
    except (ValueError, KeyError, TypeError):
        return None


def add_entries(first_sector: bytes, kept: Sequence[Kept]) -> bytes:
    """Sector 0 with the kept partitions as its third and fourth."""
    sector = bytearray(first_sector)
    for number, one in enumerate(kept, start=2):
        place = TABLE_OFFSET + number * ENTRY_BYTES
        # CHS of 0xFE 0xFF 0xFF: counted in sectors.
        struct.pack_into(
            "<B3sB3sII",
            sector,
            place,
            0,
            b"\xfe\xff\xff",
            one.kind,
            b"\xfe\xff\xff",
            one.start_sector,
            one.sectors,
        )
    return bytes(sector)


def rest_of(first_sector: bytes, disk_bytes: int) -> tuple[Kept, ...]:
    """What is left of the disk behind the root partition, as a partition without a label; nothing below
    64 MiB.
    """
    root = parse_partitions(first_sector)[1]
    start = -(-(root.start_sector + root.sectors) * SECTOR_BYTES // MIB) * MIB // SECTOR_BYTES
    end = min(disk_bytes // MIB * MIB // SECTOR_BYTES, MAX_SECTORS)
    return (Kept("", start, end - start, LINUX),) if (end - start) * SECTOR_BYTES >= 64 * MIB else ()


def _choose(found: Sequence[Kept], label: str) -> Kept:
    matches = [one for one in found if one.label == label]
    if len(matches) == 1:
        return matches[0]
    there = ", ".join(one.describe() for one in found if one.label) or "no file system with a label"
    what = f"{len(matches)} partitions have" if matches else "no partition has"
    raise AgentError(f"{what} the label {label!r}, which is to be kept; the disk has {there}", _HINT)


def _require_sound(kept: Sequence[Kept], disk_bytes: int) -> None:
    for one in kept:
        if one.range.offset < HEAD_BYTES:
            raise AgentError(
                f"{one.describe()} begins within the first MiB, which the partition table needs", _HINT
            )
        if one.range.end > disk_bytes or one.start_sector + one.sectors > MAX_SECTORS:
            raise AgentError(
                f"{one.describe()} ends at {format_size(one.range.end)}: behind the disk's end, or what an "
                "MBR can name (2 TiB)",
                _HINT,
            )
    if len(kept) == 2 and kept[0].range.intersection(kept[1].range) is not None:
        raise AgentError(f"{kept[0].describe()} and {kept[1].describe()} overlap", _HINT)


def _entries(head: bytes, read: Read) -> tuple[Kept, ...]:
    partitions = parse_partitions(head[:SECTOR_BYTES])
    if head[SECTOR_BYTES:].startswith(GPT_MAGIC):
        return _gpt_entries(head, read)
    if any(partition.kind == GPT_PROTECTIVE for partition in partitions):
        raise AgentError(
            "the disk's GPT can not be read (damaged, or of a disk with 4096-byte sectors), so nothing can "
            "be kept on it",
            "Mend it with 'sgdisk --load-backup' or gdisk; or take 'keep' out of cluster.yaml.",
        )
    return tuple(
        Kept("", partition.start_sector, partition.sectors, partition.kind) for partition in partitions
    )


def _gpt_entries(head: bytes, read: Read) -> tuple[Kept, ...]:
    """The partitions of a GPT whose checksums are right."""
    header = head[SECTOR_BYTES : 2 * SECTOR_BYTES]
    size, crc = struct.unpack_from("<II", header, 12)
    place, count, length, entries_crc = struct.unpack_from("<QIII", header, 72)
    sound = 92 <= size <= SECTOR_BYTES and 0 < count <= MAX_GPT_ENTRIES and length in (128, 256, 512)
    blanked = header[:16] + bytes(4) + header[20 : size if sound else 20]
    table = read(place * SECTOR_BYTES, count * length) if sound and place < MAX_SECTORS else b""
    if not sound or zlib.crc32(blanked) != crc or zlib.crc32(table) != entries_crc:
        raise AgentError(
            "the disk's GPT is damaged (its checksums are wrong), so nothing can be kept on it",
            "Mend it with 'sgdisk --load-backup' or gdisk; or take 'keep' out of cluster.yaml.",
        )
    found = []
    for number in range(count):
        entry = table[number * length : (number + 1) * length]
        first, last = struct.unpack_from("<QQ", entry, 32)
        if any(entry[:16]) and last >= first:
            found.append(Kept("", first, last - first + 1, LINUX))
    return tuple(found)


def _labelled(read: Read, entries: Iterable[Kept]) -> tuple[Kept, ...]:
    return tuple(
        Kept(probe_label(read(one.range.offset, _PROBE_BYTES)), one.start_sector, one.sectors, one.kind)
        for one in entries
    )


def probe_label(data: bytes) -> str:
    """The label of the file system that begins here; empty where it has none, or is not known."""
    if data[1080:1082] == b"\x53\xef":  # ext2, ext3, ext4
        return _text(data[1144:1160])
    if data.startswith(b"XFSB"):
        return _text(data[108:120])
    if data[65600:65608] == b"_BHRfS_M":
        return _text(data[65835:66091])
    if data.startswith(b"LUKS\xba\xbe\x00\x02"):
        return _text(data[24:72])
    if data[1024:1028] == b"\x10\x20\xf5\xf2":  # F2FS
        return data[1148:2172].decode("utf-16-le", "replace").partition("\0")[0]
    if data[510:512] == SIGNATURE and data[82:90] == b"FAT32   ":
        return _text(data[71:82]).rstrip()
    if data[510:512] == SIGNATURE and data[54:59] in (b"FAT12", b"FAT16"):
        return _text(data[43:54]).rstrip()
    return ""


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("utf-8", "replace")
