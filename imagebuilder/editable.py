"""Whether an image can be made into a cluster's: all that stands against it, before anything is written.

Inspection understands more than editing handles. Node deltas, the installer and the flashers rely on one
form: an MBR, the boot FAT as partition 1, the root ext4 as partition 2 and last on the disk, so that it can
grow. A GPT is rewritten to it.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from typing import Final

from imagebuilder.disk.blockmap import BOOT_PARTITION, ROOT_PARTITION
from imagebuilder.disk.mbr import (
    ENTRY_COUNT,
    TYPE_FAT32_LBA,
    TYPE_LINUX,
    Mbr,
    MbrError,
    Partition,
)
from imagebuilder.disk.table import PartitionTable, TableKind
from imagebuilder.errors import NotUnderstood
from imagebuilder.inspect.facts import ImageFacts

BLOCK_BYTES: Final = 4096
"""The block size of ext4 that block maps and the room's arithmetic rely on."""


class NotEditable(NotUnderstood):
    """A base that Bramble understands and cannot work with; all reasons at once."""


ORPHAN_FILE: Final = "orphan_file"
ORPHAN_FILE_SINCE: Final = (1, 47)


def require_editable(facts: ImageFacts, e2fsprogs: str) -> None:
    """Raise ``NotEditable`` unless images of a cluster can be made from this base.

    Args:
        facts: what was found on it.
        e2fsprogs: version of the tools that write ext4 here.
    """
    version = tuple(int(part) for part in e2fsprogs.split(".")[:2])
    if ORPHAN_FILE in facts.root.features and version < ORPHAN_FILE_SINCE:
        raise NotEditable(
            f"the base's ext4 has the feature {ORPHAN_FILE}, which e2fsprogs {e2fsprogs} does not know",
            "Install e2fsprogs 1.47 or newer (Debian 12, Ubuntu 24.04), or build on such a machine.",
        )
    if problems := tuple(find_problems(facts)):
        raise NotEditable(
            "\n".join(f"the base cannot be used: {problem}" for problem in problems),
            "Use a stock image of Raspberry Pi OS, Ubuntu or Debian as it comes from its site.",
        )


def find_problems(facts: ImageFacts) -> Iterator[str]:
    """What stands against editing, in words."""
    for role, expected, found in (
        ("boot", BOOT_PARTITION, facts.boot.partition),
        ("root", ROOT_PARTITION, facts.root.partition),
    ):
        if found != expected:
            yield f"its {role} partition is number {found}, expected {expected}"
    behind = [entry.number for entry in facts.table.partitions if entry.offset > facts.root.offset]
    if behind:
        yield f"partition {behind[0]} lies behind the root, which then cannot grow to the end of its disk"
    if facts.root.block_bytes != BLOCK_BYTES:
        yield f"its ext4 has blocks of {facts.root.block_bytes} bytes, expected {BLOCK_BYTES}"
    for fault in facts.boot.faults:
        yield f"the FAT at byte {facts.boot.offset} is unclean: {fault} (fsck.vfat mends a copy)"
    if facts.python is None:
        yield "it has no /usr/bin/python3, which the agent needs"
    if not any(reference.place != "/etc/fstab" for reference in facts.references):
        yield f"no word root=… in {' and '.join(facts.cmdlines) or 'any cmdline.txt'}"
    for reference in facts.references:
        wanted = facts.root.partition if reference.mount == "/" else facts.boot.partition
        if reference.partition != wanted:
            leads = (
                "no partition of this disk"
                if reference.partition is None
                else f"partition {reference.partition}"
            )
            yield (
                f"{reference.place} mounts {reference.mount} from {reference.names}, which is {leads}; "
                f"expected partition {wanted}"
            )


def mbr_in_place_of(table: PartitionTable) -> Mbr:
    """An MBR with the partitions of a GPT. The signature follows from the disk's GUID.

    Raises:
        MbrError: more than four partitions, or one beyond 2 TiB.
    """
    assert table.kind is TableKind.GPT
    if any(entry.number > ENTRY_COUNT for entry in table.partitions):
        numbers = ", ".join(str(entry.number) for entry in table.partitions)
        raise MbrError(
            f"the disk has a GPT with the partitions {numbers}; an MBR, which Bramble writes, has 1 to 4",
            "Use an image with a boot and a root partition.",
        )
    kinds = {BOOT_PARTITION: TYPE_FAT32_LBA}
    entries: list[Partition | None] = [None] * ENTRY_COUNT
    for entry in table.partitions:
        entries[entry.number - 1] = Partition(
            start_lba=entry.start_lba, sectors=entry.sectors, type=kinds.get(entry.number, TYPE_LINUX)
        )
    one, two, three, four = entries
    seed = hashlib.sha256(f"mbr in place of gpt\0{table.disk_id}".encode()).digest()
    return Mbr(signature=int.from_bytes(seed[:4], "little") or 1, entries=(one, two, three, four))


def first_free_sectors(table: PartitionTable) -> int:
    """How many sectors before the first partition: what a GPT's first copy lies in."""
    return min(itertools.chain((entry.start_lba for entry in table.partitions), (2048,)))
