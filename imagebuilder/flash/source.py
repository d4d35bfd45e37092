"""What is written: the mapped pieces of a raw image, in ascending order."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imagebuilder.disk.sparse import data_runs
from imagebuilder.flash.errors import FlashError
from imagebuilder.seal.chunks import CHUNK_BYTES

SECTOR_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes ``offset`` up to ``end`` of the image; at most 4 MiB. ``sha256`` where it is known beforehand."""

    offset: int
    length: int
    sha256: str | None = None

    @property
    def end(self) -> int:
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class Patch:
    """Bytes of a node delta at their place."""

    offset: int
    data: bytes

    @property
    def end(self) -> int:
        return self.offset + len(self.data)

    def clip(self, start: int, end: int) -> Patch | None:
        """The part between two offsets, None where there is none."""
        first, last = max(self.offset, start), min(self.end, end)
        return Patch(first, self.data[first - self.offset : last - self.offset]) if first < last else None


class RawImage:
    """A raw image file, open for reading; threads may share it.

    Args:
        descriptor: of the file; the opener closes it.
        identity: names the content: what was half written of one image is not continued with another.
        size_bytes: of the whole image.
        pieces: its mapped bytes.
    """

    def __init__(self, descriptor: int, identity: str, size_bytes: int, pieces: Sequence[Piece]) -> None:
        self._descriptor = descriptor
        self.identity = identity
        self.size_bytes = size_bytes
        self.pieces = tuple(pieces)

    @property
    def mapped_bytes(self) -> int:
        return sum(piece.length for piece in self.pieces)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` with the image's bytes.

        Raises:
            FlashError: it cannot be read, or ends early: somebody changes it.
        """
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self._descriptor, [buffer[done:]], offset + done)
            except OSError as exc:
                raise FlashError(
                    f"the image cannot be read at byte {offset + done}: {exc.strerror}",
                    "Look at the disk that it lies on: dmesg.",
                ) from exc
            if count == 0:
                raise FlashError(
                    f"the image ends at byte {offset + done} while it is being written",
                    "Leave the file alone while it is used, and run the command again.",
                )
            done += count


@contextmanager
def open_raw(
    path: Path, identity: str | None = None, pieces: Sequence[Piece] | None = None
) -> Iterator[RawImage]:
    """The raw image at ``path``; without ``pieces``, everything that is not a hole.

    Without ``identity`` the file is known by its inode, size and time of change. That is enough: it only says
    where reading the medium back is worth while.

    Raises:
        FlashError: it cannot be read, is empty, or is not a whole number of sectors.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise FlashError(f"{path} cannot be read: {exc.strerror}", "Name a raw image file.") from exc
    try:
        state = os.fstat(descriptor)
        size = state.st_size
        identity = identity or f"file {state.st_dev}:{state.st_ino} {state.st_mtime_ns}"
        if size == 0 or size % SECTOR_BYTES:
            raise FlashError(
                f"{path} has {size} bytes; an image is a whole number of sectors of {SECTOR_BYTES} bytes",
                "It is cut short, or compressed: decompress it first.",
            )
        yield RawImage(
            descriptor, identity, size, _data_pieces(descriptor, size) if pieces is None else pieces
        )
    finally:
        os.close(descriptor)


def split_range(start: int, end: int) -> Iterator[Piece]:
    """A range as pieces on the grid of the disk."""
    while start < end:
        stop = min((start // CHUNK_BYTES + 1) * CHUNK_BYTES, end)
        yield Piece(start, stop - start)
        start = stop


def loose_patches(pieces: Sequence[Piece], patches: Sequence[Patch]) -> list[Patch]:
    """The parts of patches that lie in no piece: bytes that the image itself leaves unmapped."""
    edges = [0, *itertools.chain.from_iterable((piece.offset, piece.end) for piece in pieces), 1 << 63]
    gaps = zip(edges[::2], edges[1::2], strict=True)
    return [part for start, end in gaps for patch in patches if (part := patch.clip(start, end))]


def _data_pieces(descriptor: int, size: int) -> list[Piece]:
    return [piece for start, end in data_runs(descriptor, 0, size) for piece in split_range(start, end)]
