"""The compressed image: one .zst file of independent frames, and the index of the chunks in it.

    frame | frame | …      ascending by disk offset; a frame holds either one chunk (mapped bytes, at most 4
    MiB) or a run of zeros
                           that nothing on the disk uses

``zstd -d`` of the whole file gives the raw image. A reader of the index fetches, checks and writes the mapped
chunks alone, and can begin again at any of them. Index (JSON):

    {"version": 1, "image_id": …, "size_bytes": N,
     "chunks": [{"offset", "length", "sha256", "position", "compressed_bytes"}, …]}

``offset`` and ``length`` are bytes of the disk, ``sha256`` that of the chunk, ``position`` and
``compressed_bytes`` its frame.

Source of the frame rules: RFC 8878 §3 (frames may be concatenated).
"""

from __future__ import annotations

import ctypes
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import chain, pairwise
from pathlib import Path
from typing import Final

import zstandard

from imagebuilder.disk.blockmap import ByteRange
from imagebuilder.disk.source import ByteSource
from imagebuilder.disk.sparse import data_runs
from imagebuilder.errors import NotUnderstood
from imagebuilder.writing import write_at

CHUNK_BYTES: Final = 4 * 2**20
ZERO_FRAME_BYTES: Final = 16 * 2**20
LEVEL: Final = 3
WORKERS: Final = 2
IN_FLIGHT: Final = 4
"""Chunks read but not yet written: with the base's bytes and the frame, each may take 12 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One mapped piece of the disk and its frame in the compressed file; all numbers are bytes."""

    offset: int
    length: int
    sha256: str
    position: int
    compressed_bytes: int


@dataclass(frozen=True, slots=True)
class Packed:
    """A piece of the disk as a frame; ``sha256`` is that of its bytes, None for a run of zeros."""

    sha256: str | None
    frame: bytes


@dataclass(frozen=True, slots=True)
class Compressed:
    """A finished compressed file: its chunks, its size and its SHA-256."""

    chunks: tuple[Chunk, ...]
    size_bytes: int
    sha256: str


Lookup = Callable[[ByteSource, ByteRange], Packed | None]
"""The frame of a piece of a disk, where one was made before of the same bytes."""


def compress(
    source: ByteSource,
    size_bytes: int,
    ranges: Sequence[ByteRange],
    target: Path,
    on_progress: Callable[[float], None] = lambda _: None,
    lookup: Lookup = lambda source, piece: None,
) -> Compressed:
    """Write the compressed image.

    Args:
        source: the disk; bytes outside of ``ranges`` are taken to be zeros and not read.
        size_bytes: its size.
        ranges: the mapped ranges, ascending and disjoint.
        target: the file to write.
        on_progress: called with 0.0–1.0.
        lookup: asked before a piece is read and compressed; called from threads.
    """
    chunks: list[Chunk] = []
    digest = hashlib.sha256()
    position = 0
    waiting: deque[tuple[ByteRange, Future[Packed]]] = deque()
    with ThreadPoolExecutor(WORKERS) as pool, target.open("wb") as file:
        for piece, mapped in chain(_pieces(ranges, size_bytes), [(None, False)]):
            if piece is not None:
                waiting.append((piece, pool.submit(_pack, source, piece, mapped, lookup)))
            while waiting and (piece is None or len(waiting) >= IN_FLIGHT):
                done, future = waiting.popleft()
                packed = future.result()
                file.write(packed.frame)
                digest.update(packed.frame)
                if packed.sha256 is not None:
                    chunks.append(
                        Chunk(
                            offset=done.start,
                            length=done.length,
                            sha256=packed.sha256,
                            position=position,
                            compressed_bytes=len(packed.frame),
                        )
                    )
                position += len(packed.frame)
                on_progress(done.end / size_bytes)
    return Compressed(tuple(chunks), position, digest.hexdigest())


