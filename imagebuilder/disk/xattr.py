"""Extended attributes of an ext4 inode: in the inode itself, and in a block of their own. Pure.

    in the inode, after i_extra_isize:  0–3 magic · entries … · values at the end
    block at i_file_acl:                0–3 magic · 4–31 reference count, blocks, hash · entries … · values

    entry: 0 length of the name · 1 index of the prefix · 2–3 offset of the value · 4–7 inode of the value (0)
           8–11 size of the value · 12–15 hash · 16–… name, padded to 4 bytes

Offsets of values count from the first entry in an inode, and from the start of a block.

Source: Linux, Documentation/filesystems/ext4/attributes.rst (6.12).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from imagebuilder.disk.ext4_layout import Ext4Error

MAGIC: Final = 0xEA020000
_PREFIXES: Final = {
    1: "user.",
    2: "system.posix_acl_access",
    3: "system.posix_acl_default",
    4: "trusted.",
    6: "security.",
    7: "system.",
    8: "system.richacl",
}
_ENTRY: Final = struct.Struct("<BBHIII")
_GOOD_OLD_INODE_BYTES: Final = 128
_BLOCK_HEADER_BYTES: Final = 32


def parse_inode_attributes(raw: bytes) -> dict[str, bytes]:
    """The attributes in a whole inode (``inode size`` of the superblock, often 256 bytes)."""
    if len(raw) < _GOOD_OLD_INODE_BYTES + 4:
        return {}
    start = _GOOD_OLD_INODE_BYTES + int(struct.unpack_from("<H", raw, _GOOD_OLD_INODE_BYTES)[0])
    if start + 4 > len(raw) or struct.unpack_from("<I", raw, start)[0] != MAGIC:
        return {}
    return dict(_entries(raw[start + 4 :], first=0))


def parse_block_attributes(raw: bytes) -> dict[str, bytes]:
    """The attributes in an attribute block.

    Raises:
        Ext4Error: the block is not one.
    """
    if len(raw) < _BLOCK_HEADER_BYTES or struct.unpack_from("<I", raw)[0] != MAGIC:
        raise Ext4Error("a block of extended attributes is damaged", "e2fsck -fn says more.")
    return dict(_entries(raw, first=_BLOCK_HEADER_BYTES))


def _entries(area: bytes, *, first: int) -> Iterator[tuple[str, bytes]]:
    position = first
    # Four zero bytes end the list.
    while position + _ENTRY.size <= len(area) and area[position : position + 4] != b"\0\0\0\0":
        length, prefix, offset, inode, size, _ = _ENTRY.unpack_from(area, position)
        name = area[position + _ENTRY.size : position + _ENTRY.size + length]
        if inode or offset + size > len(area) or len(name) != length or prefix not in _PREFIXES:
            raise Ext4Error(
                "an extended attribute is damaged, or of a kind not known", "e2fsck -fn says more."
            )
        yield _PREFIXES[prefix] + name.decode("utf-8", "surrogateescape"), area[offset : offset + size]
        position += _ENTRY.size + -(-length // 4) * 4
