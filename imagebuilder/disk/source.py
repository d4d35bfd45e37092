"""Random access to the bytes of a disk image: the one seam between the pure readers and a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from imagebuilder.errors import NotUnderstood

PIECE_BYTES = 1 << 26


class ByteSource(Protocol):
    """Bytes by absolute offset from the start of the disk."""

    def read_at(self, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes; raises ``NotUnderstood`` where the disk ends earlier."""
        ...


class MemorySource:
    """A disk that is held in memory: small synthetic ones in tests, and pieces of real ones."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read_at(self, offset: int, size: int) -> bytes:
        piece = self._data[offset : offset + size]
        if len(piece) != size:
            raise _too_short(offset, size)
        return piece


class FileSource:
    """A disk image file, read with ``pread``: threads may share it. The caller owns the descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read_at(self, offset: int, size: int) -> bytes:
        pieces = []
        rest = size
        while rest:
            # In bounded pieces: a size that a damaged header claims must not become memory at once.
            piece = os.pread(self._descriptor, min(rest, PIECE_BYTES), offset + size - rest)
            if not piece:
                raise _too_short(offset, size)
            pieces.append(piece)
            rest -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


@contextmanager
def open_source(path: Path) -> Iterator[FileSource]:
    """The image at ``path``, open for reading."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield FileSource(descriptor)
    finally:
        os.close(descriptor)


def _too_short(offset: int, size: int) -> NotUnderstood:
    return NotUnderstood(
        f"the disk image ends before byte {offset + size}, where a filesystem on it says that data lies",
        "The image is cut short; fetch or build it again.",
    )
