"""What a compressed file says of its content before it is unpacked. Pure: bytes by offset in, values out.

Used to refuse early: a file that is cut short or has something behind its end is found without decompressing
it, and a size that is declared can be held against the room on the disk.

Sources: the .xz file format 1.2.1 (stream footer §2.1.2, index §4); RFC 8878 §3.1 (zstd frames and blocks).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from imagebuilder.errors import ImageBuilderError

XZ_MAGIC: Final = b"\xfd7zXZ\0"
XZ_FOOTER_MAGIC: Final = b"YZ"
ZSTD_MAGIC: Final = 0xFD2FB528
ZSTD_SKIPPABLE: Final = 0x184D2A50
"""Sixteen magic numbers, …50 to …5F."""

MAX_XZ_INDEX_BYTES: Final = 64 << 20
"""16 bytes per block are generous; even 1 MiB blocks of 1 TiB stay below."""


class DamagedArchive(ImageBuilderError):
    """A compressed image that does not unpack to what it says."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(
            f"{name}: {problem}", "Take the file again; if its digest is right, it was published like that."
        )


class Format(StrEnum):
    """How an image is packed. Found from the first bytes, never from the file's name."""

    RAW = "raw"
    XZ = "xz"
    ZSTD = "zst"
    GZIP = "gz"
    ZIP = "zip"


class Bytes(Protocol):
    """A file by offset. ``read_at`` returns less than ``size`` bytes at the end of the file only."""

    size: int

    def read_at(self, offset: int, size: int) -> bytes: ...


