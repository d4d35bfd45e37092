"""Writing downloads and disk images: all bytes or an error, zeros as holes, and what the error means.

The two functions that tests replace to make a disk fail are named here. pwrite(2) may take less than it was
given and say so only by its result, so whoever writes at an offset does it through ``write_at``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from imagebuilder.errors import DiskFull, ImageBuilderError

pwrite: Callable[[int, bytes | memoryview, int], int] = os.pwrite
fsync: Callable[[int], None] = os.fsync

HOLE_BYTES: Final = 64 * 1024
"""Zeros are left out in blocks of this size: large enough to compare fast, small enough for a FAT's gaps."""

_ZEROS: Final = bytes(HOLE_BYTES)


class WriteError(ImageBuilderError):
    """The disk of the store did not take what was written."""


def write_at(descriptor: int, data: bytes | memoryview, offset: int, path: Path) -> None:
    """Write all of ``data`` at ``offset``.

    Raises:
        DiskFull: the filesystem (or the user's quota) is full.
        WriteError: the disk failed.
    """
    rest = memoryview(data)
    while rest:
        try:
            written = pwrite(descriptor, rest, offset)
        except OSError as exc:
            raise write_error(path, exc) from exc
        if written <= 0:
            raise WriteError(f"{path}: the disk took none of {len(rest)} bytes", "Look at the disk: dmesg.")
        rest = rest[written:]
        offset += written


def write_sparse(descriptor: int, data: bytes, offset: int, path: Path) -> None:
    """Like ``write_at``, but blocks of zeros are left out; the file must hold none of it yet."""
    view = memoryview(data)
    start: int | None = None
    for at in range(0, len(view), HOLE_BYTES):
        block = view[at : at + HOLE_BYTES]
        if block == _ZEROS[: len(block)]:
            if start is not None:
                write_at(descriptor, view[start:at], offset + start, path)
                start = None
        elif start is None:
            start = at
    if start is not None:
        write_at(descriptor, view[start:], offset + start, path)


def flush(descriptor: int, path: Path) -> None:
    """Through to the disk.

    Raises:
        DiskFull, WriteError
    """
    try:
        fsync(descriptor)
    except OSError as exc:
        raise write_error(path, exc) from exc


def write_error(path: Path, exc: OSError) -> ImageBuilderError:
    """What a failed write means to a person."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(path)
    return WriteError(
        f"{path}: cannot be written: {exc.strerror}",
        "Look at the disk (dmesg, smartctl), or put the store elsewhere with BRAMBLE_CACHE_DIR.",
    )
