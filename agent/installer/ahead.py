"""Reads ahead: one thread fetches chunks, others unpack and prove them, the caller writes what is proven.

Receiving, unpacking, hashing and writing let go of the interpreter's lock, so all of it goes on at the same
time where there are cores, and the source goes on while the disk is flushed. Several unpack, because one core
of a Pi 4, whose processor has no instructions for SHA-256, does not keep up with a gigabit link.

Owns, until it is closed: these threads, and the buffers that it is given. Chunks come in their order.
"""

from __future__ import annotations

import mmap
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from agent.installer.index import Chunk

AHEAD_BYTES = 24 * 1024 * 1024
"""Memory for what is not written yet, and at worst as much again for what is not unpacked. A board may have
1 GB, with the installer in it."""
MIN_BUFFERS = 3
"""One is fetched, one unpacked, one written."""
MAX_BUFFERS = 32
UNPACKERS = 3


@dataclass(frozen=True)
class Buffer:
    """Where one chunk is at work: as it was fetched, and as it was unpacked."""

    packed: memoryview
    content: memoryview


Fetch = Callable[[Chunk, memoryview], None]
"""Fill the view, `Chunk.compressed_bytes` long. Called from one thread only, in the order of the chunks."""
Prove = Callable[[Chunk, memoryview, memoryview], None]
"""Unpack the first view into the second, `Chunk.length` long, or raise. Called from any thread."""


@dataclass(frozen=True)
class _Piece:
    chunk: Chunk
    buffer: Buffer
    proven: Future[None]


def make_buffers(chunks: Sequence[Chunk]) -> tuple[Buffer, ...]:
    """Buffers for these chunks; their pages cost nothing before they are used."""
    if not chunks:
        return ()
    packed = max(chunk.compressed_bytes for chunk in chunks)
    content = max(chunk.length for chunk in chunks)
    count = min(max(MIN_BUFFERS, AHEAD_BYTES // content), MAX_BUFFERS)
    return tuple(
        Buffer(memoryview(mmap.mmap(-1, packed)), memoryview(mmap.mmap(-1, content))) for _ in range(count)
    )


class ReadAhead:
    """Chunks with their bytes, fetched and proven by threads of its own.

    `close` waits for a `fetch` that is under way: its owner has to make that end first.
    """

    def __init__(
        self, chunks: Sequence[Chunk], fetch: Fetch, prove: Prove, buffers: Sequence[Buffer]
    ) -> None:
        self._chunks = chunks
        self._fetch = fetch
        self._prove = prove
        self._free: queue.SimpleQueue[Buffer | None] = queue.SimpleQueue()
        for buffer in buffers:
            self._free.put(buffer)
        self._fetched: queue.SimpleQueue[_Piece | BaseException] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._unpackers = ThreadPoolExecutor(UNPACKERS, thread_name_prefix="image-unpacker")
        self._thread = threading.Thread(target=self._run, name="image-fetcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the threads; what was fetched ahead is dropped."""
        self._closed.set()
        self._free.put(None)
        self._thread.join()
        self._unpackers.shutdown(cancel_futures=True)

    def proven(self) -> Iterator[tuple[Chunk, memoryview]]:
        """Each chunk with its bytes, which are valid until the next step.

        Raises:
            whatever `fetch` or `prove` raised, after every chunk before that one.
        """
        for _ in self._chunks:
            piece = self._fetched.get()
            if isinstance(piece, BaseException):
                raise piece
            piece.proven.result()
            yield piece.chunk, piece.buffer.content[: piece.chunk.length]
            self._free.put(piece.buffer)

    def _run(self) -> None:
        try:
            for chunk in self._chunks:
                buffer = self._free.get()
                if buffer is None or self._closed.is_set():
                    return
                packed = buffer.packed[: chunk.compressed_bytes]
                self._fetch(chunk, packed)
                content = buffer.content[: chunk.length]
                self._fetched.put(
                    _Piece(chunk, buffer, self._unpackers.submit(self._prove, chunk, packed, content))
                )
        except BaseException as exc:  # whoever waits for the chunk has to hear of it
            self._fetched.put(exc)