_MAGICS: Final = (
    (XZ_MAGIC, Format.XZ),
    (b"\x1f\x8b", Format.GZIP),
    (ZSTD_MAGIC.to_bytes(4, "little"), Format.ZSTD),
    (b"PK\x03\x04", Format.ZIP),
)
_OTHERS: Final = (
    (b"BZh", "bzip2"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    (b"Rar!", "RAR"),
    (b"QFI\xfb", "QCOW2"),
    (b"<", "HTML or XML"),
    (b"\x7fELF", "an ELF program"),
)


def detect(file: Bytes, name: str) -> Format:
    """How ``file`` is packed.

    Raises:
        DamagedArchive: it is empty, or neither a packed nor a raw disk image.
    """
    head = file.read_at(0, 520)
    for magic, kind in _MAGICS:
        if head.startswith(magic):
            return kind
    if len(head) >= 4 and int.from_bytes(head[:4], "little") & 0xFFFFFFF0 == ZSTD_SKIPPABLE:
        return Format.ZSTD
    if head[510:512] == b"\x55\xaa":
        return Format.RAW
    if not head:
        raise DamagedArchive(name, "is empty")
    what = next((title for magic, title in _OTHERS if head.startswith(magic)), None)
    found = f"it is {what}" if what else f"it starts with {head[:8].hex(' ')}"
    raise DamagedArchive(
        name,
        f"{found}; expected a disk image (bytes 510–511: 55 aa), plain or packed with xz, zstd, gzip or zip",
    )


@dataclass(frozen=True, slots=True)
class Declared:
    """What a container says: ``size_bytes`` of the content, None where it does not say."""

    size_bytes: int | None


def declared_by_xz(file: Bytes, name: str) -> Declared:
    """The content's size from the indexes at the ends of all streams, which are walked from the last.

    Raises:
        DamagedArchive: cut short, or bytes behind the end that are no padding.
    """
    end = file.size
    total = 0
    while end:
        padding = 0
        while end >= 4 and file.read_at(end - 4, 4) == b"\0\0\0\0":
            end -= 4
            padding += 4
            if padding > 1 << 20:
                raise DamagedArchive(name, "more than 1 MiB of zeros follow a stream; the file is damaged")
        footer = file.read_at(end - 12, 12) if end >= 32 else b""
        if footer[10:] != XZ_FOOTER_MAGIC:
            raise DamagedArchive(
                name, f"at byte {end} no xz stream ends: the file is cut short, or something was appended"
            )
        index_bytes = (int.from_bytes(footer[4:8], "little") + 1) * 4
        if index_bytes > min(MAX_XZ_INDEX_BYTES, end - 24):
            raise DamagedArchive(name, f"its xz index claims {index_bytes} bytes, which it cannot have")
        index = file.read_at(end - 12 - index_bytes, index_bytes)
        packed, unpacked = _xz_index(index, name)
        total += unpacked
        start = end - 12 - index_bytes - packed - 12
        if start < 0 or file.read_at(start, 6) != XZ_MAGIC:
            raise DamagedArchive(name, "its xz index does not fit the stream in front of it")
        end = start
    return Declared(total)


def _xz_index(index: bytes, name: str) -> tuple[int, int]:
    """Packed and unpacked bytes of all blocks."""
    if index[:1] != b"\0":
        raise DamagedArchive(name, "there is no xz index where its footer says")
    count, at = _vli(index, 1, name)
    if count > len(index):
        raise DamagedArchive(name, f"its xz index claims {count} blocks in {len(index)} bytes")
    packed = unpacked = 0
    for _ in range(count):
        unpadded, at = _vli(index, at, name)
        size, at = _vli(index, at, name)
        packed += -(-unpadded // 4) * 4
        unpacked += size
    return packed, unpacked


def _vli(data: bytes, at: int, name: str) -> tuple[int, int]:
    """A variable-length integer (7 bits per byte, little end first, at most 9 bytes) and what follows it."""
    value = 0
    for shift in range(0, 63, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
    raise DamagedArchive(name, "its xz index is damaged")


def declared_by_zstd(file: Bytes, name: str) -> Declared:
    """The content's size as all frames declare it; every frame and block header is read, no block.

    Raises:
        DamagedArchive: a frame is cut short, or something else than a frame begins behind one.
    """
    at = 0
    total: int | None = 0
    frames = 0
    while at < file.size:
        magic = int.from_bytes(_exactly(file, at, 4, name), "little")
        if magic & 0xFFFFFFF0 == ZSTD_SKIPPABLE:
            at += 8 + int.from_bytes(_exactly(file, at + 4, 4, name), "little")
            if at > file.size:
                raise _cut(name, file)
            continue
        if magic != ZSTD_MAGIC:
            raise DamagedArchive(name, f"at byte {at} of {file.size} something follows that is not zstd")
        size, at = _zstd_frame(file, at, name)
        total = None if total is None or size is None else total + size
        frames += 1
    if not frames:
        raise DamagedArchive(name, "holds no zstd frame with content")
    return Declared(total)


def _zstd_frame(file: Bytes, at: int, name: str) -> tuple[int | None, int]:
    """Declared content size of the frame at ``at``, and the byte behind it.

    After the magic: descriptor byte (bits 7–6 size of the content size, 5 single segment, 2 checksum, 1–0
    size of the dictionary id), window byte unless single segment, dictionary id, content size. Then blocks,
    each with 3 bytes: bit 0 last, bits 1–2 type (0 raw, 1 RLE, 2 compressed), the rest its size.
    """
    descriptor = _exactly(file, at + 4, 1, name)[0]
    single, flag = descriptor >> 5 & 1, descriptor >> 6
    at += 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    size_bytes = single if flag == 0 else (0, 2, 4, 8)[flag]
    size: int | None = None
    if size_bytes:
        size = int.from_bytes(_exactly(file, at, size_bytes, name), "little") + (
            256 if size_bytes == 2 else 0
        )
        at += size_bytes
    last = False
    while not last:
        header = int.from_bytes(_exactly(file, at, 3, name), "little")
        last, kind = bool(header & 1), header >> 1 & 3
        if kind == 3:
            raise DamagedArchive(name, f"at byte {at} a zstd block has the reserved type 3")
        at += 3 + (1 if kind == 1 else header >> 3)
        if at > file.size:
            raise _cut(name, file)
    at += 4 if descriptor & 4 else 0
    if at > file.size:
        raise _cut(name, file)
    return size, at


def _exactly(file: Bytes, at: int, size: int, name: str) -> bytes:
    data = file.read_at(at, size)
    if len(data) != size:
        raise _cut(name, file)
    return data


def _cut(name: str, file: Bytes) -> DamagedArchive:
    return DamagedArchive(name, f"is cut short: its last zstd frame goes on behind byte {file.size}")
