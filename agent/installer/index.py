"""The chunk index of an image: which parts of the raw disk are mapped, their digests and where their frames
are.

{"version": 1, "image_id": "…", "size_bytes": N, "chunks": [
    {"offset": bytes in the disk, "length": bytes, "sha256": hex of the raw bytes,
     "position": bytes in the .zst file, "compressed_bytes": length of its frame}, …]}   ascending, disjoint
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from agent.errors import AgentError

INDEX_VERSION = 1
MAX_CHUNK_BYTES = 16 * 1024 * 1024
"""A chunk is held in memory; a larger one than any that our builder makes is refused."""
MAX_FRAME_EXTRA_BYTES = MAX_CHUNK_BYTES // 256 + 1024
"""A frame is hardly larger than what it holds (ZSTD_compressBound: a 256th); no memory is held for more."""
_HINT = "The image is damaged or from another release; run 'bramble build' again."


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    offset: int
    length: int
    sha256: str
    position: int
    compressed_bytes: int

    @property
    def end(self) -> int:
        return self.offset + self.length


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageIndex:
    image_id: str
    size_bytes: int
    chunks: tuple[Chunk, ...]

    @property
    def mapped_bytes(self) -> int:
        return sum(chunk.length for chunk in self.chunks)


def parse_index(data: bytes) -> ImageIndex:
    """Parse and check index.json; the order and the bounds of the chunks are part of the check.

    Raises:
        AgentError: what is wrong, with the number of the chunk.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise AgentError(f"the image index is not JSON: {exc}", _HINT) from exc
    if not isinstance(value, dict) or value.get("version") != INDEX_VERSION:
        raise AgentError(f"the image index is not of version {INDEX_VERSION}", _HINT)
    size_bytes = _natural(value, "size_bytes", "index")
    entries = value.get("chunks")
    if not isinstance(entries, list) or not entries:
        raise AgentError("the image index lists no chunks", _HINT)
    chunks = tuple(_parse_chunk(entry, f"chunks[{number}]") for number, entry in enumerate(entries))
    disk_end = file_end = 0
    for number, chunk in enumerate(chunks):
        if chunk.offset < disk_end or chunk.position < file_end or chunk.end > size_bytes:
            raise AgentError(
                f"the image index: chunks[{number}] overlaps, descends or ends past the image", _HINT
            )
        disk_end, file_end = chunk.end, chunk.position + chunk.compressed_bytes
    return ImageIndex(image_id=str(value.get("image_id", "")), size_bytes=size_bytes, chunks=chunks)


def _parse_chunk(entry: Any, where: str) -> Chunk:
    if not isinstance(entry, dict):
        raise AgentError(f"the image index: {where} is no object", _HINT)
    digest = entry.get("sha256")
    if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise AgentError(f"the image index: {where}.sha256 is no digest", _HINT)
    chunk = Chunk(
        offset=_natural(entry, "offset", where),
        length=_natural(entry, "length", where),
        sha256=digest,
        position=_natural(entry, "position", where),
        compressed_bytes=_natural(entry, "compressed_bytes", where),
    )
    if (
        not 0 < chunk.length <= MAX_CHUNK_BYTES
        or not 0 < chunk.compressed_bytes <= chunk.length + MAX_FRAME_EXTRA_BYTES
    ):
        raise AgentError(f"the image index: {where} has a length out of range", _HINT)
    return chunk


def _natural(entry: dict[str, Any], key: str, where: str) -> int:
    number = entry.get(key)
    if type(number) is not int or number < 0:
        raise AgentError(f"the image index: {where}.{key} is not a number of bytes", _HINT)
    return number
