"""The base's chunks, hashed and compressed once for all images that are made of it.

Most of an image is its base, byte for byte. A chunk that equals the base's at the same place has the same
digest and, from the same zstd at the same level, the same frame; comparing costs a tenth of making both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import zstandard

from imagebuilder.disk.blockmap import ByteRange, mapped_ranges
from imagebuilder.disk.source import ByteSource, FileSource, open_source
from imagebuilder.seal.chunks import CHUNK_BYTES, LEVEL, Chunk, Packed, compress, load_chunks, render_index
from imagebuilder.still import FileState
from imagebuilder.store import Store

KIND: Final = "base-chunks"
FORMAT: Final = 1
FRAMES: Final = "disk.img.zst"
INDEX: Final = "index.json"
COMPARE_BYTES: Final = 512 * 2**10


class KnownChunks:
    """Answers `imagebuilder.seal.chunks.compress` out of what is known of a base. Threads may share it."""

    def __init__(self, base: FileSource, frames: FileSource, chunks: tuple[Chunk, ...]) -> None:
        self._base = base
        self._frames = frames
        self._chunks = {(chunk.offset, chunk.length): chunk for chunk in chunks}

    def digest(self, disk: ByteSource, piece: ByteRange) -> str | None:
        """The SHA-256 of a piece of ``disk``, where the base has the same bytes at that place."""
        chunk = self._chunks.get((piece.start, piece.length))
        if chunk is None:
            return None
        # In pieces that stay in the processor's cache, up to the first that differs.
        for start in range(piece.start, piece.end, COMPARE_BYTES):
            size = min(COMPARE_BYTES, piece.end - start)
            if self._base.read_at(start, size) != disk.read_at(start, size):
                return None
        return chunk.sha256

    def packed(self, disk: ByteSource, piece: ByteRange) -> Packed | None:
        """The same with the frame."""
        sha256 = self.digest(disk, piece)
        if sha256 is None:
            return None
        chunk = self._chunks[piece.start, piece.length]
        return Packed(sha256, self._frames.read_at(chunk.position, chunk.compressed_bytes))


@contextmanager
def open_known(
    base_id: str, disk: Path, store: Store, state: FileState | None = None
) -> Iterator[KnownChunks]:
    """The base's chunks; made now where they are not in the store yet.

    Args:
        base_id: names the content of ``disk``, which nobody writes to.
        state: that in which ``disk`` has this content; None: as it is now.

    Raises:
        ImageBuilderError: the base or the store is damaged.
    """
    version = ".".join(map(str, zstandard.ZSTD_VERSION))
    entry_id = f"{base_id}-{FORMAT}-{CHUNK_BYTES}-{version}-{LEVEL}"
    entry = store.get_or_create(KIND, entry_id, lambda work: _make(disk, base_id, work, state))
    with open_source(disk) as base, open_source(entry / FRAMES) as frames:
        yield KnownChunks(base, frames, load_chunks(entry / INDEX))


def _make(disk: Path, base_id: str, work: Path, state: FileState | None) -> None:
    size = disk.stat().st_size
    with (state or FileState.of(disk)).holding(disk), open_source(disk) as source:
        packed = compress(source, size, mapped_ranges(source, size), work / FRAMES)
    (work / INDEX).write_bytes(render_index(base_id, size, packed.chunks))
