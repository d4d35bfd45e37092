"""A FAT file system in memory, as the firmware reads it: FAT12, FAT16 or FAT32, with long names. Pure.

It reads boot.img of RAM disks and of HTTP boots, so it is written from the specification and shares no code
with the tools that make them. Hostile bytes end in `FatError` or "no such file", never in a loop.

    Boot sector (little endian): 11–12 bytes per sector · 13 sectors per cluster · 14–15 reserved sectors
    16 FATs · 17–18 root entries (0: FAT32) · 19–20 sectors, or 32–35 · 22–23 sectors per FAT, or 36–39
    44–47 first cluster of the root (FAT32) · 510–511 55 aa

    Directory entry: 0–10 name · 11 attributes (0f: part of a long name) · 12 case · 20–21, 26–27 cluster
    28–31 size

Source: Microsoft, FAT: General Overview of On-Disk Format 1.03; the number of clusters decides the kind
(§ "FAT Type Determination").
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

_ENTRY_BYTES: Final = 32
_MAX_DIRECTORY_BYTES: Final = 65536 * _ENTRY_BYTES
_MAX_CLUSTERS_FAT12: Final = 4085
_MAX_CLUSTERS_FAT16: Final = 65525
_LONG_NAME: Final = 0x0F
_VOLUME: Final = 0x08
_DIRECTORY: Final = 0x10


class FatError(Exception):
    """Bytes that are no FAT file system, or a damaged one."""


class FatImage:
    """One file system; `data` begins with its boot sector (no partition table)."""

    def __init__(self, data: bytes) -> None:
        if len(data) < 512 or data[510:512] != b"\x55\xaa":
            raise FatError("no FAT file system: the boot sector's mark is missing")
        self._data = data
        sector, cluster_sectors, reserved, fats, root_entries, sectors16 = struct.unpack_from(
            "<HBHBHH", data, 11
        )
        fat_sectors16, sectors32, fat_sectors32 = (
            *struct.unpack_from("<H", data, 22),
            *struct.unpack_from("<II", data, 32),
        )
        fat_sectors = fat_sectors16 or fat_sectors32
        if sector not in (512, 1024, 2048, 4096) or not cluster_sectors or not fats or not fat_sectors:
            raise FatError("no FAT file system: impossible sizes in the boot sector")
        self._cluster_bytes = sector * cluster_sectors
        self._fat_offset = reserved * sector
        self._root_offset = self._fat_offset + fats * fat_sectors * sector
        self._root_bytes = root_entries * _ENTRY_BYTES
        self._data_offset = self._root_offset + -(-self._root_bytes // sector) * sector
        end = min((sectors16 or sectors32) * sector, len(data))
        self._clusters = (end - self._data_offset) // self._cluster_bytes
        if self._clusters <= 0:
            raise FatError("no FAT file system: it has no room for a file")
        self._root_cluster = 0
        if self._clusters < _MAX_CLUSTERS_FAT12:
            self.kind = 12
        elif self._clusters < _MAX_CLUSTERS_FAT16:
            self.kind = 16
        else:
            self.kind = 32
        if not root_entries:  # mkfs.vfat -F 32 makes small FAT32 ones too
            self.kind = 32
            (self._root_cluster,) = struct.unpack_from("<I", data, 44)

    def read(self, path: str) -> bytes | None:
        """Content of a file; None where there is none of that name. Names compare without case."""
        parts = [part for part in path.split("/") if part]
        directory = self._root()
        for depth, part in enumerate(parts):
            found = next((entry for entry in _entries(directory) if entry[0] == part.casefold()), None)
            if found is None:
                return None
            _name, attributes, cluster, size = found
            is_last = depth == len(parts) - 1
            if bool(attributes & _DIRECTORY) is is_last:
                return None
            if is_last:
                return self._chain(cluster, size)
            directory = self._chain(cluster, None)
        return None

    def _root(self) -> bytes:
        if self._root_cluster:
            return self._chain(self._root_cluster, None)
        return self._data[self._root_offset : self._root_offset + self._root_bytes]

    def _chain(self, cluster: int, size: int | None) -> bytes:
        """The bytes of a chain; a directory (`size` None) ends where its chain does.

        Raises:
            FatError: The chain leaves the disk, is a loop, or is shorter than the file.
        """
        limit = _MAX_DIRECTORY_BYTES if size is None else size
        pieces: list[bytes] = []
        length = 0
        while length < limit:
            if not 2 <= cluster < self._clusters + 2:
                if size is None and pieces:
                    break
                raise FatError(f"a chain leads to cluster {cluster}, which does not exist")
            start = self._data_offset + (cluster - 2) * self._cluster_bytes
            pieces.append(self._data[start : start + self._cluster_bytes])
            length += self._cluster_bytes
            cluster = self._next(cluster)
        if size is None and length >= _MAX_DIRECTORY_BYTES:
            raise FatError("a directory never ends")
        data = b"".join(pieces)
        return data if size is None else data[:size]

    def _next(self, cluster: int) -> int:
        if self.kind == 32:
            offset = self._fat_offset + cluster * 4
            return int.from_bytes(self._data[offset : offset + 4], "little") & 0x0FFF_FFFF
        if self.kind == 16:
            offset = self._fat_offset + cluster * 2
            return int.from_bytes(self._data[offset : offset + 2], "little")
        offset = self._fat_offset + cluster * 3 // 2
        pair = int.from_bytes(self._data[offset : offset + 2], "little")
        return pair >> 4 if cluster % 2 else pair & 0xFFF


def _entries(directory: bytes) -> Iterator[tuple[str, int, int, int]]:
    """(case-folded name, attributes, first cluster, size) of each file and directory."""
    long_name = b""
    for position in range(0, len(directory) - _ENTRY_BYTES + 1, _ENTRY_BYTES):
        raw = directory[position : position + _ENTRY_BYTES]
        if raw[0] == 0:
            return
        if raw[0] == 0xE5:
            long_name = b""
        elif raw[11] == _LONG_NAME:
            part = raw[1:11] + raw[14:26] + raw[28:32]
            long_name = part if raw[0] & 0x40 else part + long_name
        else:
            short = _short_name(raw)
            name = long_name.decode("utf-16-le", "replace").split("\0", 1)[0] if long_name else short
            long_name = b""
            if not raw[11] & _VOLUME and short not in (".", ".."):
                high, low, size = (*struct.unpack_from("<H", raw, 20), *struct.unpack_from("<HI", raw, 26))
                yield name.casefold(), raw[11], high << 16 | low, size


def _short_name(raw: bytes) -> str:
    base, extension = (part.decode("cp437").rstrip() for part in (raw[:8], raw[8:11]))
    return f"{base}.{extension}" if extension else base
