"""Chunks that an image shares with its base are taken from there, and the compressed file is the same."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from imagebuilder.disk.blockmap import ByteRange
from imagebuilder.disk.source import ByteSource, MemorySource, open_source
from imagebuilder.seal.chunks import CHUNK_BYTES, Packed, compress
from imagebuilder.seal.known import KnownChunks

MIB = 2**20
SIZE = 20 * MIB
RANGES = (ByteRange(0, 6 * MIB), ByteRange(8 * MIB, 20 * MIB))


def noise(seed: int) -> bytearray:
    """A third of it can be compressed, as on a disk."""
    source = random.Random(seed)
    return bytearray(b"".join(source.randbytes(2 * MIB) + bytes(MIB) for _ in range(7))[:SIZE])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base")
    (directory / "disk.img").write_bytes(noise(1))
    return directory


def test_shared_chunks_are_reused_and_the_file_is_the_same(base: Path, tmp_path: Path) -> None:
    changed = noise(1)
    changed[9 * MIB] ^= 1
    image = MemorySource(bytes(changed))
    reused: list[int] = []
    with open_source(base / "disk.img") as disk:
        chunks = compress(disk, SIZE, RANGES, base / "frames").chunks
        with open_source(base / "frames") as frames:
            known = KnownChunks(disk, frames, chunks)

            def lookup(source: ByteSource, piece: ByteRange) -> Packed | None:
                found = known.packed(source, piece)
                if found is not None:
                    reused.append(piece.start)
                return found

            with_known = compress(image, SIZE, RANGES, tmp_path / "known", lookup=lookup)
    without = compress(image, SIZE, RANGES, tmp_path / "fresh")
    assert with_known == without
    assert (tmp_path / "known").read_bytes() == (tmp_path / "fresh").read_bytes()
    assert sorted(reused) == [0, CHUNK_BYTES, 12 * MIB, 16 * MIB]  # all but the one that was changed


def test_other_bytes_and_other_edges_are_not_known(base: Path) -> None:
    with open_source(base / "disk.img") as disk:
        chunks = compress(disk, SIZE, RANGES, base / "frames").chunks
        with open_source(base / "frames") as frames:
            known = KnownChunks(disk, frames, chunks)
            first = ByteRange(0, CHUNK_BYTES)
            data = disk.read_at(0, CHUNK_BYTES)
            assert known.digest(disk, first) == chunks[0].sha256
            for place in (0, CHUNK_BYTES // 2, CHUNK_BYTES - 1):
                other = bytearray(data)
                other[place] ^= 1
                assert known.digest(MemorySource(bytes(other)), first) is None
            assert known.digest(disk, ByteRange(0, 4096)) is None
