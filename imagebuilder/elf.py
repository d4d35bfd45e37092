"""What a 64-bit little-endian ELF file asks for: its interpreter and the shared libraries it names. Pure.

Source: System V ABI, chapters 4 and 5 (program headers, dynamic section).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from imagebuilder.errors import NotUnderstood

EM_AARCH64: Final = 183
_PT_LOAD: Final = 1
_PT_DYNAMIC: Final = 2
_PT_INTERP: Final = 3
_DT_NEEDED: Final = 1
_DT_STRTAB: Final = 5
_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM: Final = struct.Struct("<IIQQQQQQ")
_DYNAMIC: Final = struct.Struct("<qQ")


@dataclass(frozen=True, slots=True)
class Needs:
    """What a file asks for: the dynamic loader's path (None: a library), and bare library names."""

    interpreter: str | None
    libraries: tuple[str, ...]


def is_elf(data: bytes) -> bool:
    return data[:4] == b"\x7fELF"


def parse_needs(data: bytes) -> Needs:
    """Read the needs of an arm64 program or library.

    Raises:
        NotUnderstood: not such a file, or cut short.
    """
    try:
        return _parse(data)
    except (struct.error, ValueError, IndexError) as exc:
        raise NotUnderstood(
            f"an ELF file cannot be read: {exc}", "The base is damaged; build or fetch it again."
        ) from exc


def _parse(data: bytes) -> Needs:
    ident, _, machine, _, _, table, _, _, _, entry_bytes, count, *_ = _HEADER.unpack_from(data)
    if ident[:4] != b"\x7fELF" or ident[4:6] != b"\x02\x01" or machine != EM_AARCH64:
        raise ValueError(
            f"expected 64-bit little-endian arm64, found class {ident[4:6]!r}, machine {machine}"
        )
    loads: list[tuple[int, int, int]] = []
    dynamic = b""
    interpreter = None
    for index in range(count):
        kind, _, offset, address, _, length, _, _ = _PROGRAM.unpack_from(data, table + index * entry_bytes)
        if kind == _PT_LOAD:
            loads.append((address, offset, length))
        elif kind == _PT_DYNAMIC:
            dynamic = data[offset : offset + length]
        elif kind == _PT_INTERP:
            interpreter = data[offset : offset + length].rstrip(b"\0").decode()
    entries = [
        _DYNAMIC.unpack_from(dynamic, at) for at in range(0, len(dynamic) - _DYNAMIC.size + 1, _DYNAMIC.size)
    ]
    strings = next((value for tag, value in entries if tag == _DT_STRTAB), None)
    if strings is None:
        return Needs(interpreter, ())
    start = next(
        strings - address + offset
        for address, offset, length in loads
        if address <= strings < address + length
    )
    names = tuple(
        data[start + value : data.index(b"\0", start + value)].decode()
        for tag, value in entries
        if tag == _DT_NEEDED
    )
    return Needs(interpreter, names)
