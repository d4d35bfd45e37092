"""EFI programs as small as they can be."""

from __future__ import annotations

import struct

from imagebuilder.uki import SECTION

COFF, OPTIONAL, TABLE, HEADERS = 0x84, 0x98, 0x188, 0x400


def make_stub(*, machine: int = 0xAA64, headers_bytes: int = HEADERS) -> bytes:
    """The smallest stub: one section of 512 bytes."""
    stub = bytearray(HEADERS + 512)
    stub[:2] = b"MZ"
    struct.pack_into("<I", stub, 60, 0x80)
    stub[0x80:0x84] = b"PE\0\0"
    struct.pack_into("<HH", stub, COFF, machine, 1)
    struct.pack_into("<H", stub, COFF + 16, TABLE - OPTIONAL)
    struct.pack_into("<H", stub, OPTIONAL, 0x20B)
    struct.pack_into("<II", stub, OPTIONAL + 32, 4096, 512)
    struct.pack_into("<III", stub, OPTIONAL + 56, 0x2000, headers_bytes, 0xDEAD)
    text = SECTION.pack(b".text", 512, 0x1000, 512, HEADERS, 0, 0, 0, 0, 0x60000020)
    stub[TABLE : TABLE + SECTION.size] = text
    stub[HEADERS:] = b"c" * 512
    return bytes(stub)
