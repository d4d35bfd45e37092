"""Copies of sparse files that stay sparse."""

from __future__ import annotations

import os
from pathlib import Path

from imagebuilder.runner import run


def copy_sparse(source: Path, target: Path) -> None:
    """Copy an image without its holes; on filesystems that can, without copying at all."""
    run(["cp", "--sparse=always", "--reflink=auto", "--", source, target])
    target.chmod(0o644)


def copy_range(source: Path, target: Path, offset: int, length: int) -> None:
    """Copy ``length`` bytes at ``offset`` into a new file of that size; holes and zero blocks stay holes."""
    with source.open("rb") as reader, target.open("wb") as writer:
        writer.truncate(length)
        position = offset
        end = offset + length
        while position < end:
            try:
                position = os.lseek(reader.fileno(), position, os.SEEK_DATA)
            except OSError:
                return  # ENXIO: no data after here
            hole = min(os.lseek(reader.fileno(), position, os.SEEK_HOLE), end)
            while position < hole:
                piece = os.pread(reader.fileno(), min(1 << 20, hole - position), position)
                if piece.strip(b"\0"):
                    os.pwrite(writer.fileno(), piece, position - offset)
                position += len(piece)
