"""One EFI program out of a stub, a kernel, an initramfs and a command line: a unified kernel image.

The stub (systemd-stub) finds its payload in sections of its own executable. Those are appended here: headers
behind the stub's own, contents behind its last byte. Nothing is copied: the result is a list of pieces, in
which kernel and initramfs are the files themselves, so that every node has a program of its own at the price
of its command line.

    PE      60–63 offset of the signature · "PE\\0\\0" · COFF header · optional header · section table
    COFF    +0 machine · +2 sections · +16 size of the optional header            (20 bytes)
    PE32+   +0 magic · +32 section alignment · +36 file alignment · +56 size of image · +60 size of headers
            +64 checksum
    section 0–7 name · 8–11 virtual size · 12–15 virtual address · 16–19 raw size · 20–23 raw offset
            24–35 zero · 36–39 flags                                              (40 bytes)

Pure: bytes in, pieces out. Sources: Microsoft, "PE Format" (2024-07); UAPI Group Specifications, "Unified
Kernel Image" (2024); systemd-stub(7).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from imagebuilder.errors import NotUnderstood

Piece: TypeAlias = Path | bytes

MACHINE_ARM64: Final = 0xAA64
PE32_PLUS: Final = 0x20B
SECTION: Final = struct.Struct("<8sIIIIIIHHI")
COFF_BYTES: Final = 20
INITIALISED_READ: Final = 0x4000_0040
CODE_READ_EXECUTE: Final = 0x6000_0020
MAXIMUM_STUB_BYTES: Final = 4 << 20
MAXIMUM_SECTIONS: Final = 96
MAXIMUM_ADDRESS: Final = 2**32 - 1
ALIGNMENTS: Final = tuple(1 << bits for bits in range(21))
"""Of sections in the file and in memory: at most 1 MiB here; the specification ends at 64 KiB in the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """One section: its name with the dot, its size in bytes, and where its contents are."""

    name: str
    size_bytes: int
    contents: Piece
    flags: int = INITIALISED_READ


@dataclass(frozen=True, slots=True, kw_only=True)
class _Headers:
    """Where things are in a stub, and how far it reaches."""

    coff: int
    optional: int
    table: int
    sections: int
    section_alignment: int
    file_alignment: int
    headers_bytes: int
    next_address: int


def is_efi_program(head: bytes) -> bool:
    """Whether a file that begins so is an EFI program for arm64: a kernel with its EFI stub is one."""
    try:
        return _signature(head) is not None
    except struct.error:
        return False


def link_uki(stub: bytes, payloads: Sequence[Payload]) -> tuple[Piece, ...]:
    """The program, as pieces to be read one after the other.

    Args:
        stub: systemd's stub for arm64.
        payloads: in their order in the file.

    Raises:
        NotUnderstood: the stub is none, or has no room for so many sections.
    """
    try:
        headers = _read_headers(stub)
    except struct.error as exc:
        raise NotUnderstood("the EFI stub ends within its headers", _HINT) from exc
    room = headers.headers_bytes - headers.table
    if (headers.sections + len(payloads)) * SECTION.size > room:
        raise NotUnderstood(f"the EFI stub has no room for {len(payloads)} more sections", _HINT)
    grown = sum(_aligned(payload.size_bytes, headers.section_alignment) for payload in payloads)
    if headers.next_address + grown > MAXIMUM_ADDRESS:
        raise NotUnderstood("the EFI stub has a section whose address leaves no room for more", _HINT)
    image = bytearray(stub)
    pieces: list[Piece] = []
    offset = _aligned(len(stub), headers.file_alignment)
    padding = bytes(offset - len(stub))
    address = headers.next_address
    for number, payload in enumerate(payloads, headers.sections):
        raw = _aligned(payload.size_bytes, headers.file_alignment)
        name = payload.name.encode("ascii")
        entry = SECTION.pack(name, payload.size_bytes, address, raw, offset, 0, 0, 0, 0, payload.flags)
        start = headers.table + number * SECTION.size
        image[start : start + SECTION.size] = entry
        pieces += [payload.contents, bytes(raw - payload.size_bytes)]
        offset += raw
        address = _aligned(address + payload.size_bytes, headers.section_alignment)
    struct.pack_into("<H", image, headers.coff + 2, headers.sections + len(payloads))
    struct.pack_into("<I", image, headers.optional + 56, address)
    struct.pack_into("<I", image, headers.optional + 64, 0)  # not checked by firmware, and 0 says "none"
    return tuple(piece for piece in (bytes(image), padding, *pieces) if piece != b"")


_HINT: Final = "It is linuxaa64.efi.stub of the package systemd-boot-efi, for arm64, of Debian 12 or newer."


def _signature(data: bytes) -> int | None:
    """Offset of the COFF header of an arm64 PE file, or None."""
    if data[:2] != b"MZ":
        return None
    (start,) = struct.unpack_from("<I", data, 60)
    if data[start : start + 4] != b"PE\0\0":
        return None
    (machine,) = struct.unpack_from("<H", data, start + 4)
    return start + 4 if machine == MACHINE_ARM64 else None


def _read_headers(stub: bytes) -> _Headers:
    coff = _signature(stub)
    if coff is None or len(stub) > MAXIMUM_STUB_BYTES:
        raise NotUnderstood("the EFI stub is no EFI program for arm64", _HINT)
    sections, optional_bytes = (struct.unpack_from("<H", stub, coff + at)[0] for at in (2, 16))
    optional = coff + COFF_BYTES
    (magic,) = struct.unpack_from("<H", stub, optional)
    section_alignment, file_alignment = struct.unpack_from("<II", stub, optional + 32)
    image_bytes, headers_bytes = struct.unpack_from("<II", stub, optional + 56)
    alignments = (section_alignment, file_alignment)
    if magic != PE32_PLUS or sections > MAXIMUM_SECTIONS or any(n not in ALIGNMENTS for n in alignments):
        raise NotUnderstood("the EFI stub has headers of another kind", _HINT)
    table = optional + optional_bytes
    ends = [image_bytes]
    for number in range(sections):
        entry = SECTION.unpack_from(stub, table + number * SECTION.size)
        ends.append(entry[2] + max(entry[1], entry[3]))
        if entry[4] and not headers_bytes <= entry[4] <= entry[4] + entry[3] <= len(stub):
            raise NotUnderstood("the EFI stub is not whole: a section lies outside of it", _HINT)
    return _Headers(
        coff=coff,
        optional=optional,
        table=table,
        sections=sections,
        section_alignment=section_alignment,
        file_alignment=file_alignment,
        headers_bytes=headers_bytes,
        next_address=_aligned(max(ends), section_alignment),
    )


def _aligned(number: int, alignment: int) -> int:
    return -(-number // alignment) * alignment
