"""An ext4 filesystem, read only: files, where their bytes lie on the disk, free room, blocks in use.

Writing is done by e2fsprogs (``imagebuilder.disk.edit``); this reader is what checks it, so it shares no code
with it. Pure: bytes in, values out. It knows what Raspberry Pi OS and Debian make (extents, flex_bg,
metadata_csum, orphan_file, 32- and 64-byte group descriptors) and refuses features that would change the
meaning of what it reads.

Source: Linux, Documentation/filesystems/ext4 (6.12): super.rst, group_descr.rst, bitmaps.rst, inodes.rst,
    ifork.rst, directory.rst.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from imagebuilder.disk.ext4_layout import (
    GROUP_BLOCK_UNINIT,
    GROUP_INODE_UNINIT,
    GROUP_INODE_ZEROED,
    RO_COMPAT_GDT_CSUM,
    RO_COMPAT_METADATA_CSUM,
    SUPERBLOCK_OFFSET,
    Ext4Error,
    Group,
    parse_group,
    parse_superblock,
    set_bit_runs,
)
from imagebuilder.disk.source import ByteSource
from imagebuilder.disk.xattr import parse_block_attributes, parse_inode_attributes

ROOT_INODE: Final = 2
_INODE_FLAG_EXTENTS: Final = 0x80000
_EXTENT_MAGIC: Final = 0xF30A
_EXTENT_INIT_MAX: Final = 32768
"""A longer length marks an extent that is allocated but reads as zeros."""
_FAST_SYMLINK_BYTES: Final = 60
_MAX_LINKS: Final = 40
_MAX_DEPTH: Final = 100
"""Of directories in directories; deeper is a loop."""
MAX_READ_BYTES: Final = 1 << 28


@dataclass(frozen=True, slots=True, kw_only=True)
class Inode:
    """A file of any type. ``block`` is the raw i_block field of 60 bytes."""

    number: int
    mode: int
    uid: int
    gid: int
    size_bytes: int
    flags: int
    block: bytes

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.mode)


class Ext4Volume:
    """An ext4 filesystem at ``offset`` bytes from the start of ``source``."""

    def __init__(self, source: ByteSource, offset: int) -> None:
        self._source = source
        self.offset = offset
        self.superblock = parse_superblock(source.read_at(offset + SUPERBLOCK_OFFSET, 1024))

    @property
    def free_bytes(self) -> int:
        """Free blocks, those reserved for root included: the tools that write here run as its root."""
        return self.superblock.free_blocks * self.superblock.block_bytes

    def find(self, path: str, *, follow: bool = True) -> Inode | None:
        """The inode at an absolute path; links on the way are followed, the last one only with ``follow``."""
        resolved = self._resolve(path, follow=follow)
        return self._inode(resolved[-1][1]) if resolved else None

    def canonical(self, path: str) -> str | None:
        """The path without links to what ``path`` leads to, None where nothing is."""
        resolved = self._resolve(path, follow=True)
        return "/" + "/".join(name for name, _ in resolved[1:]) if resolved else None

    def require(self, path: str) -> Inode:
        """Like ``find``, but an absent path is an ``Ext4Error``."""
        inode = self.find(path)
        if inode is None:
            raise Ext4Error(
                f"the root filesystem holds no {path}",
                "The base is not what Bramble expects; build or fetch it again.",
            )
        return inode

    def read(self, path: str) -> bytes:
        """The content of the file at ``path``."""
        return self.read_inode(self.require(path))

    def read_inode(self, inode: Inode) -> bytes:
        """A whole file in memory.

        Raises:
            Ext4Error: it claims more than ``MAX_READ_BYTES``, or cannot be read.
        """
        if inode.size_bytes > MAX_READ_BYTES:
            raise Ext4Error(
                f"inode {inode.number} claims {inode.size_bytes} bytes, {MAX_READ_BYTES} are read at once",
                "The filesystem is damaged: e2fsck -fn says more.",
            )
        return b"".join(self.iter_content(inode))

    def iter_content(self, inode: Inode, piece_bytes: int = 1 << 20) -> Iterator[bytes]:
        """A file's content in pieces of at most ``piece_bytes``."""
        position = 0
        for start, offset, length in self._mapped(inode):
            yield from _zeros(min(start, inode.size_bytes) - position, piece_bytes)
            end = min(length, inode.size_bytes - start)
            for done in range(0, end, piece_bytes):
                yield self._source.read_at(offset + done, min(piece_bytes, end - done))
            position = start + max(end, 0)
        yield from _zeros(inode.size_bytes - position, piece_bytes)

    def read_link(self, inode: Inode) -> str:
        """A symbolic link's target."""
        if inode.size_bytes < _FAST_SYMLINK_BYTES and not inode.flags & _INODE_FLAG_EXTENTS:
            return inode.block[: inode.size_bytes].decode("utf-8", "surrogateescape")
        return self.read_inode(inode).decode("utf-8", "surrogateescape")

    def attributes(self, inode: Inode) -> dict[str, bytes]:
        """The extended attributes of an inode: name with its prefix → value as it lies on the disk."""
        raw = self._source.read_at(self._inode_offset(inode.number), self.superblock.inode_bytes)
        found = parse_inode_attributes(raw)
        block = struct.unpack_from("<I", raw, 0x68)[0] | struct.unpack_from("<H", raw, 0x76)[0] << 32
        return {**found, **parse_block_attributes(self._block(block))} if block else found

    def list_directory(self, inode: Inode) -> dict[str, int]:
        """Name → inode number, without ``.`` and ``..``, in the order of the disk."""
        names: dict[str, int] = {}
        data, position, block_bytes = self.read_inode(inode), 0, self.superblock.block_bytes
        while position + 8 <= len(data):
            number, record, length, _ = struct.unpack_from("<IHBB", data, position)
            if record < 8 or record % 4 or position % block_bytes + record > block_bytes:
                raise Ext4Error(
                    f"directory inode {inode.number} is damaged at byte {position}", "e2fsck -fn says more."
                )
            name = data[position + 8 : position + 8 + length]
            if number and name not in (b".", b".."):
                names[name.decode("utf-8", "surrogateescape")] = number
            position += record
        return names

    def walk(self, directory: str) -> Iterator[tuple[str, Inode]]:
        """(path, inode) of all that is below ``directory``, sorted, parents first; links are not followed."""
        top = self.require(directory)
        yield from self._walk(directory.rstrip("/"), top, _MAX_DEPTH)

    def extents(self, path: str) -> tuple[tuple[int, int], ...]:
        """(offset, length) of a file's bytes on the disk, in file order; together exactly its size.

        Raises:
            Ext4Error: the file has a hole: some of its bytes lie nowhere.
        """
        inode = self.require(path)
        found, position = [], 0
        for start, offset, length in self._mapped(inode):
            if start == position and position < inode.size_bytes:
                piece = min(length, inode.size_bytes - position)
                found.append((offset, piece))
                position += piece
        if position != inode.size_bytes:
            raise Ext4Error(
                f"{path}: {inode.size_bytes - position} of its {inode.size_bytes} bytes have no blocks",
                "Something wrote it with holes; build the image again.",
            )
        return tuple(found)

    def mapped_ranges(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of all bytes that matter: blocks in use and metadata; unordered, overlapping.

        Groups with BLOCK_UNINIT have no valid bitmap: in them only metadata is in use. The tail of an inode
        table that was never initialised is left out: the kernel zeroes it (lazily) before use, unless it is
        marked as zeroed.
        """
        sb = self.superblock
        for index, group in enumerate(self._groups):
            first = sb.first_data_block + index * sb.blocks_per_group
            if sb.holds_backup(index):
                yield self._bytes(first, 1 + sb.descriptor_blocks + sb.reserved_gdt_blocks)
            yield self._bytes(group.block_bitmap, 1)
            yield self._bytes(group.inode_bitmap, 1)
            yield self._bytes(group.inode_table, self._inode_blocks_to_keep(group))
            if group.flags & GROUP_BLOCK_UNINIT and self._has_group_checksums:
                continue
            bitmap = self._block(group.block_bitmap)
            count = min(sb.blocks_per_group, sb.blocks - first)
            for start, length in set_bit_runs(bitmap, count):
                yield self._bytes(first + start, length)
        # Blocks below the first data block (only with 1 KiB blocks): the boot block.
        yield self.offset, max(sb.first_data_block * sb.block_bytes, SUPERBLOCK_OFFSET + 1024)

    @property
    def _has_group_checksums(self) -> bool:
        return bool(self.superblock.ro_compat & (RO_COMPAT_GDT_CSUM | RO_COMPAT_METADATA_CSUM))

    def _inode_blocks_to_keep(self, group: Group) -> int:
        sb = self.superblock
        if group.flags & GROUP_INODE_ZEROED or not self._has_group_checksums:
            return sb.inode_table_blocks
        used = 0 if group.flags & GROUP_INODE_UNINIT else sb.inodes_per_group - group.unused_inodes
        return -(-used * sb.inode_bytes // sb.block_bytes)

    @cached_property
    def _groups(self) -> tuple[Group, ...]:
        sb = self.superblock
        table = self._source.read_at(
            self.offset + (sb.first_data_block + 1) * sb.block_bytes, sb.groups * sb.descriptor_bytes
        )
        size = sb.descriptor_bytes
        return tuple(parse_group(table[at : at + size]) for at in range(0, sb.groups * size, size))

    def _bytes(self, block: int, count: int) -> tuple[int, int]:
        sb = self.superblock
        return self.offset + block * sb.block_bytes, min(count, sb.blocks - block) * sb.block_bytes

    def _block(self, number: int) -> bytes:
        sb = self.superblock
        if not 0 <= number < sb.blocks:
            raise Ext4Error(
                f"block {number} is outside of the filesystem of {sb.blocks} blocks", "e2fsck -fn says more."
            )
        return self._source.read_at(self.offset + number * sb.block_bytes, sb.block_bytes)

    def _inode_offset(self, number: int) -> int:
        sb = self.superblock
        group, index = divmod(number - 1, sb.inodes_per_group)
        if not 0 <= group < len(self._groups):
            raise Ext4Error(f"inode {number} does not exist", "e2fsck -fn says more.")
        return self.offset + self._groups[group].inode_table * sb.block_bytes + index * sb.inode_bytes

    def _inode(self, number: int) -> Inode:
        raw = self._source.read_at(self._inode_offset(number), 128)
        mode, uid, size, gid = struct.unpack_from("<HHI16xH", raw, 0)
        uid_high, gid_high = struct.unpack_from("<HH", raw, 0x78)
        return Inode(
            number=number,
            mode=mode,
            uid=uid | uid_high << 16,
            gid=gid | gid_high << 16,
            size_bytes=size | struct.unpack_from("<I", raw, 0x6C)[0] << 32,
            flags=struct.unpack_from("<I", raw, 0x20)[0],
            block=raw[0x28:0x64],
        )

    def _mapped(self, inode: Inode) -> Iterator[tuple[int, int, int]]:
        """(position in the file, offset on the disk, length), ascending; what is missing reads as zeros."""
        if not inode.size_bytes:
            return
        if not inode.flags & _INODE_FLAG_EXTENTS:
            raise Ext4Error(
                f"inode {inode.number} is mapped by block pointers (ext3) or inline, expected extents",
                "Use an image whose root was made as ext4.",
            )
        size = self.superblock.block_bytes
        following = 0
        for logical, physical, count in self._extent_tree(inode.block, inode.number, depth_left=5):
            if logical < following:
                raise Ext4Error(
                    f"inode {inode.number}: its extents overlap at block {logical}", "e2fsck -fn says more."
                )
            following = logical + count
            yield logical * size, self.offset + physical * size, count * size

    def _extent_tree(self, node: bytes, number: int, depth_left: int) -> Iterator[tuple[int, int, int]]:
        magic, entries, _, depth = struct.unpack_from("<HHHH", node, 0)
        if magic != _EXTENT_MAGIC or 12 + entries * 12 > len(node) or depth > depth_left:
            raise Ext4Error(f"inode {number}: its extent tree is damaged", "e2fsck -fn says more.")
        for index in range(entries):
            at = 12 + index * 12
            if depth:
                _, low, high = struct.unpack_from("<IIH", node, at)
                yield from self._extent_tree(self._block(low | high << 32), number, depth - 1)
            else:
                logical, count, high, low = struct.unpack_from("<IHHI", node, at)
                if count <= _EXTENT_INIT_MAX:
                    yield logical, low | high << 32, count

    def _resolve(self, path: str, *, follow: bool) -> list[tuple[str, int]]:
        """The way from the root to ``path`` as (name, inode number), root first; empty where nothing is."""
        todo = [part for part in reversed(path.split("/")) if part]
        trail, links = [("", ROOT_INODE)], 0
        while todo:
            name = todo.pop()
            if name in (".", ".."):
                trail = trail[:-1] if name == ".." and len(trail) > 1 else trail
                continue
            here = self._inode(trail[-1][1])
            number = self._listing(here.number).get(name) if here.is_directory else None
            if number is None:
                return []
            child = self._inode(number)
            if child.is_symlink and (todo or follow):
                links += 1
                if links > _MAX_LINKS:
                    return []
                target = self.read_link(child)
                todo.extend(part for part in reversed(target.split("/")) if part)
                trail = trail[:1] if target.startswith("/") else trail
            else:
                trail.append((name, number))
        return trail

    @cached_property
    def _listings(self) -> dict[int, dict[str, int]]:
        return {}

    def _listing(self, number: int) -> dict[str, int]:
        if number not in self._listings:
            self._listings[number] = self.list_directory(self._inode(number))
        return self._listings[number]

    def _walk(self, prefix: str, directory: Inode, depth_left: int) -> Iterator[tuple[str, Inode]]:
        if not depth_left:
            raise Ext4Error(f"{prefix[:80]}… does not end: a directory holds itself", "e2fsck -fn says more.")
        for name, number in sorted(self._listing(directory.number).items()):
            inode = self._inode(number)
            yield f"{prefix}/{name}", inode
            if inode.is_directory:
                yield from self._walk(f"{prefix}/{name}", inode, depth_left - 1)


def _zeros(count: int, piece_bytes: int) -> Iterator[bytes]:
    while count > 0:
        yield bytes(min(count, piece_bytes))
        count -= piece_bytes
