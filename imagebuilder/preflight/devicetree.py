"""One property of a flattened device tree: what it puts in front of the kernel's command line. Pure.

Header (big endian): 0–3 magic d00dfeed · 4–7 total size · 8–11 offset of the structure block · 12–15 offset
of the strings. The structure block is a sequence of 32-bit tokens: 1 begins a node (its name follows,
NUL-terminated, padded to 4 bytes), 2 ends one, 3 is a property (4 bytes length, 4 bytes offset of its name,
value padded to 4 bytes), 4 is nothing, 9 is the end.

Source: Devicetree Specification 0.4, chapter 5.
"""

from __future__ import annotations

import struct
from typing import Final

MAGIC: Final = 0xD00DFEED
BEGIN_NODE, END_NODE, PROPERTY, NOTHING, END = 1, 2, 3, 4, 9


class DeviceTreeError(ValueError):
    """Bytes that are no device tree, or a damaged one."""


def read_bootargs(data: bytes) -> str:
    """``/chosen/bootargs``; empty where there is none.

    Raises:
        DeviceTreeError: not a device tree.
    """
    try:
        magic, total, structure, strings = struct.unpack_from(">IIII", data, 0)
        if magic != MAGIC or total > len(data):
            raise DeviceTreeError(f"starts with {data[:4].hex()}, has {len(data)} bytes")
        return _bootargs(data, structure, strings)
    except (struct.error, ValueError) as exc:
        raise DeviceTreeError(str(exc)) from exc


def _bootargs(data: bytes, at: int, strings: int) -> str:
    path: list[bytes] = []
    while True:
        (token,) = struct.unpack_from(">I", data, at)
        at += 4
        if token == BEGIN_NODE:
            end = data.index(b"\0", at)
            path.append(data[at:end])
            at = (end + 4) & ~3
        elif token == END_NODE:
            path.pop()
        elif token == PROPERTY:
            length, name_at = struct.unpack_from(">II", data, at)
            at += 8
            name = data[strings + name_at : data.index(b"\0", strings + name_at)]
            if name == b"bootargs" and path == [b"", b"chosen"]:
                return data[at : at + length].split(b"\0", 1)[0].decode("ascii", "replace")
            at = (at + length + 3) & ~3
        elif token == END:
            return ""
        elif token != NOTHING:
            raise DeviceTreeError(f"token {token} at byte {at - 4}")
