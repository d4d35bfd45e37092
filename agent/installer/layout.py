"""Which bytes go where, and when. Pure: no disk, no network.

A disk is made bootable by two things: the partition table in sector 0, and the boot sector of the FAT
partition. Both are *held back*: their ranges are not written with the rest but at COMMIT, the table last.
So at every moment between invalidation and COMMIT sector 0 holds zeros, and no firmware boots what is half
written.

    sector 0: 440–443 disk signature, 446–509 four entries of 16 bytes (0 status, 1–3 CHS, 4 type, 5–7 CHS,
    8–11 first sector u32 LE, 12–15 sectors u32 LE), 510–511 0x55 0xAA
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agent.errors import AgentError
from agent.installer.index import Chunk

SECTOR_BYTES = 512
MIB = 1024 * 1024
HEAD_BYTES = MIB
"""Held back at the start of the disk: partition table and the gap behind it."""
TABLE_OFFSET = 446
ENTRY_BYTES = 16
ENTRIES = 4
SIGNATURE = b"\x55\xaa"
MAX_SECTORS = 0xFFFFFFFF
GPT_PROTECTIVE = 0xEE


@dataclass(frozen=True, slots=True, order=True)
class Range:
    """`offset` up to, not including, `end`; bytes from the start of the disk."""

    offset: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.offset

    def intersection(self, other: Range) -> Range | None:
        offset, end = max(self.offset, other.offset), min(self.end, other.end)
        return Range(offset, end) if offset < end else None


@dataclass(frozen=True, slots=True)
class Overlay:
    """Bytes of the node delta at their place on the disk."""

    offset: int
    data: bytes

    @property
    def range(self) -> Range:
        return Range(self.offset, self.offset + len(self.data))

    def clip(self, window: Range) -> Overlay | None:
        part = self.range.intersection(window)
        if part is None:
            return None
        return Overlay(part.offset, self.data[part.offset - self.offset : part.end - self.offset])


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkWrite:
    """What to do with the bytes of one chunk: lay `overlays` over them, write `now`, keep `held` for
    COMMIT."""

    chunk: Chunk
    overlays: tuple[Overlay, ...]
    now: tuple[Range, ...]
    held: tuple[Range, ...]

    @property
    def is_pristine(self) -> bool:
        """True when exactly the chunk's own bytes reach the disk: its digest in the index then proves
        them."""
        return not self.overlays and not self.held

    def apply(self, data: memoryview) -> None:
        """Lay the overlays over the chunk's bytes, in place."""
        for overlay in self.overlays:
            start = overlay.offset - self.chunk.offset
            data[start : start + len(overlay.data)] = overlay.data

    def cut(self, data: memoryview, part: Range) -> memoryview:
        """The bytes of `part`, which lies inside the chunk."""
        return data[part.offset - self.chunk.offset : part.end - self.chunk.offset]


@dataclass(frozen=True, slots=True, kw_only=True)
class WritePlan:
    """Every byte that this install writes between INVALIDATE and COMMIT, and the ranges that wait for
    COMMIT."""

    chunks: tuple[ChunkWrite, ...]
    loose: tuple[Overlay, ...]
    """Parts of the delta in unmapped places, outside the held ranges: written as they are."""
    loose_held: tuple[Overlay, ...]
    """The same, inside the held ranges."""
    held: tuple[Range, ...]


