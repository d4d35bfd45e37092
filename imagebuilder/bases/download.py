"""Download one large file: resumed, retried, bounded. What the bytes are worth is decided elsewhere.

A download has a directory of its own, which a run that was killed leaves and the next run goes on in:

    file.part      the first bytes of the file
    journal.json   {"url", "validator", "total_bytes"} of the answer that file.part came from
    file           the whole file

Owns: that directory, while the caller holds its lock.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from imagebuilder.bases.http import Answer, FetchError, Http, TransientError, redact
from imagebuilder.bases.meter import FetchProgress, Meter
from imagebuilder.digests import hash_file
from imagebuilder.store import require_room
from imagebuilder.writing import flush, write_at, write_error

FILE_NAME: Final = "file"
PART_NAME: Final = "file.part"
JOURNAL_NAME: Final = "journal.json"

ATTEMPTS: Final = 6
"""Failures in a row, without a byte in between, after which it is given up."""

WAITS_S: Final = (1.0, 2.0, 5.0, 15.0, 30.0)
MAX_WAIT_S: Final = 120.0
_CONTENT_RANGE: Final = re.compile(r"bytes (?:([0-9]{1,18})-([0-9]{1,18})|\*)/([0-9]{1,18}|\*)")


@dataclass(frozen=True, slots=True)
class Journal:
    """What the server said of the file that ``file.part`` is the start of. ``validator`` is a strong ETag or
    a date for If-Range; empty where it gave none. ``total_bytes`` is -1 where unknown."""

    url: str
    validator: str
    total_bytes: int


def download(
    http: Http,
    url: str,
    directory: Path,
    *,
    same_bytes_anywhere: bool,
    limit_bytes: int,
    on_progress: Callable[[int, int | None], None],
) -> Path:
    """Get the file behind ``url`` into ``directory``; go on where an earlier run ended.

    Args:
        http: the client.
        url: what to get.
        directory: the download's own; made if it is not there.
        same_bytes_anywhere: the caller knows the file's digest, so a part from another mirror, or from an
            answer without a validator, may be continued: a wrong one shows in the end.
        limit_bytes: more than this is refused.
        on_progress: called with bytes that are there and bytes in total (None: not known).

    Returns:
        The path of the complete file, as complete as the server says.

    Raises:
        FetchError: refused, too large, or failed ``ATTEMPTS`` times without a byte of progress.
        NoSpace, DiskFull, WriteError
    """
    done = directory / FILE_NAME
    if done.is_file():
        return done
    directory.mkdir(parents=True, exist_ok=True)
    failures = 0
    before = -1
    while True:
        descriptor = os.open(directory / PART_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            part = _Part(directory, descriptor, url, limit_bytes, on_progress)
            part.run(http, same_bytes_anywhere)
            flush(descriptor, directory / PART_NAME)
            break
        except TransientError as exc:
            size = os.fstat(descriptor).st_size
            failures = 1 if size > before >= 0 else failures + 1
            before = size
            if failures >= ATTEMPTS:
                raise FetchError(
                    f"{exc.message} (tried {failures} times)",
                    f"{exc.hint} What came is kept.",
                    status=exc.status,
                ) from exc
            pause = exc.retry_after_s if exc.retry_after_s is not None else WAITS_S[min(failures, 5) - 1]
            http.wait(min(pause, MAX_WAIT_S))
        finally:
            os.close(descriptor)
    (directory / PART_NAME).replace(done)
    (directory / JOURNAL_NAME).unlink(missing_ok=True)
    return done


def download_known(
    http: Http,
    url: str,
    directory: Path,
    sha256: str | None,
    *,
    name: str,
    limit_bytes: int,
    on_progress: Callable[[FetchProgress], None],
) -> tuple[Path, str]:
    """``download`` of a file whose digest may be known, and the digest that it has.

    One that was put together from several runs and is wrong is downloaded once more as a whole.

    Args:
        sha256: what it should have; None where nobody knows.
        name: what to call it in the progress.

    Raises:
        FetchError, NoSpace, DiskFull, WriteError: as ``download``.
    """
    while True:
        resumed = directory.is_dir() and any(directory.iterdir())
        meter = Meter(f"downloading {name}", time.monotonic())

        def show(done: int, total: int | None, meter: Meter = meter) -> None:
            on_progress(meter.at(done, total, time.monotonic()))

        file = download(
            http,
            url,
            directory,
            same_bytes_anywhere=sha256 is not None,
            limit_bytes=limit_bytes,
            on_progress=show,
        )
        size = file.stat().st_size
        on_progress(FetchProgress(phase="verifying", done=size, total=size))
        found = hash_file(file)
        if sha256 in (None, found) or not resumed:
            return file, found
        discard(directory)


def discard(directory: Path) -> None:
    """Forget what was downloaded: it turned out to be wrong."""
    for name in (FILE_NAME, PART_NAME, JOURNAL_NAME):
        (directory / name).unlink(missing_ok=True)


def content_range(text: str) -> tuple[int, int, int | None] | None:
    """First byte, byte after the last one and size of the whole file, of a Content-Range; (-1, -1, size) for
    ``bytes */size``; None where the header is not understood.

    Source: RFC 9110 §14.4.
    """
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if match is None:
        return None
    total = None if match[3] == "*" else int(match[3])
    if match[1] is None:
        return -1, -1, total
    first, end = int(match[1]), int(match[2]) + 1
    if end <= first or (total is not None and end > total):
        return None
    return first, end, total


class _Part:
    """One attempt at the rest of the file."""

    def __init__(
        self,
        directory: Path,
        descriptor: int,
        url: str,
        limit_bytes: int,
        on_progress: Callable[[int, int | None], None],
    ) -> None:
        self._directory = directory
        self._path = directory / PART_NAME
        self._descriptor = descriptor
        self._url = url
        self._limit = limit_bytes
        self._on_progress = on_progress
        self._journal = self._read_journal()

    def run(self, http: Http, same_bytes_anywhere: bool) -> None:
        offset = self._usable_bytes(same_bytes_anywhere)
        headers = {}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if self._journal is not None and self._journal.url == self._url and self._journal.validator:
                headers["If-Range"] = self._journal.validator
        with http.get(self._url, headers) as answer:
            start, total = self._begin(answer, offset)
            if start is None:
                return  # 416: everything was there already
            self._write_journal(answer, total)
            self._receive(answer, start, total)

    def _usable_bytes(self, same_bytes_anywhere: bool) -> int:
        """How much of the part may be continued; the rest is cut off."""
        size = os.fstat(self._descriptor).st_size
        journal = self._journal
        known = journal is not None and journal.url == self._url and bool(journal.validator)
        if size and not (known or (same_bytes_anywhere and journal is not None)):
            self._cut()
            return 0
        return size

    def _begin(self, answer: Answer, offset: int) -> tuple[int | None, int | None]:
        """Where the body of this answer belongs (None: nowhere, all is there) and the size of the whole."""
        found = content_range(answer.headers.get("Content-Range", ""))
        if answer.status == 416:
            if found is not None and found[2] == offset and offset:
                return None, offset
            self._cut()
            raise TransientError(
                f"{redact(self._url)}: the server has no byte {offset} of the file any more",
                "It is begun again.",
            )
        if answer.status == 206:
            if found is None or found[0] != offset or not offset:
                self._cut()
                raise TransientError(
                    f"{redact(self._url)}: asked for the bytes from {offset}, got "
                    f"{answer.headers.get('Content-Range', 'no Content-Range')!r}",
                    "It is begun again.",
                )
            total = found[2]
            start = offset
        else:
            self._cut()  # no ranges here, or the file is another one by now
            total = answer.length
            start = 0
        if total is not None:
            if total > self._limit:
                raise self._too_large(f"{total} bytes")
            require_room(self._directory, total - start)
        return start, total

    def _receive(self, answer: Answer, start: int, total: int | None) -> None:
        position = start
        for piece in answer.pieces():
            if position + len(piece) > self._limit:
                self._cut()
                raise self._too_large("more")
            write_at(self._descriptor, piece, position, self._path)
            position += len(piece)
            self._on_progress(position, total)
        if total is not None and position != total:
            if position > total:
                self._cut()
            raise TransientError(
                f"{redact(self._url)}: the server announced {total} bytes, {position} came", "Try again."
            )

    def _too_large(self, what: str) -> FetchError:
        return FetchError(
            f"{redact(self._url)}: the server sends {what}, at most {self._limit} bytes are accepted",
            "That is not the image; look at the URL, or use another --mirror.",
        )

    def _cut(self) -> None:
        os.ftruncate(self._descriptor, 0)

    def _read_journal(self) -> Journal | None:
        try:
            return Journal(**json.loads((self._directory / JOURNAL_NAME).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def _write_journal(self, answer: Answer, total: int | None) -> None:
        etag = answer.headers.get("ETag", "")
        validator = etag if etag.startswith('"') else answer.headers.get("Last-Modified", "")
        journal = Journal(self._url, validator, -1 if total is None else total)
        temporary = self._directory / f"{JOURNAL_NAME}.new"
        try:
            temporary.write_text(json.dumps(asdict(journal)))
            temporary.replace(self._directory / JOURNAL_NAME)
        except OSError as exc:
            raise write_error(temporary, exc) from exc
