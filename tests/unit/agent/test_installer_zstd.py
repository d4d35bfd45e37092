"""Frames into memory: whole ones, damaged ones, and ones that hold more than they should."""

from __future__ import annotations

import contextlib
import hashlib
import random

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.installer.index import Chunk
from agent.installer.stream import StreamBroken, verify
from agent.installer.zstd import DamagedFrame, unpack

GUARD = b"\x5a" * 64


def packed(data: bytes) -> memoryview:
    return memoryview(bytearray(zstandard.ZstdCompressor(level=3).compress(data)))


def room(length: int) -> tuple[bytearray, memoryview]:
    """Memory with a guard behind what may be written."""
    whole = bytearray(length) + bytearray(GUARD)
    return whole, memoryview(whole)[:length]


@given(st.binary(min_size=1, max_size=5000), st.integers(1, 4))
@settings(deadline=None, max_examples=40)
def test_frames_in_a_row_become_what_was_packed(data: bytes, times: int) -> None:
    whole, into = room(len(data) * times)
    assert unpack(memoryview(bytearray(bytes(packed(data)) * times)), into) == len(data) * times
    assert whole == data * times + GUARD


@pytest.mark.parametrize("missing", [1, 100_000])
def test_frame_that_holds_more_than_there_is_room_for_writes_nothing_behind_it(missing: int) -> None:
    data = random.Random(1).randbytes(50_000) + bytes(100_000)
    whole, into = room(len(data) - missing)
    with pytest.raises(DamagedFrame, match="can not be unpacked"):
        unpack(packed(data), into)
    assert whole.endswith(GUARD)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda frame: b"no frame at all",
        lambda frame: frame[: len(frame) // 2],
        lambda frame: b"\0" + frame[1:],
        lambda frame: frame + b"\1",
    ],
    ids=["garbage", "half a frame", "wrong magic", "something behind it"],
)
def test_what_is_no_frame_is_damaged(spoil: object) -> None:
    assert callable(spoil)
    frame = bytes(packed(random.Random(2).randbytes(9000)))
    with pytest.raises(DamagedFrame) as caught:
        unpack(memoryview(bytearray(spoil(frame))), memoryview(bytearray(9000)))
    assert "bramble build" in caught.value.hint


@given(st.binary(min_size=1, max_size=400))
@settings(deadline=None, max_examples=200)
def test_any_bytes_are_unpacked_or_refused(frame: bytes) -> None:
    whole, into = room(1000)
    with contextlib.suppress(DamagedFrame):
        assert unpack(memoryview(bytearray(frame)), into) <= 1000
    assert whole.endswith(GUARD)


DATA = random.Random(3).randbytes(5000)


def chunk_of(data: bytes, *, length: int | None = None, sha256: str | None = None) -> Chunk:
    return Chunk(
        offset=4096,
        length=len(data) if length is None else length,
        sha256=sha256 or hashlib.sha256(data).hexdigest(),
        position=0,
        compressed_bytes=len(packed(data)),
    )


def test_chunk_is_proven_by_its_digest() -> None:
    content = memoryview(bytearray(len(DATA)))
    verify(chunk_of(DATA), packed(DATA), content)
    assert content == DATA


@pytest.mark.parametrize(
    ("chunk", "frame", "words"),
    [
        (chunk_of(DATA, sha256="0" * 64), packed(DATA), "the index says 0000000000000000…"),
        (chunk_of(DATA, length=5001), packed(DATA), "holds 5000 bytes, the index says 5001"),
        (chunk_of(DATA, length=4999), packed(DATA), "the chunk at 4096: a frame of"),
        (chunk_of(DATA), memoryview(bytearray(b"\0" * 99)), "the chunk at 4096: a frame of 99 bytes"),
    ],
    ids=["digest", "shorter", "longer", "no frame"],
)
def test_chunk_that_is_another_is_named_and_worth_another_attempt(
    chunk: Chunk, frame: memoryview, words: str
) -> None:
    with pytest.raises(StreamBroken, match=words) as caught:
        verify(chunk, frame, memoryview(bytearray(chunk.length)))
    assert caught.value.hint
