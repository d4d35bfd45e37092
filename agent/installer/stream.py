"""Verified chunks of an image from a plain HTTP server, in order, whatever the network does.

One GET with Range runs over neighbouring frames; a thread receives them, others unpack and hash them
(`agent.installer.ahead`), each frame by itself, while the caller writes. Between the frames of chunks lie
frames of zero runs: they are skipped in compressed form, so that gigabytes of zeros cost nothing. After a
drop, a short body or a wrong digest the stream starts again at the first chunk that was not delivered, with a
new connection.

Owns, per attempt: one connection, and the threads. Memory: the buffers of `agent.installer.ahead`.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from agent.backoff import Backoff
from agent.errors import AgentError
from agent.installer.ahead import Buffer, ReadAhead, make_buffers
from agent.installer.index import Chunk
from agent.installer.zstd import DamagedFrame, unpack

SKIP_BYTES = 256 * 1024
MAX_SKIP_BYTES = 1024 * 1024
"""A larger gap between two frames is worth a new request."""
SOCKET_TIMEOUT_S = 30.0
MAX_ATTEMPTS = 12
"""Attempts in a row that deliver nothing: about three minutes with the default backoff."""
MAX_SMALL_BODY_BYTES = 64 * 1024 * 1024
_DAMAGED = "The image on the server is damaged or the network changes bytes; run 'bramble build' again."


class StreamBroken(AgentError):
    """This attempt is over; another may succeed."""


class ImageStream:
    """Chunks of the image at `url`, whose frames are zstd.

    Args:
        on_retry: told of each failed attempt, before the wait.
    """

    def __init__(
        self,
        url: str,
        *,
        backoff: Backoff | None = None,
        sleep: Callable[[float], None] = time.sleep,
        on_retry: Callable[[StreamBroken], None] = lambda _: None,
    ) -> None:
        self._url = url
        self._backoff = backoff or Backoff(first_s=1.0, cap_s=20.0)
        self._sleep = sleep
        self._on_retry = on_retry

    def chunks(self, chunks: Sequence[Chunk]) -> Generator[tuple[Chunk, memoryview], None, None]:
        """Yield each chunk with its bytes. The bytes may be changed in place and are valid until the next
        step. Closing the generator ends the connection and the threads.

        Raises:
            AgentError: the server does not have the image, or `MAX_ATTEMPTS` in a row delivered nothing.
        """
        buffers = make_buffers(chunks)
        delivered = 0
        failures = 0
        delays = self._backoff.delays()
        while delivered < len(chunks):
            try:
                with _Attempt(self._url, chunks[delivered:], buffers) as attempt:
                    for chunk, view in attempt.verified():
                        delivered += 1
                        if failures:
                            failures, delays = 0, self._backoff.delays()
                        yield chunk, view
            except StreamBroken as exc:
                failures += 1
                if failures >= MAX_ATTEMPTS:
                    raise AgentError(
                        f"the image can not be read after {failures} attempts; the last: {exc.message}",
                        exc.hint,
                    ) from exc
                self._on_retry(exc)
                self._sleep(next(delays))


class _Attempt:
    """One row of requests, from its start to its end."""

    def __init__(self, url: str, chunks: Sequence[Chunk], buffers: Sequence[Buffer]) -> None:
        self._url = url
        self._ends = {run[0].position: _end(run[-1]) for run in split_runs(chunks)}
        """Where the frames of each run begin → where they end, in the file."""
        self._download: Download | None = None
        self._position = 0
        self._stopped = threading.Event()
        self._ahead = ReadAhead(chunks, self._fetch, verify, buffers)

    def __enter__(self) -> _Attempt:
        self._ahead.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        download = self._download
        if download is not None:
            with contextlib.suppress(OSError):
                download.sock.shutdown(socket.SHUT_RDWR)  # wakes the fetching thread out of recv
        self._ahead.close()
        if self._download is not None:
            self._download.close()

    def verified(self) -> Iterator[tuple[Chunk, memoryview]]:
        """The chunks in their order; none whose bytes are not those that the index names."""
        return self._ahead.proven()

    def _fetch(self, chunk: Chunk, packed: memoryview) -> None:
        """Receive the frame of the next chunk. Runs in the fetching thread."""
        try:
            end = self._ends.get(chunk.position)
            if end is not None:
                if self._download is not None:
                    self._download.close()
                self._download, self._position = open_range(self._url, chunk.position, end), chunk.position
            self._skip(chunk.position - self._position)
            self._receive(packed)
            self._position = _end(chunk)
        except (OSError, http.client.HTTPException) as exc:
            raise StreamBroken(
                f"{self._url}: {exc or type(exc).__name__}",
                "Is 'bramble serve' running? The download goes on by itself.",
            ) from exc

    def _skip(self, count: int) -> None:
        scratch = memoryview(bytearray(min(count, SKIP_BYTES)))
        while count:
            part = scratch[: min(count, SKIP_BYTES)]
            self._receive(part)
            count -= len(part)

    def _receive(self, view: memoryview) -> None:
        if self._download is None:
            raise AgentError("no request is under way", "This is a bug of the installer.")
        done = 0
        while done < len(view):
            got = 0 if self._stopped.is_set() else self._download.response.readinto(view[done:])
            if not got:
                raise StreamBroken(
                    f"{self._url}: the server ended the answer {len(view) - done} bytes early",
                    "The server was restarted or the network dropped; the download goes on by itself.",
                )
            done += got


def verify(chunk: Chunk, packed: memoryview, content: memoryview) -> None:
    """Unpack the frame of a chunk and prove its bytes by their digest.

    Raises:
        StreamBroken: they are not those that the index names.
    """
    try:
        size = unpack(packed, content)
    except DamagedFrame as exc:
        raise StreamBroken(f"the chunk at {chunk.offset}: {exc.message}", exc.hint) from exc
    if size != chunk.length:
        raise StreamBroken(
            f"the frame of the chunk at {chunk.offset} holds {size} bytes, the index says {chunk.length}",
            _DAMAGED,
        )
    found = hashlib.sha256(content).hexdigest()
    if found != chunk.sha256:
        raise StreamBroken(
            f"the chunk at {chunk.offset} has digest {found[:16]}…, the index says {chunk.sha256[:16]}…",
            _DAMAGED,
        )


def _end(chunk: Chunk) -> int:
    """Where its frame ends in the file."""
    return chunk.position + chunk.compressed_bytes


def split_runs(chunks: Sequence[Chunk]) -> Iterator[Sequence[Chunk]]:
    """Cut a row of chunks where the gap in the compressed file is too large to read over."""
    start = 0
    for number in range(1, len(chunks)):
        before = chunks[number - 1]
        if chunks[number].position - _end(before) > MAX_SKIP_BYTES:
            yield chunks[start:number]
            start = number
    if chunks:
        yield chunks[start:]


@dataclass(frozen=True, slots=True)
class Download:
    """An answer whose body is still to be read. `sock` stays known: http.client forgets it after a last
    answer."""

    connection: http.client.HTTPConnection
    sock: socket.socket
    response: http.client.HTTPResponse

    def close(self) -> None:
        self.response.close()
        self.connection.close()


def open_range(url: str, start: int, end: int | None) -> Download:
    """GET bytes `start` up to `end` (None: all). The caller closes the download.

    Raises:
        StreamBroken: the server is busy or failing (5xx).
        AgentError: the server does not have it, or does not do ranges.
        OSError, http.client.HTTPException: no answer.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise AgentError(f"'{url}' is not an http URL", "The install plan is wrong; update 'bramble serve'.")
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=SOCKET_TIMEOUT_S)
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(connection.close)
        connection.connect()
        sock = connection.sock
        headers = {} if end is None else {"Range": f"bytes={start}-{end - 1}"}
        connection.request("GET", parts.path + (f"?{parts.query}" if parts.query else ""), headers=headers)
        response = connection.getresponse()
        on_failure.callback(response.close)  # a last answer owns the socket, the connection knows it no more
        expected = 200 if end is None else 206
        if response.status >= 500:
            raise StreamBroken(f"{url}: the server answers {response.status}", "Look at the server's log.")
        if response.status != expected:
            raise AgentError(
                f"{url}: the server answers {response.status} {response.reason}, {expected} was expected",
                "The image is gone from the server's library or the server is of another release; "
                "run 'bramble build' and power-cycle the board.",
            )
        place = response.getheader("Content-Range", "")
        if end is not None and not place.startswith(f"bytes {start}-{end - 1}/"):
            raise StreamBroken(
                f"{url}: asked for bytes {start}–{end - 1}, got '{place}'", "Is a cache in between?"
            )
        on_failure.pop_all()
    return Download(connection, sock, response)


def fetch_small(url: str, sha256: str) -> bytes:
    """A whole small file, proven by its digest.

    Raises:
        AgentError: not there, too large, or another digest.
    """
    try:
        with contextlib.closing(open_range(url, 0, None)) as download:
            body = download.response.read(MAX_SMALL_BODY_BYTES)
    except (OSError, http.client.HTTPException, ValueError, OverflowError) as exc:
        # The last two: chunks of a negative length, or of one beyond all numbers.
        raise StreamBroken(
            f"{url}: {exc or type(exc).__name__}",
            "Is the content port of 'bramble serve' open in its firewall?",
        ) from exc
    found = hashlib.sha256(body).hexdigest()
    if found != sha256.lower():
        raise StreamBroken(
            f"{url}: sha256 is {found[:16]}…, the install plan says {sha256[:16]}…",
            "The image on the server is damaged or the network changes bytes; run 'bramble build' again.",
        )
    return body
