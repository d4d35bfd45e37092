"""An arm64 kernel file: which version it is and how large its pages are. Pure: bytes in, values out.

The file may be the plain image, gzip over it (Raspberry Pi OS, Ubuntu), or an EFI program that unpacks it.

Plain image: 24–31 flags, of which bits 1–2 are the page size (0 unknown, 1 4 KiB, 2 16 KiB, 3 64 KiB) ·
56–59 "ARM\\x64".
EFI: 0–1 "MZ" · 4–7 "zimg" · 8–11 offset and 12–15 size of what is compressed · 24–55 the method's name.

Source: Linux, Documentation/arch/arm64/booting.rst and drivers/firmware/efi/libstub/zboot-header.S (6.12).
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from typing import Final

import zstandard

from imagebuilder.errors import NotUnderstood

MAGIC_AT: Final = 56
ZBOOT_HEADER_BYTES: Final = 56
MAGIC: Final = b"ARM\x64"
MAX_KERNEL_BYTES: Final = 256 * 2**20
"""Unpacked; today's have 30 to 70 MB. What grows beyond this is no kernel."""

PAGE_BYTES: Final = {1: 4096, 2: 16384, 3: 65536}
_BANNER: Final = re.compile(rb"Linux version (\d+\.\d+[^\s\x00]{0,80}) ")


class KernelError(NotUnderstood):
    """A file that is no arm64 kernel, or a damaged one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """``version`` is what ``uname -r`` says, None where the file does not tell; ``page_bytes`` likewise."""

    version: str | None
    page_bytes: int | None


def parse_kernel(data: bytes, path: str) -> Kernel:
    """Read a kernel file.

    Args:
        data: its content.
        path: its name, for errors.

    Raises:
        KernelError: naming what it is instead.
    """
    image = _unpack(data, path)
    if image[MAGIC_AT : MAGIC_AT + 4] != MAGIC:
        raise KernelError(
            f"{path} is no 64-bit ARM kernel: bytes {MAGIC_AT}–{MAGIC_AT + 3} are "
            f"{image[MAGIC_AT : MAGIC_AT + 4]!r}, expected {MAGIC!r} (it starts with {image[:8]!r})",
            "Take the arm64 edition of the image; 32-bit (armhf) editions cannot run a 64-bit k3s.",
        )
    (flags,) = struct.unpack_from("<Q", image, 24)
    banner = _BANNER.search(image)
    return Kernel(
        version=banner.group(1).decode("ascii", "replace") if banner else None,
        page_bytes=PAGE_BYTES.get(flags >> 1 & 3),
    )


def _unpack(data: bytes, path: str) -> bytes:
    if data[:2] == b"\x1f\x8b":
        return _gunzip(data, path)
    if data[:2] == b"MZ" and data[4:8] == b"zimg" and len(data) >= ZBOOT_HEADER_BYTES:
        offset, size = struct.unpack_from("<II", data, 8)
        method = data[24:56].split(b"\0", 1)[0].decode("ascii", "replace")
        packed = data[offset : offset + size]
        if method == "gzip":
            return _gunzip(packed, path)
        if method == "zstd":
            try:
                with zstandard.ZstdDecompressor().stream_reader(packed) as reader:
                    return reader.read(MAX_KERNEL_BYTES)
            except zstandard.ZstdError as exc:
                raise _damaged(path, str(exc)) from exc
        raise KernelError(
            f"{path} is an EFI kernel compressed with {method!r}, known are gzip and zstd",
            "The firmware of a Raspberry Pi starts plain or gzip kernels; use such an image.",
        )
    return data


def _gunzip(data: bytes, path: str) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)
    try:
        image = unpacker.decompress(data, MAX_KERNEL_BYTES)
    except zlib.error as exc:
        raise _damaged(path, str(exc)) from exc
    if not unpacker.eof:
        cause = "it is cut short" if len(image) < MAX_KERNEL_BYTES else f"over {MAX_KERNEL_BYTES} bytes"
        raise _damaged(path, cause)
    return image


def _damaged(path: str, cause: str) -> KernelError:
    return KernelError(f"{path} does not unpack: {cause}", "The kernel is damaged; fetch the image again.")
