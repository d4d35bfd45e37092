"""Sector 0 for a medium that is larger than the image. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from imagebuilder.disk.blockmap import ROOT_PARTITION
from imagebuilder.disk.mbr import SECTOR_BYTES, MbrError, parse_mbr

MIB: Final = 2**20
MAX_SECTORS: Final = 0xFFFF_FFFF
GPT_PROTECTIVE: Final = 0xEE


def grown_head(sector: bytes, medium_bytes: int) -> bytes:
    """The partition table with the last partition, the root, reaching to the end, down to a whole MiB.

    An MBR counts sectors in 32 bits: past 2 TiB the partition ends there. What is no such table, a GPT or
    another system's, stays as it is: the first boot grows it.
    """
    try:
        mbr = parse_mbr(sector)
        root = mbr.partition(ROOT_PARTITION)
    except MbrError:
        return sector
    others = [entry for number, entry in mbr.partitions if number != ROOT_PARTITION]
    if any(entry.type == GPT_PROTECTIVE or entry.start_lba > root.start_lba for entry in others):
        return sector
    end = min(medium_bytes // MIB * MIB // SECTOR_BYTES, MAX_SECTORS)
    sectors = max(root.sectors, end - root.start_lba)
    return mbr.with_partition(ROOT_PARTITION, replace(root, sectors=sectors)).encode()
