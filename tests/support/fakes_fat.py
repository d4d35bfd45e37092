"""FAT file systems made byte by byte, for tests that may not run mtools."""

from __future__ import annotations

import struct
from collections.abc import Mapping

SECTOR = 512
_CLUSTERS = {12: 400, 16: 5000, 32: 66000}


def make_fat(files: Mapping[str, bytes], kind: int = 16, *, clusters: int | None = None) -> bytes:
    """A file system of one-sector clusters with `files`; folders of their paths are made. Names are long
    ones behind arbitrary short names, as Linux and mtools write them."""
    count = clusters or _CLUSTERS[kind]
    entry_bits = kind
    fat_sectors = -(-(count + 2) * entry_bits // 8 // SECTOR) + 1
    reserved, root_entries = 32 if kind == 32 else 1, 0 if kind == 32 else 512
    table = [0xFFF_FFF8, 0xFFF_FFFF] + [0] * count
    data = bytearray(count * SECTOR)
    free = 2

    def store(content: bytes) -> int:
        nonlocal free
        if not content:
            return 0
        first, size = free, -(-len(content) // SECTOR)
        data[(first - 2) * SECTOR : (first - 2) * SECTOR + len(content)] = content
        for number in range(first, first + size):
            table[number] = number + 1 if number + 1 < first + size else 0xFFF_FFFF
        free += size
        return first

    def directory(prefix: str) -> bytes:
        entries, done = b"", set()
        for path in sorted(files):
            if not path.startswith(prefix):
                continue
            name, slash, _ = path.removeprefix(prefix).partition("/")
            if name in done:
                continue
            done.add(name)
            content = directory(f"{prefix}{name}/") + bytes(32) if slash else files[path]
            entries += _entry(name, len(done), bool(slash), store(content), 0 if slash else len(content))
        return entries

    root = directory("")
    root_cluster = store(root + bytes(32)) if kind == 32 else 0
    total = reserved + 2 * fat_sectors + root_entries * 32 // SECTOR + count
    boot = bytearray(SECTOR)
    struct.pack_into("<HBHBHHBH", boot, 11, SECTOR, 1, reserved, 2, root_entries, 0, 0xF8, 0)
    if kind != 32:
        struct.pack_into("<H", boot, 22, fat_sectors)
    struct.pack_into("<II", boot, 32, total, fat_sectors if kind == 32 else 0)
    struct.pack_into("<I", boot, 44, root_cluster)
    boot[510:512] = b"\x55\xaa"
    fixed_root = b"" if kind == 32 else root.ljust(root_entries * 32, b"\0")
    fat = _table(table, kind).ljust(fat_sectors * SECTOR, b"\0")
    return bytes(boot).ljust(reserved * SECTOR, b"\0") + fat * 2 + fixed_root + data


def _table(table: list[int], kind: int) -> bytes:
    if kind == 32:
        return struct.pack(f"<{len(table)}I", *table)
    if kind == 16:
        return struct.pack(f"<{len(table)}H", *(value & 0xFFFF for value in table))
    bits = 0
    for place, value in enumerate(table):
        bits |= (value & 0xFFF) << 12 * place
    return bits.to_bytes(-(-len(table) * 12 // 8), "little")


def _entry(name: str, number: int, is_directory: bool, cluster: int, size: int) -> bytes:
    units = name.encode("utf-16-le") + b"\0\0"
    pieces = [units[start : start + 26].ljust(26, b"\xff") for start in range(0, len(units), 26)]
    entries = b""
    for place in range(len(pieces), 0, -1):
        piece, order = pieces[place - 1], place | (0x40 if place == len(pieces) else 0)
        entries += bytes((order,)) + piece[:10] + b"\x0f\0\0" + piece[10:22] + b"\0\0" + piece[22:]
    short = f"F{number:07d}".encode() + b"   "
    fixed = short + bytes((0x10 if is_directory else 0x20,)) + bytes(8)
    times = struct.pack("<HHHHI", cluster >> 16, 0, 0, cluster & 0xFFFF, size)
    return entries + fixed + times