def render_index(image_id: str, size_bytes: int, chunks: Sequence[Chunk]) -> bytes:
    """The index as JSON."""
    body = {
        "version": 1,
        "image_id": image_id,
        "size_bytes": size_bytes,
        "chunks": [asdict(chunk) for chunk in chunks],
    }
    return json.dumps(body, separators=(",", ":")).encode() + b"\n"


def load_chunks(path: Path) -> tuple[Chunk, ...]:
    """The chunks of an index file.

    Raises:
        NotUnderstood: it is no index of this version.
    """
    try:
        body = json.loads(path.read_bytes())
        if body["version"] != 1:
            raise ValueError(f"version {body['version']}")
        return tuple(Chunk(**chunk) for chunk in body["chunks"])
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise NotUnderstood(
            f"{path} is not an image index: {exc}", "The store is damaged; remove the entry and build again."
        ) from exc


def clear_unmapped(descriptor: int, size_bytes: int, ranges: Sequence[ByteRange]) -> int:
    """Turn everything outside of ``ranges`` into holes or zeros, and return how many bytes that were.

    What lies there is free space: remains of files that were replaced. After this the image is exactly its
    mapped bytes.
    """
    edges = [ByteRange(0, 0), *ranges, ByteRange(size_bytes, size_bytes)]
    cleared = 0
    for before, after in pairwise(edges):
        for start, end in data_runs(descriptor, before.end, after.start):
            _punch(descriptor, start, end - start)
            cleared += end - start
    return cleared


def split(mapped: ByteRange) -> Iterator[ByteRange]:
    """A range as chunks, cut on the grid of the disk, so that equal pieces of images are equal chunks."""
    start = mapped.start
    while start < mapped.end:
        end = min((start // CHUNK_BYTES + 1) * CHUNK_BYTES, mapped.end)
        yield ByteRange(start, end)
        start = end


def _pieces(ranges: Sequence[ByteRange], size_bytes: int) -> Iterator[tuple[ByteRange, bool]]:
    """The whole disk in order: (piece, is it mapped)."""
    position = 0
    for mapped in ranges:
        yield from ((gap, False) for gap in _gaps(position, mapped.start))
        yield from ((piece, True) for piece in split(mapped))
        position = mapped.end
    yield from ((gap, False) for gap in _gaps(position, size_bytes))


def _gaps(start: int, end: int) -> Iterator[ByteRange]:
    for position in range(start, end, ZERO_FRAME_BYTES):
        yield ByteRange(position, min(position + ZERO_FRAME_BYTES, end))


def _pack(source: ByteSource, piece: ByteRange, mapped: bool, lookup: Lookup) -> Packed:
    if not mapped:
        return Packed(None, _zero_frame(piece.length))
    if known := lookup(source, piece):
        return known
    data = source.read_at(piece.start, piece.length)
    return Packed(hashlib.sha256(data).hexdigest(), _compressor().compress(data))


@lru_cache(maxsize=64)
def _zero_frame(length: int) -> bytes:
    return _compressor().compress(bytes(length))


def _compressor() -> zstandard.ZstdCompressor:
    """A new one per call: it is cheap, and one may not be shared between threads."""
    return zstandard.ZstdCompressor(level=LEVEL, write_content_size=True, write_checksum=True)


_FALLOC_FL_KEEP_SIZE: Final = 0x01
_FALLOC_FL_PUNCH_HOLE: Final = 0x02


def _punch(descriptor: int, offset: int, length: int) -> None:
    """Make a hole with fallocate(2), which the os module lacks; write zeros where there are no holes."""
    libc = ctypes.CDLL(None, use_errno=True)
    # glibc's plain name takes 32-bit offsets on 32-bit machines; other C libraries have one name for 64 bits.
    fallocate = libc.fallocate64 if hasattr(libc, "fallocate64") else libc.fallocate
    result = fallocate(
        descriptor,
        _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE,
        ctypes.c_int64(offset),
        ctypes.c_int64(length),
    )
    if result == 0:
        return
    for position in range(offset, offset + length, CHUNK_BYTES):
        zeros = bytes(min(CHUNK_BYTES, offset + length - position))
        write_at(descriptor, zeros, position, Path("the image"))