def plan_writes(
    chunks: Sequence[Chunk], overlays: Iterable[Overlay], held: Sequence[Range], size_bytes: int
) -> WritePlan:
    """Split an image and a node delta into what is written at once and what waits.

    Raises:
        AgentError: two patches overlap, or one ends past the image.
    """
    patches = sorted((overlay for overlay in overlays if overlay.data), key=lambda overlay: overlay.offset)
    for before, after in itertools.pairwise(patches):
        if after.offset < before.range.end:
            raise AgentError(
                f"the node delta names the bytes at {after.offset} twice",
                "The server's image library is damaged; run 'bramble build' again.",
            )
    if patches and (patches[0].offset < 0 or patches[-1].range.end > size_bytes):
        raise AgentError(
            f"the node delta writes past the image ({patches[-1].range.end} of {size_bytes} bytes)",
            "The delta belongs to another image; run 'bramble build' again.",
        )
    waiting = tuple(sorted(held))
    writes = []
    for chunk in chunks:
        whole = Range(chunk.offset, chunk.end)
        inside = (overlay.clip(whole) for overlay in patches if overlay.offset < whole.end)
        writes.append(
            ChunkWrite(
                chunk=chunk,
                overlays=tuple(overlay for overlay in inside if overlay is not None),
                now=subtract(whole, waiting),
                held=tuple(
                    part for part in (whole.intersection(span) for span in waiting) if part is not None
                ),
            )
        )
    mapped = tuple(Range(chunk.offset, chunk.end) for chunk in chunks)
    loose = [
        Overlay(part.offset, overlay.data[part.offset - overlay.offset : part.end - overlay.offset])
        for overlay in patches
        for part in subtract(overlay.range, mapped)
    ]
    return WritePlan(
        chunks=tuple(writes),
        loose=tuple(_clip_all(loose, outside=waiting)),
        loose_held=tuple(
            clipped for overlay in loose for span in waiting if (clipped := overlay.clip(span)) is not None
        ),
        held=waiting,
    )


def _clip_all(overlays: Iterable[Overlay], *, outside: Sequence[Range]) -> Iterable[Overlay]:
    for overlay in overlays:
        for part in subtract(overlay.range, outside):
            clipped = overlay.clip(part)
            if clipped is not None:
                yield clipped


def subtract(whole: Range, holes: Sequence[Range]) -> tuple[Range, ...]:
    """The parts of `whole` that lie in none of `holes` (sorted, disjoint)."""
    parts = []
    position = whole.offset
    for hole in holes:
        if hole.end <= position:
            continue
        if hole.offset >= whole.end:
            break
        if hole.offset > position:
            parts.append(Range(position, hole.offset))
        position = max(position, hole.end)
    if position < whole.end:
        parts.append(Range(position, whole.end))
    return tuple(parts)


@dataclass(frozen=True, slots=True)
class Partition:
    kind: int
    start_sector: int
    sectors: int


def parse_partitions(sector: bytes) -> tuple[Partition, ...]:
    """The entries of an MBR that are in use, in their order; empty without the 55 AA signature."""
    if len(sector) < SECTOR_BYTES or sector[510:512] != SIGNATURE:
        return ()
    found = []
    for number in range(ENTRIES):
        kind, start, sectors = struct.unpack_from("<4xB3xII", sector, TABLE_OFFSET + number * ENTRY_BYTES)
        if kind and sectors:
            found.append(Partition(kind, start, sectors))
    return tuple(found)


def held_ranges(first_sector: bytes) -> tuple[Range, ...]:
    """What waits for COMMIT, given the image's sector 0: the head of the disk and the boot sector of
    partition 1.

    Raises:
        AgentError: the image has no MBR that we can grow.
    """
    partitions = parse_partitions(first_sector)
    if len(partitions) != 2 or partitions[0].kind == GPT_PROTECTIVE:
        raise AgentError(
            f"the image has {len(partitions)} MBR partitions, a boot and a root partition are expected",
            "Only images with the layout of Raspberry Pi OS are installed.",
        )
    boot = partitions[0].start_sector * SECTOR_BYTES
    head = Range(0, HEAD_BYTES)
    if boot < head.end:
        return (Range(0, max(head.end, boot + SECTOR_BYTES)),)
    return (head, Range(boot, boot + SECTOR_BYTES))


def grow_root(first_sector: bytes, end_bytes: int) -> bytes:
    """Sector 0 with partition 2 reaching up to `end_bytes`, down to a whole MiB; it never gets smaller.

    An MBR counts sectors in 32 bits: on disks past 2 TiB the partition ends there.
    """
    grown = bytearray(first_sector)
    place = TABLE_OFFSET + ENTRY_BYTES + 8
    start, sectors = struct.unpack_from("<II", grown, place)
    end = end_bytes // MIB * MIB // SECTOR_BYTES
    struct.pack_into("<II", grown, place, start, max(sectors, min(end - start, MAX_SECTORS)))
    return bytes(grown)
