"""Which bytes of a Raspberry Pi disk image matter, derived from its partition table and its filesystems.

Scanning for holes says which blocks are zero in a file; this says which blocks mean something. The difference
matters on a target that holds old data: a block that is allocated and zero must be written, a block that is
free must not. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from imagebuilder.disk.ext4 import Ext4Volume
from imagebuilder.disk.fat import FatVolume
from imagebuilder.disk.source import ByteSource
from imagebuilder.disk.table import read_table

BLOCK_BYTES: Final = 4096
"""Ranges start and end on this grid: the block size of bmap files and of ext4."""

COALESCE_BYTES: Final = 64 * 1024
"""Smaller gaps between ranges are filled: one long write is cheaper than two short ones."""

BOOT_PARTITION: Final = 1
ROOT_PARTITION: Final = 2


@dataclass(frozen=True, slots=True, order=True)
class ByteRange:
    """Bytes ``start`` up to, not including, ``end``."""

    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start


def mapped_ranges(source: ByteSource, size_bytes: int) -> tuple[ByteRange, ...]:
    """The bytes that a copy of the disk must hold: ascending, disjoint, on the 4 KiB grid.

    They are everything before the first partition, all boot sectors and FATs and the FAT's clusters in use,
    and of the ext4 its metadata and its blocks in use.

    Args:
        source: the disk, with an MBR or a GPT.
        size_bytes: its size.

    Raises:
        NotUnderstood: the table or a filesystem is damaged, or a partition is missing.
    """
    table = read_table(source, size_bytes)
    boot, root = table.partition(BOOT_PARTITION), table.partition(ROOT_PARTITION)
    first = min(entry.offset for entry in table.partitions)
    pieces = [
        (0, first),
        *FatVolume(source, boot.offset).mapped_ranges(),
        *Ext4Volume(source, root.offset).mapped_ranges(),
    ]
    return tuple(merge(pieces, size_bytes))


def merge(pieces: Iterable[tuple[int, int]], size_bytes: int) -> Iterator[ByteRange]:
    """(offset, length) pairs, in any order, as disjoint ranges on the grid; small gaps are filled."""
    current: ByteRange | None = None
    for offset, length in sorted(pieces):
        if length <= 0:
            continue
        start = offset // BLOCK_BYTES * BLOCK_BYTES
        end = min(-(-(offset + length) // BLOCK_BYTES) * BLOCK_BYTES, size_bytes)
        if current is not None and start - current.end < COALESCE_BYTES:
            current = ByteRange(current.start, max(current.end, end))
        else:
            if current is not None:
                yield current
            current = ByteRange(start, end)
    if current is not None:
        yield current
