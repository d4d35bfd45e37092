"""A disk's partition table in one form, whichever kind it is. Pure.

Linux names a partition by its PARTUUID: on an MBR the disk signature and the number, on a GPT the entry's own
GUID.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from imagebuilder.disk.gpt import read_gpt
from imagebuilder.disk.mbr import MBR_BYTES, SECTOR_BYTES, TYPE_GPT_PROTECTIVE, MbrError, parse_mbr
from imagebuilder.disk.source import ByteSource
from imagebuilder.errors import NotUnderstood

_TYPE_AT: Final = 446 + 4
_EXTENDED: Final = (0x05, 0x0F, 0x85)


class TableKind(StrEnum):
    MBR = "mbr"
    GPT = "gpt"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableEntry:
    """A partition. ``start_lba`` and ``sectors`` count 512-byte sectors; ``type`` is ``0x0c`` or a GUID."""

    number: int
    start_lba: int
    sectors: int
    type: str
    partuuid: str
    name: str = ""

    @property
    def offset(self) -> int:
        """Bytes from the start of the disk."""
        return self.start_lba * SECTOR_BYTES

    @property
    def size_bytes(self) -> int:
        return self.sectors * SECTOR_BYTES

    @property
    def end(self) -> int:
        """The first byte after the partition."""
        return self.offset + self.size_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionTable:
    """The table of a disk. ``disk_id`` is the MBR's signature (8 hex digits) or the GPT's disk GUID."""

    kind: TableKind
    disk_id: str
    partitions: tuple[TableEntry, ...]

    def partition(self, number: int) -> TableEntry:
        """Partition ``number``.

        Raises:
            NotUnderstood: there is none.
        """
        for entry in self.partitions:
            if entry.number == number:
                return entry
        have = ", ".join(str(entry.number) for entry in self.partitions) or "none"
        raise NotUnderstood(
            f"the disk has no partition {number} (it has: {have})",
            "A Raspberry Pi image has a FAT as partition 1 and an ext4 as partition 2.",
        )


def read_table(source: ByteSource, disk_bytes: int) -> PartitionTable:
    """The partition table of a disk of ``disk_bytes``, MBR or GPT.

    Raises:
        NotUnderstood: none, a damaged one, or one of a kind that images for a Raspberry Pi do not have.
    """
    sector = source.read_at(0, MBR_BYTES) if disk_bytes >= MBR_BYTES else b""
    types = [sector[_TYPE_AT + 16 * index] for index in range(4)] if sector[510:] == b"\x55\xaa" else []
    if TYPE_GPT_PROTECTIVE in types:
        return _read_gpt(source, disk_bytes)
    for number, kind in enumerate(types, 1):
        if kind in _EXTENDED:
            raise MbrError(
                f"partition {number} is an extended partition (type {kind:#04x}), expected a FAT32 and an "
                "ext4 as primary partitions",
                "This looks like a card with several systems (NOOBS, PINN); take the image of one system.",
            )
    mbr = parse_mbr(sector, disk_bytes=disk_bytes)
    return PartitionTable(
        kind=TableKind.MBR,
        disk_id=f"{mbr.signature:08x}",
        partitions=tuple(
            TableEntry(
                number=number,
                start_lba=entry.start_lba,
                sectors=entry.sectors,
                type=f"{entry.type:#04x}",
                partuuid=mbr.partuuid(number),
            )
            for number, entry in mbr.partitions
        ),
    )


def _read_gpt(source: ByteSource, disk_bytes: int) -> PartitionTable:
    gpt = read_gpt(source, disk_bytes)
    entries = tuple(
        TableEntry(
            number=part.number,
            start_lba=part.first_lba,
            sectors=part.last_lba - part.first_lba + 1,
            type=str(part.type_guid),
            partuuid=str(part.guid),
            name=part.name,
        )
        for part in gpt.partitions
    )
    for one, other in itertools.pairwise(sorted(entries, key=lambda entry: entry.start_lba)):
        if one.end > other.offset:
            raise NotUnderstood(
                f"partitions {one.number} and {other.number} overlap at byte {other.offset}",
                "The partition table is damaged; take the image from its source again.",
            )
    return PartitionTable(kind=TableKind.GPT, disk_id=str(gpt.disk_guid), partitions=entries)
