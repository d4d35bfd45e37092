"""Verified chunks of an image from a plain HTTP server, in order, whatever the network does.

One GET with Range runs over neighbouring frames; a thread feeds them to one `zstd -dc`, the caller's thread
reads, hashes and yields. Between the frames of chunks lie frames of zero runs: they are skipped in
compressed form, so that gigabytes of zeros cost nothing. After a drop, a short body or a wrong digest the
stream starts again at the first chunk that was not delivered, with a new connection and a new decompressor.

Owns, per attempt: one connection, one process, one thread. Memory: one chunk and two pipes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import mmap
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import urlsplit

from agent.backoff import Backoff
from agent.commands import start_filter
from agent.errors import AgentError
from agent.installer.index import Chunk

DECOMPRESS = ("zstd", "-dcq")
COPY_BYTES = 256 * 1024
PIPE_BYTES = 1024 * 1024
F_SETPIPE_SZ = 1031
"""Source: linux/fcntl.h; Python names it only from 3.10 on and not in every build."""
MAX_SKIP_BYTES = 1024 * 1024
"""A larger gap between two frames is worth a new request."""
SOCKET_TIMEOUT_S = 30.0
MAX_ATTEMPTS = 12
"""Attempts in a row that deliver nothing: about three minutes with the default backoff."""
MAX_SMALL_BODY_BYTES = 64 * 1024 * 1024


class StreamBroken(AgentError):
    """This attempt is over; another may succeed."""


class ImageStream:
    """Chunks of the image at `url`.

    Args:
        decompress: argv of a filter from concatenated zstd frames to their contents.
        on_retry: told of each failed attempt, before the wait.
    """

    def __init__(
        self,
        url: str,
        *,
        backoff: Backoff | None = None,
        sleep: Callable[[float], None] = time.sleep,
        on_retry: Callable[[StreamBroken], None] = lambda _: None,
        decompress: Sequence[str] = DECOMPRESS,
    ) -> None:
        self._url = url
        self._backoff = backoff or Backoff(first_s=1.0, cap_s=20.0)
        self._sleep = sleep
        self._on_retry = on_retry
        self._decompress = tuple(decompress)

    def chunks(self, chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, memoryview]]:
        """Yield each chunk with its bytes. The bytes may be changed in place and are valid until the next
        step.

        Raises:
            AgentError: the server does not have the image, or `MAX_ATTEMPTS` in a row delivered nothing.
        """
        buffer = (
            memoryview(mmap.mmap(-1, max(chunk.length for chunk in chunks))) if chunks else memoryview(b"")
        )
        delivered = 0
        failures = 0
        delays = self._backoff.delays()
        while delivered < len(chunks):
            try:
                with _Attempt(self._url, chunks[delivered:], self._decompress) as attempt:
                    for chunk in chunks[delivered:]:
                        view = buffer[: chunk.length]
                        attempt.read_into(view, chunk)
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
    """One connection and one decompressor, from their start to their end."""

    def __init__(self, url: str, chunks: Sequence[Chunk], decompress: Sequence[str]) -> None:
        self._url = url
        self._chunks = chunks
        self._download: Download | None = None
        self._failure: AgentError | None = None
        self._stopped = threading.Event()
        self._process: subprocess.Popen[bytes] = start_filter(decompress)
        if self._process.stdin is None or self._process.stdout is None:
            raise AgentError("the decompressor has no pipes", "This is a bug of the installer.")
        self._stdin = self._process.stdin.fileno()
        self._stdout = self._process.stdout.fileno()
        for fd in (self._stdin, self._stdout):
            with contextlib.suppress(OSError):  # above the user's pipe limit: the default size works too
                fcntl.fcntl(fd, F_SETPIPE_SZ, PIPE_BYTES)
        self._feeder = threading.Thread(target=self._feed, name="image-feeder", daemon=True)

    def __enter__(self) -> _Attempt:
        self._feeder.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._process.kill()
        download = self._download
        if download is not None:
            with contextlib.suppress(OSError):
                download.sock.shutdown(socket.SHUT_RDWR)  # wakes the feeder out of recv
        if self._process.stdout is not None:
            self._process.stdout.close()  # wakes a feeder that waits for a full pipe, with the killed reader
        self._feeder.join()
        self._process.wait()

    def read_into(self, view: memoryview, chunk: Chunk) -> None:
        """Fill `view` with the next chunk and verify it."""
        done = 0
        while done < len(view):
            count = os.readv(self._stdout, [view[done:]])
            if count == 0:
                self._raise_end(chunk)
            done += count
        found = hashlib.sha256(view).hexdigest()
        if found != chunk.sha256:
            raise StreamBroken(
                f"the chunk at {chunk.offset} has digest {found[:16]}…, the index says {chunk.sha256[:16]}…",
                "The image on the server is damaged or the network changes bytes; run 'bramble build' again.",
            )

    def _raise_end(self, chunk: Chunk) -> NoReturn:
        self._feeder.join(timeout=SOCKET_TIMEOUT_S)
        if self._failure is not None:
            raise self._failure
        raise StreamBroken(
            f"the decompressor ended before the chunk at {chunk.offset} was complete",
            "The image on the server is damaged; run 'bramble build' again.",
        )

    def _feed(self) -> None:
        """The feeder thread: frames of all chunks into the decompressor, then end of file."""
        try:
            for run in split_runs(self._chunks):
                self._feed_run(run)
        except AgentError as exc:
            self._failure = exc
        except BrokenPipeError:
            pass  # the decompressor ended by itself: the reader sees that as a short chunk
        except (OSError, http.client.HTTPException) as exc:
            self._failure = StreamBroken(
                f"{self._url}: {exc or type(exc).__name__}",
                "Is 'bramble serve' running? The download goes on by itself.",
            )
        finally:
            if self._process.stdin is not None:
                with contextlib.suppress(OSError):
                    self._process.stdin.close()
            if self._download is not None:
                self._download.close()

    def _feed_run(self, run: Sequence[Chunk]) -> None:
        position = run[0].position
        end = run[-1].position + run[-1].compressed_bytes
        if self._download is not None:
            self._download.close()
        self._download = open_range(self._url, position, end)
        response = self._download.response
        buffer = memoryview(bytearray(COPY_BYTES))
        for chunk in run:
            self._copy(response, buffer, chunk.position - position, forward=False)
            self._copy(response, buffer, chunk.compressed_bytes, forward=True)
            position = chunk.position + chunk.compressed_bytes

    def _copy(
        self, response: http.client.HTTPResponse, buffer: memoryview, count: int, *, forward: bool
    ) -> None:
        while count and not self._stopped.is_set():
            got = response.readinto(buffer[: min(count, len(buffer))])
            if not got:
                raise StreamBroken(
                    f"{self._url}: the server ended the answer {count} bytes early",
                    "The server was restarted or the network dropped; the download goes on by itself.",
                )
            count -= got
            pending = buffer[:got] if forward else buffer[:0]
            while pending:
                pending = pending[os.write(self._stdin, pending) :]


def split_runs(chunks: Sequence[Chunk]) -> Iterator[Sequence[Chunk]]:
    """Cut a row of chunks where the gap in the compressed file is too large to read over."""
    start = 0
    for number in range(1, len(chunks)):
        before = chunks[number - 1]
        if chunks[number].position - (before.position + before.compressed_bytes) > MAX_SKIP_BYTES:
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
    except (OSError, http.client.HTTPException) as exc:
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
