"""The fixed structures of ext4: superblock, group descriptors, bitmaps. Pure: bytes in, values out.

Source: Linux, Documentation/filesystems/ext4 (6.12): super.rst, group_descr.rst, bitmaps.rst.
"""

from __future__ import annotations

import re
import struct
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from imagebuilder.errors import NotUnderstood

SUPERBLOCK_OFFSET: Final = 1024
MAGIC: Final = 0xEF53
COMPAT_SPARSE_SUPER2: Final = 0x200
INCOMPAT_FILETYPE: Final = 0x2
INCOMPAT_RECOVER: Final = 0x4
INCOMPAT_EXTENTS: Final = 0x40
INCOMPAT_64BIT: Final = 0x80
INCOMPAT_FLEX_BG: Final = 0x200
INCOMPAT_CSUM_SEED: Final = 0x2000
INCOMPAT_KNOWN: Final = (
    INCOMPAT_FILETYPE | INCOMPAT_EXTENTS | INCOMPAT_64BIT | INCOMPAT_FLEX_BG | INCOMPAT_CSUM_SEED
)
COMPAT_NAMES: Final = {
    0x1: "dir_prealloc",
    0x4: "has_journal",
    0x8: "ext_attr",
    0x10: "resize_inode",
    0x20: "dir_index",
    0x200: "sparse_super2",
    0x400: "fast_commit",
    0x800: "stable_inodes",
    0x1000: "orphan_file",
}
INCOMPAT_NAMES: Final = {
    0x1: "compression",
    0x2: "filetype",
    0x4: "needs_recovery",
    0x8: "journal_dev",
    0x10: "meta_bg",
    0x40: "extent",
    0x80: "64bit",
    0x100: "mmp",
    0x200: "flex_bg",
    0x400: "ea_inode",
    0x1000: "dirdata",
    0x2000: "metadata_csum_seed",
    0x4000: "large_dir",
    0x8000: "inline_data",
    0x10000: "encrypt",
    0x20000: "casefold",
}
RO_COMPAT_NAMES: Final = {
    0x1: "sparse_super",
    0x2: "large_file",
    0x8: "huge_file",
    0x10: "uninit_bg",
    0x20: "dir_nlink",
    0x40: "extra_isize",
    0x100: "quota",
    0x200: "bigalloc",
    0x400: "metadata_csum",
    0x1000: "read-only",
    0x2000: "project",
    0x4000: "shared_blocks",
    0x8000: "verity",
    0x10000: "orphan_present",
}
"""Feature bits by the names that mke2fs and dumpe2fs use."""

RO_COMPAT_SPARSE_SUPER: Final = 0x1
RO_COMPAT_GDT_CSUM: Final = 0x10
RO_COMPAT_BIGALLOC: Final = 0x200
RO_COMPAT_METADATA_CSUM: Final = 0x400
RO_COMPAT_REFUSED: Final = RO_COMPAT_BIGALLOC | 0x4000 | 0x10000
"""bigalloc and shared_blocks change what a block in use is; orphan_present needs a replay like a journal."""
STATE_ERRORS: Final = 0x2
MAX_LOG_BLOCK: Final = 6
"""64 KiB."""
MAX_PER_GROUP: Final = 8 * 65536
"""As many as a bitmap of the largest block counts."""
MAX_GROUPS: Final = 1 << 20
"""128 TiB with groups of 128 MiB; a damaged count must not become memory."""
GROUP_INODE_UNINIT: Final = 0x1
GROUP_BLOCK_UNINIT: Final = 0x2
GROUP_INODE_ZEROED: Final = 0x4


