"""Protocol Buffers on the wire, as far as etcd's messages need them. Pure.

    tag      varint: field number << 3 | wire type
    type 0   varint: 7 bits a byte, the lowest first, the top bit says that more follow; at most 10 bytes
    type 1   8 bytes, type 5: 4 bytes; read over
    type 2   varint length, and so many bytes: text, bytes, or a message

Integers are unsigned here: of etcd's, none that is read is ever negative.

Source: Protocol Buffers documentation, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

VARINT: Final = 0
FIXED64: Final = 1
BYTES: Final = 2
FIXED32: Final = 5
MAX_VARINT_BYTES: Final = 10
_MASK_64: Final = (1 << 64) - 1


class WireError(ValueError):
    """Bytes that are no message."""


def encode_varint(value: int) -> bytes:
    """An unsigned number of up to 64 bits."""
    if not 0 <= value <= _MASK_64:
        raise WireError(f"{value} does not fit into 64 bits")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_number(field: int, value: int) -> bytes:
    """A number; zero is left out, as proto3 does."""
    return encode_varint(field << 3 | VARINT) + encode_varint(value) if value else b""


def encode_bytes(field: int, value: bytes) -> bytes:
    """Text, bytes, or a message."""
    return encode_varint(field << 3 | BYTES) + encode_varint(len(value)) + value


def parse_fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and their values: numbers for type 0, bytes for type 2; the fixed types are read over.

    Raises:
        WireError: cut off, or a wire type that nobody uses any more.
    """
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        field, kind = tag >> 3, tag & 7
        if field == 0:
            raise WireError("a field has number 0")
        if kind == VARINT:
            number, at = _varint(data, at)
            yield field, number
        elif kind == BYTES:
            length, at = _varint(data, at)
            if length > end - at:
                raise WireError(f"field {field} is {length} bytes long, {end - at} are left")
            yield field, data[at : at + length]
            at += length
        elif kind in (FIXED64, FIXED32):
            at += 8 if kind == FIXED64 else 4
            if at > end:
                raise WireError(f"field {field} is cut off")
        else:
            raise WireError(f"field {field} has wire type {kind}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number that begins at `at`, and where it ends."""
    value = 0
    for index in range(MAX_VARINT_BYTES):
        if at + index >= len(data):
            raise WireError("a number is cut off")
        byte = data[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if value > _MASK_64:
                raise WireError("a number is longer than 64 bits")
            return value, at + index + 1
    raise WireError("a number is longer than 64 bits")
