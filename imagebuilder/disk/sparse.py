"""Copies of sparse files that stay sparse."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from imagebuilder.disk.source import FileSource
from imagebuilder.runner import run
from imagebuilder.writing import write_sparse

PIECE_BYTES: Final = 1 << 20


def copy_sparse(source: Path, target: Path) -> None:
    """Copy an image without its holes; on filesystems that can, without copying at all."""
    run(["cp", "--sparse=always", "--reflink=auto", "--", source, target])
    target.chmod(0o644)


def copy_range(source: Path, target: Path, offset: int, length: int) -> None:
    """Copy ``length`` bytes at ``offset`` into a new file of that size; holes and zero blocks stay holes.

    Raises:
        NotUnderstood: the source ends before it should.
        DiskFull, WriteError: the target cannot be written.
        OSError: the source cannot be read.
    """
    with source.open("rb") as reader, target.open("wb") as writer:
        writer.truncate(length)
        pieces = FileSource(reader.fileno())
        for start, end in data_runs(reader.fileno(), offset, offset + length):
            for position in range(start, end, PIECE_BYTES):
                piece = pieces.read_at(position, min(PIECE_BYTES, end - position))
                write_sparse(writer.fileno(), piece, position - offset, target)


def data_runs(descriptor: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """(start, end) of what is not a hole between two offsets of a file.

    Raises:
        OSError: the disk failed; that there is no more data is no error.
    """
    while start < end:
        try:
            begin = os.lseek(descriptor, start, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno != errno.ENXIO:
                raise
            return
        if begin >= end:
            return
        start = min(os.lseek(descriptor, begin, os.SEEK_HOLE), end)
        yield begin, start