class Ext4Error(NotUnderstood):
    """Not an ext4 that this reader knows, or one whose structures do not add up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """What the rest of the reader needs; counts are of whole blocks or inodes."""

    block_bytes: int
    blocks: int
    free_blocks: int
    free_inodes: int
    first_data_block: int
    blocks_per_group: int
    inodes_per_group: int
    inode_bytes: int
    descriptor_bytes: int
    reserved_gdt_blocks: int
    compat: int
    incompat: int
    ro_compat: int
    backup_groups: tuple[int, int]
    uuid: uuid.UUID
    label: str

    @property
    def features(self) -> tuple[str, ...]:
        """Names of all features, sorted; bits without a name as in ``FEATURE_C12``."""
        return tuple(
            sorted(
                [
                    *_names(self.compat, COMPAT_NAMES, "C"),
                    *_names(self.incompat, INCOMPAT_NAMES, "I"),
                    *_names(self.ro_compat, RO_COMPAT_NAMES, "R"),
                ]
            )
        )

    @property
    def groups(self) -> int:
        return -(-(self.blocks - self.first_data_block) // self.blocks_per_group)

    @property
    def size_bytes(self) -> int:
        return self.blocks * self.block_bytes

    @property
    def inode_table_blocks(self) -> int:
        return -(-self.inodes_per_group * self.inode_bytes // self.block_bytes)

    @property
    def descriptor_blocks(self) -> int:
        return -(-self.groups * self.descriptor_bytes // self.block_bytes)

    def holds_backup(self, group: int) -> bool:
        """Whether ``group`` starts with a copy of the superblock and of the group descriptors."""
        if self.compat & COMPAT_SPARSE_SUPER2:
            return group == 0 or group in self.backup_groups
        if not self.ro_compat & RO_COMPAT_SPARSE_SUPER or group <= 1:
            return True
        return any(_is_power(group, base) for base in (3, 5, 7))


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    block_bitmap: int
    inode_bitmap: int
    inode_table: int
    flags: int
    unused_inodes: int


def parse_superblock(data: bytes) -> Superblock:
    """Read the 1024 bytes at byte 1024 of the filesystem.

    Raises:
        Ext4Error: another filesystem, an unclean journal, marked errors, or a feature that this reader does
            not know.
    """
    if len(data) < 1024 or struct.unpack_from("<H", data, 0x38)[0] != MAGIC:
        raise Ext4Error(
            "the root partition holds no ext4 filesystem",
            "The root partition of a Raspberry Pi image is ext4; this image is damaged or of another kind.",
        )
    compat, incompat, ro_compat = struct.unpack_from("<III", data, 0x5C)
    if incompat & INCOMPAT_RECOVER:
        raise Ext4Error(
            "the ext4 filesystem was not unmounted cleanly: its journal must be replayed first",
            "Run 'e2fsck -fy IMAGE?offset=BYTES' on it, or fetch the image again.",
        )
    unknown = [
        *_names(incompat & ~INCOMPAT_KNOWN, INCOMPAT_NAMES, "I"),
        *_names(ro_compat & RO_COMPAT_REFUSED, RO_COMPAT_NAMES, "R"),
    ]
    if unknown:
        raise Ext4Error(
            f"the ext4 filesystem has features that Bramble cannot edit: {', '.join(unknown)}",
            "Use an image whose root has the features of Raspberry Pi OS or Debian.",
        )
    if struct.unpack_from("<H", data, 0x3A)[0] & STATE_ERRORS:
        raise Ext4Error(
            "the ext4 filesystem is marked as containing errors",
            "Fetch the image again; if it is your own, run 'e2fsck -fy IMAGE?offset=BYTES' on a copy.",
        )
    wide = bool(incompat & INCOMPAT_64BIT)
    _require_possible(data, wide=wide)

    def u32(at: int) -> int:
        return int(struct.unpack_from("<I", data, at)[0])

    def u16(at: int) -> int:
        return int(struct.unpack_from("<H", data, at)[0])

    superblock = Superblock(
        block_bytes=1024 << u32(0x18),
        blocks=u32(0x04) | (u32(0x150) << 32 if wide else 0),
        free_blocks=u32(0x0C) | (u32(0x158) << 32 if wide else 0),
        free_inodes=u32(0x10),
        first_data_block=u32(0x14),
        blocks_per_group=u32(0x20),
        inodes_per_group=u32(0x28),
        inode_bytes=u16(0x58) if u32(0x4C) else 128,
        descriptor_bytes=u16(0xFE) if wide else 32,
        reserved_gdt_blocks=u16(0xCE),
        compat=compat,
        incompat=incompat,
        ro_compat=ro_compat,
        backup_groups=(u32(0x24C), u32(0x250)),
        uuid=uuid.UUID(bytes=bytes(data[0x68:0x78])),
        label=data[0x78:0x88].split(b"\0", 1)[0].decode("utf-8", "replace"),
    )
    if superblock.groups > MAX_GROUPS or superblock.blocks <= superblock.first_data_block:
        raise Ext4Error(
            f"the ext4 superblock claims {superblock.blocks} blocks in {superblock.groups} groups",
            "It is damaged; e2fsck -fn says more.",
        )
    return superblock


def _require_possible(data: bytes, *, wide: bool) -> None:
    """Raise ``Ext4Error`` for sizes that no mke2fs writes; everything else is computed from them."""
    log_block, blocks_per_group, inodes_per_group = (
        int(struct.unpack_from("<I", data, at)[0]) for at in (0x18, 0x20, 0x28)
    )
    (inode_bytes,) = struct.unpack_from("<H", data, 0x58)
    (descriptor_bytes,) = struct.unpack_from("<H", data, 0xFE)
    impossible = [
        f"{what} {value}"
        for what, value, possible in (
            ("log2 of the block size less 10:", log_block, log_block <= MAX_LOG_BLOCK),
            ("blocks per group:", blocks_per_group, 0 < blocks_per_group <= MAX_PER_GROUP),
            ("inodes per group:", inodes_per_group, 0 < inodes_per_group <= MAX_PER_GROUP),
            ("bytes per inode:", inode_bytes, 128 <= inode_bytes <= 4096),
            ("bytes per descriptor:", descriptor_bytes, not wide or 64 <= descriptor_bytes <= 1024),
        )
        if not possible
    ]
    if impossible:
        raise Ext4Error(
            f"the ext4 superblock has impossible sizes ({', '.join(impossible)})",
            "It is damaged; e2fsck -fn says more.",
        )


def parse_group(raw: bytes) -> Group:
    """Read a group descriptor of 32 or 64 bytes."""
    block_bitmap, inode_bitmap, inode_table = struct.unpack_from("<III", raw, 0)
    flags, unused = struct.unpack_from("<H", raw, 0x12)[0], struct.unpack_from("<H", raw, 0x1C)[0]
    if len(raw) >= 64:
        high = struct.unpack_from("<III", raw, 0x20)
        block_bitmap, inode_bitmap, inode_table = (
            low | top << 32 for low, top in zip((block_bitmap, inode_bitmap, inode_table), high, strict=True)
        )
        unused |= struct.unpack_from("<H", raw, 0x32)[0] << 16
    return Group(
        block_bitmap=block_bitmap,
        inode_bitmap=inode_bitmap,
        inode_table=inode_table,
        flags=flags,
        unused_inodes=unused,
    )


def set_bit_runs(bitmap: bytes, count: int) -> Iterator[tuple[int, int]]:
    """(first, length) of the runs of set bits among the first ``count``; bit 0 is the lowest of byte 0."""
    digits = f"{int.from_bytes(bitmap, 'little'):0{count}b}"[::-1][:count]
    for match in re.finditer("1+", digits):
        yield match.start(), match.end() - match.start()


def _names(bits: int, names: Mapping[int, str], kind: str) -> Iterator[str]:
    for position in range(32):
        if bits >> position & 1:
            yield names.get(1 << position, f"FEATURE_{kind}{position}")


@lru_cache(maxsize=4096)
def _is_power(number: int, base: int) -> bool:
    while number > 1 and number % base == 0:
        number //= base
    return number == 1
