"""Reading ahead: order, bounds, and what becomes of an error on either side."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import AgentError
from agent.installer.ahead import AHEAD_BYTES, MAX_BUFFERS, MIN_BUFFERS, Buffer, ReadAhead, make_buffers
from agent.installer.index import MAX_CHUNK_BYTES, Chunk

DEADLINE_S = 60.0


def make_chunks(lengths: Sequence[int]) -> list[Chunk]:
    chunks = []
    offset = 0
    for length in lengths:
        data = content_at(offset, length)
        chunks.append(
            Chunk(
                offset=offset,
                length=length,
                sha256=hashlib.sha256(data).hexdigest(),
                position=offset,
                compressed_bytes=length,
            )
        )
        offset += length
    return chunks


def content_at(offset: int, length: int) -> bytes:
    return (offset.to_bytes(4, "big") * (length // 4 + 1))[:length]


class Source:
    """Fetches what it is asked for; counts how far it is ahead of what was given back."""

    def __init__(self, *, fails_at: int | None = None, error: BaseException | None = None) -> None:
        self.fetched = 0
        self.taken = 0
        self.most_ahead = 0
        self._fails_at, self._error = fails_at, error

    def __call__(self, chunk: Chunk, packed: memoryview) -> None:
        assert len(packed) == chunk.compressed_bytes
        if self.fetched == self._fails_at and self._error is not None:
            raise self._error
        packed[:] = content_at(chunk.offset, chunk.length)
        self.fetched += 1
        self.most_ahead = max(self.most_ahead, self.fetched - self.taken)


def prove(chunk: Chunk, packed: memoryview, content: memoryview) -> None:
    content[:] = packed
    if hashlib.sha256(content).hexdigest() != chunk.sha256:
        raise AgentError(f"the chunk at {chunk.offset} is damaged")


def buffers_of(count: int, length: int) -> list[Buffer]:
    return [Buffer(memoryview(bytearray(length)), memoryview(bytearray(length))) for _ in range(count)]


def is_fetching() -> bool:
    return any(thread.name.startswith("image-") for thread in threading.enumerate())


@given(st.lists(st.integers(1, 64), max_size=30), st.integers(1, 5))
@settings(deadline=None, max_examples=40)
def test_chunks_come_in_order_and_never_more_at_a_time_than_there_are_buffers(
    lengths: list[int], count: int
) -> None:
    chunks, source = make_chunks(lengths), Source()
    ahead = ReadAhead(chunks, source, prove, buffers_of(count, 64))
    ahead.start()
    found = []
    try:
        for chunk, view in ahead.proven():
            assert view == content_at(chunk.offset, chunk.length)
            found.append(chunk)
            view[:] = bytes(len(view))  # the caller may change what it was given
            source.taken += 1
    finally:
        ahead.close()
    assert found == chunks
    assert source.most_ahead <= count
    assert not is_fetching()


@pytest.mark.parametrize("error", [AgentError("gone"), OSError(5, "EIO"), SystemExit(1)], ids=repr)
@pytest.mark.parametrize("fails_at", [0, 1, 7])
def test_error_of_the_source_comes_after_every_chunk_before_it(fails_at: int, error: BaseException) -> None:
    chunks = make_chunks([16] * 8)
    ahead = ReadAhead(chunks, Source(fails_at=fails_at, error=error), prove, buffers_of(MIN_BUFFERS, 16))
    ahead.start()
    found: list[Chunk] = []
    try:
        with pytest.raises(type(error)) as caught:
            found.extend(chunk for chunk, _view in ahead.proven())
    finally:
        ahead.close()
    assert caught.value is error
    assert found == chunks[:fails_at]
    assert not is_fetching()


@pytest.mark.parametrize("damaged", [0, 3, 8])
def test_chunk_that_can_not_be_proven_is_not_given_out_nor_any_after_it(damaged: int) -> None:
    chunks = make_chunks([16] * 9)

    def fetch(chunk: Chunk, packed: memoryview) -> None:
        packed[:] = content_at(chunk.offset, chunk.length)
        if chunk is chunks[damaged]:
            packed[5] ^= 1

    ahead = ReadAhead(chunks, fetch, prove, buffers_of(MIN_BUFFERS, 16))
    ahead.start()
    found: list[Chunk] = []
    try:
        with pytest.raises(AgentError, match=f"at {16 * damaged} is damaged"):
            found.extend(chunk for chunk, _view in ahead.proven())
    finally:
        ahead.close()
    assert found == chunks[:damaged]
    assert not is_fetching()


@pytest.mark.parametrize("taken", [0, 1, 4])
def test_caller_that_gives_up_leaves_no_thread(taken: int) -> None:
    ahead = ReadAhead(make_chunks([16] * 9), Source(), prove, buffers_of(MIN_BUFFERS, 16))
    ahead.start()
    chunks = ahead.proven()
    for _ in range(taken):
        next(chunks)
    ahead.close()
    assert not is_fetching()


def test_source_goes_on_while_the_caller_is_busy() -> None:
    """With one chunk in hand the caller waits until all buffers are full: it is not asked for anything."""
    full = threading.Event()
    source = Source()

    def fetch(chunk: Chunk, packed: memoryview) -> None:
        source(chunk, packed)
        if source.fetched == MIN_BUFFERS:
            full.set()

    ahead = ReadAhead(make_chunks([16] * 9), fetch, prove, buffers_of(MIN_BUFFERS, 16))
    ahead.start()
    try:
        chunks = ahead.proven()
        next(chunks)
        assert full.wait(DEADLINE_S)
        assert source.fetched == MIN_BUFFERS
    finally:
        ahead.close()


def test_close_while_a_fetch_is_under_way_waits_for_its_end() -> None:
    begun, ends = threading.Event(), threading.Event()
    order: list[str] = []

    def fetch(chunk: Chunk, packed: memoryview) -> None:
        begun.set()
        assert ends.wait(DEADLINE_S)
        order.append("fetched")
        raise AgentError("the connection ended")

    ahead = ReadAhead(make_chunks([16]), fetch, prove, buffers_of(1, 16))
    ahead.start()
    assert begun.wait(DEADLINE_S)

    def end() -> None:
        order.append("ends")
        ends.set()

    ender = threading.Thread(target=end)
    ender.start()
    ahead.close()
    ender.join()
    assert order == ["ends", "fetched"]
    assert not is_fetching()


@pytest.mark.parametrize("longest", [1, 512, 4 << 20, MAX_CHUNK_BYTES])
def test_buffers_stay_within_their_memory(longest: int) -> None:
    chunks = make_chunks([1, longest])
    buffers = make_buffers(chunks)
    assert MIN_BUFFERS <= len(buffers) <= MAX_BUFFERS
    assert all(len(buffer.content) == len(buffer.packed) == longest for buffer in buffers)
    assert sum(len(buffer.content) for buffer in buffers) <= max(AHEAD_BYTES, MIN_BUFFERS * longest)


def test_no_chunks_need_no_buffers() -> None:
    assert make_buffers([]) == ()
