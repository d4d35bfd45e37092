"""Compressed chunks, their index, and block maps."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

import pytest
import zstandard

from imagebuilder.disk.blockmap import ByteRange
from imagebuilder.disk.source import MemorySource
from imagebuilder.seal import chunks as seal
from imagebuilder.seal.bmap import render_bmap
from imagebuilder.seal.chunks import Chunk, clear_unmapped, compress, render_index, split

KIB = 1024


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "CHUNK_BYTES", 16 * KIB)
    monkeypatch.setattr(seal, "ZERO_FRAME_BYTES", 24 * KIB)


def disk_of(ranges: list[ByteRange], size: int) -> bytes:
    data = bytearray(size)
    for mapped in ranges:
        data[mapped.start : mapped.end] = hashlib.shake_256(str(mapped).encode()).digest(mapped.length)
    return bytes(data)


@pytest.mark.parametrize(
    "ranges",
    [
        [ByteRange(0, 4 * KIB)],
        [ByteRange(0, 40 * KIB), ByteRange(120 * KIB, 130 * KIB)],
        [ByteRange(8 * KIB, 20 * KIB), ByteRange(196 * KIB, 200 * KIB)],
        [],
    ],
    ids=["head", "two", "to-the-end", "nothing"],
)
def test_frames_unpack_to_the_disk_and_chunks_prove_their_bytes(
    ranges: list[ByteRange], tmp_path: Path
) -> None:
    size = 200 * KIB
    data = disk_of(ranges, size)
    shares: list[float] = []
    compressed = compress(MemorySource(data), size, ranges, tmp_path / "z", shares.append)
    chunks = compressed.chunks
    packed = (tmp_path / "z").read_bytes()
    assert (compressed.size_bytes, compressed.sha256) == (len(packed), hashlib.sha256(packed).hexdigest())
    with (tmp_path / "z").open("rb") as file:
        assert zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read() == data
    assert sum(chunk.length for chunk in chunks) == sum(mapped.length for mapped in ranges)
    for chunk in chunks:
        frame = packed[chunk.position : chunk.position + chunk.compressed_bytes]
        piece = zstandard.decompress(frame)
        assert piece == data[chunk.offset : chunk.offset + chunk.length]
        assert hashlib.sha256(piece).hexdigest() == chunk.sha256
        assert chunk.length <= 16 * KIB
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    index = json.loads(render_index("an-image", size, chunks))
    assert index["version"] == 1
    assert [Chunk(**item) for item in index["chunks"]] == list(chunks)


def test_chunks_are_cut_on_the_grid_of_the_disk() -> None:
    pieces = list(split(ByteRange(12 * KIB, 36 * KIB)))
    assert pieces == [
        ByteRange(12 * KIB, 16 * KIB),
        ByteRange(16 * KIB, 32 * KIB),
        ByteRange(32 * KIB, 36 * KIB),
    ]


def test_what_is_not_mapped_becomes_zero(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"x" * 64 * KIB)
    ranges = [ByteRange(4 * KIB, 8 * KIB), ByteRange(32 * KIB, 36 * KIB)]
    descriptor = os.open(path, os.O_RDWR)
    try:
        assert clear_unmapped(descriptor, 64 * KIB, ranges) == 56 * KIB
    finally:
        os.close(descriptor)
    data = path.read_bytes()
    assert len(data) == 64 * KIB
    assert [
        index // (4 * KIB) for index in range(0, 64 * KIB, 4 * KIB) if any(data[index : index + 4 * KIB])
    ] == [1, 8]


def test_a_block_map_counts_its_blocks_and_proves_itself() -> None:
    def chunk(offset: int, length: int) -> Chunk:
        return Chunk(offset=offset, length=length, sha256="a" * 64, position=0, compressed_bytes=1)

    text = render_bmap(1_000_000, [chunk(0, 4096), chunk(8192, 12288)])
    assert "<BlocksCount> 245 </BlocksCount>" in text
    assert "<MappedBlocksCount> 4 </MappedBlocksCount>" in text
    assert re.findall(r"<Range chksum=\"a{64}\"> (\S+) </Range>", text) == ["0", "2-4"]
    found = re.search(r"<BmapFileChecksum> ([0-9a-f]{64}) </BmapFileChecksum>", text)
    assert found is not None
    blank = text.replace(found.group(1), "0" * 64)
    assert hashlib.sha256(blank.encode()).hexdigest() == found.group(1)
