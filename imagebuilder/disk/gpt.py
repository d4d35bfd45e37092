"""The GUID partition table, as values. Pure: bytes in, values out.

Header (sector 1, its copy in the last sector; little endian):

    0–7 "EFI PART" · 12–15 header size · 16–19 CRC-32 of the header with this field 0 · 24–31 its sector
    32–39 sector of the other header · 56–71 disk GUID · 72–79 first sector of the entries · 80–83 how many
    84–87 bytes of one · 88–91 CRC-32 of all entries

Entry: 0–15 type GUID (all 0: unused) · 16–31 its own GUID, which Linux calls PARTUUID · 32–39 first sector
40–47 last sector · 56–127 name in UTF-16.

Source: UEFI specification 2.10 §5.3.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from dataclasses import dataclass
from typing import Final

from imagebuilder.disk.source import ByteSource
from imagebuilder.errors import NotUnderstood

SIGNATURE: Final = b"EFI PART"
SECTOR_BYTES: Final = 512
HEADER_BYTES: Final = 92
MAX_ENTRIES: Final = 1024
"""Tables have 128; a damaged count must not make us read gigabytes."""


class GptError(NotUnderstood):
    """Neither of the disk's two GPT headers can be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GptPartition:
    """One used entry. Sectors have 512 bytes; ``last_lba`` belongs to the partition."""

    number: int
    type_guid: uuid.UUID
    guid: uuid.UUID
    first_lba: int
    last_lba: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpt:
    """The table of a disk; ``from_backup`` when the first copy is damaged."""

    disk_guid: uuid.UUID
    partitions: tuple[GptPartition, ...]
    from_backup: bool


def read_gpt(source: ByteSource, disk_bytes: int) -> Gpt:
    """Read the table of a disk with 512-byte sectors, from its copy at the end if need be.

    Raises:
        GptError: what is wrong with each copy.
    """
    faults = []
    for lba in (1, disk_bytes // SECTOR_BYTES - 1):
        try:
            return _read_copy(source, lba, disk_bytes, from_backup=lba != 1)
        except NotUnderstood as exc:
            faults.append(f"at byte {lba * SECTOR_BYTES}: {exc.message}")
    if disk_bytes >= 8192 and source.read_at(4096, 8) == SIGNATURE:
        raise GptError(
            "the GPT was made for sectors of 4096 bytes (its header is at byte 4096, not 512)",
            "Images for flashing have sectors of 512 bytes; take such an image.",
        )
    raise GptError(
        "the disk has a protective MBR and no usable GPT: " + "; ".join(faults),
        "The partition table is damaged; take the image from its source again.",
    )


def _read_copy(source: ByteSource, lba: int, disk_bytes: int, *, from_backup: bool) -> Gpt:
    header = source.read_at(lba * SECTOR_BYTES, SECTOR_BYTES)
    if header[:8] != SIGNATURE:
        raise GptError(f"the header starts with {header[:8]!r}, expected {SIGNATURE!r}", "")
    size, crc = struct.unpack_from("<II", header, 12)
    if not HEADER_BYTES <= size <= SECTOR_BYTES:
        raise GptError(f"the header says it has {size} bytes", "")
    bare = header[:16] + bytes(4) + header[20:size]
    if zlib.crc32(bare) != crc:
        raise GptError(f"the header's CRC-32 is {zlib.crc32(bare):08x}, it says {crc:08x}", "")
    entries_lba, count, entry_bytes, entries_crc = struct.unpack_from("<QIII", header, 72)
    if count > MAX_ENTRIES or not 128 <= entry_bytes <= 4096:
        raise GptError(f"it claims {count} entries of {entry_bytes} bytes", "")
    table = source.read_at(entries_lba * SECTOR_BYTES, count * entry_bytes)
    if zlib.crc32(table) != entries_crc:
        raise GptError(f"the entries' CRC-32 is {zlib.crc32(table):08x}, expected {entries_crc:08x}", "")
    parts = []
    for index in range(count):
        entry = _parse_entry(index + 1, table[index * entry_bytes : (index + 1) * entry_bytes])
        if entry is None:
            continue
        if not 0 < entry.first_lba <= entry.last_lba < disk_bytes // SECTOR_BYTES:
            raise GptError(
                f"partition {entry.number} lies at sectors {entry.first_lba}–{entry.last_lba}, the disk has "
                f"{disk_bytes // SECTOR_BYTES}",
                "",
            )
        parts.append(entry)
    return Gpt(disk_guid=uuid.UUID(bytes_le=header[56:72]), partitions=tuple(parts), from_backup=from_backup)


def _parse_entry(number: int, raw: bytes) -> GptPartition | None:
    if not any(raw[:16]):
        return None
    first, last = struct.unpack_from("<QQ", raw, 32)
    return GptPartition(
        number=number,
        type_guid=uuid.UUID(bytes_le=raw[:16]),
        guid=uuid.UUID(bytes_le=raw[16:32]),
        first_lba=first,
        last_lba=last,
        name=raw[56:128].decode("utf-16-le", "replace").split("\0", 1)[0],
    )
