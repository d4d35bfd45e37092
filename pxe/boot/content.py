"""Files as a session reads them: by offset, any part again, and never through a path.

Files of a boot tree are opened one component at a time below the root's directory, without following symbolic
links, and only regular files are served: no name leads out of the tree, to a device or to a pipe.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from pxe.boot.routes import Location, TreeFile
from pxe.boot.table import Source

_DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a pipe must not wait for its writer; it has no effect on regular files.
_FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

# The file may well be there: only the process, the machine or its memory is full.
_EXHAUSTED: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))


TOO_SHORT: Final = "the file became shorter while it was served"


class Content(Protocol):
    """What a transfer reads from. The owner closes it."""

    @property
    def size(self) -> int:
        """Bytes in all, fixed when the content was opened."""

    @property
    def identity(self) -> Hashable:
        """Equal for contents that have the same bytes; None where nothing is known about that."""

    def read_into(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Fill buffers, one after the other, with the bytes from `offset` on.

        Raises:
            OSError: the content can not be read, or has fewer bytes than it had when it was opened.
        """

    def close(self) -> None:
        """Give back what it holds open; a second call does nothing."""


class BytesContent:
    """Bytes in memory."""

    __slots__ = ("_data", "size")

    identity: Final = None

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self.size = len(data)

    def read_into(self, buffers: Sequence[memoryview], offset: int) -> None:
        for buffer in buffers:
            part = self._data[offset : offset + len(buffer)]
            if len(part) < len(buffer):
                raise OSError(TOO_SHORT)
            buffer[:] = part
            offset += len(buffer)

    def close(self) -> None:
        pass


class FileContent:
    """One open file; takes over the descriptor.

    Args:
        fd: of a regular file.
        status: of the same file. A file that is changed in place while it is served has other times when
            it is opened again, so it is not taken for the same one.
    """

    __slots__ = ("_fd", "identity", "size")

    def __init__(self, fd: int, status: os.stat_result) -> None:
        self._fd = fd
        self.size = status.st_size
        self.identity: Hashable = (
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )

    def read_into(self, buffers: Sequence[memoryview], offset: int) -> None:
        wanted = sum(map(len, buffers))
        got = os.preadv(self._fd, buffers, offset)
        if got == wanted:
            return
        rest = bytearray()  # a signal, or more buffers than the kernel takes at once
        while got + len(rest) < wanted:
            more = os.pread(self._fd, wanted - got - len(rest), offset + got + len(rest))
            if not more:
                raise OSError(TOO_SHORT)
            rest += more
        for buffer in buffers:
            skipped = min(got, len(buffer))
            got -= skipped
            buffer[skipped:] = rest[: len(buffer) - skipped]
            del rest[: len(buffer) - skipped]

    def fileno(self) -> int:
        """The descriptor, for `sendfile`; stays the content's own."""
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@dataclass(frozen=True, slots=True)
class _Piece:
    start: int
    content: Content


class JoinedContent:
    """Several contents, one after the other, as one file."""

    __slots__ = ("_pieces", "identity", "size")

    def __init__(self, contents: Sequence[Content]) -> None:
        pieces: list[_Piece] = []
        start = 0
        for content in contents:
            pieces.append(_Piece(start, content))
            start += content.size
        self._pieces = tuple(pieces)
        self.size = start
        identities = tuple(content.identity for content in contents)
        self.identity: Hashable = None if None in identities else identities

    def read_into(self, buffers: Sequence[memoryview], offset: int) -> None:
        wanted = sum(map(len, buffers))
        if wanted and offset + wanted > self.size:
            raise OSError(TOO_SHORT)
        joined = memoryview(bytearray(wanted))
        for piece in self._pieces:
            first = max(offset, piece.start)
            end = min(offset + wanted, piece.start + piece.content.size)
            if first < end:
                piece.content.read_into([joined[first - offset : end - offset]], first - piece.start)
        position = 0
        for buffer in buffers:
            buffer[:] = joined[position : position + len(buffer)]
            position += len(buffer)

    def close(self) -> None:
        for piece in self._pieces:
            piece.content.close()


def open_content(location: Location) -> Content | None:
    """Open what `pxe.boot.routes.locate` found; None where no regular file is there.

    Raises:
        OSError: no descriptor is left to open it with; nothing is known about the file.
    """
    if isinstance(location, TreeFile):
        return _open_below(location.root, location.parts)
    contents: list[Content] = []
    for source in location:
        try:
            content = _open_source(source)
        except OSError:
            JoinedContent(contents).close()
            raise
        if content is None:
            JoinedContent(contents).close()
            return None
        contents.append(content)
    return contents[0] if len(contents) == 1 else JoinedContent(contents)


def _open_source(source: Source) -> Content | None:
    """A piece that the composition root named: its path is trusted, links in it are followed."""
    if isinstance(source, bytes):
        return BytesContent(source)
    try:
        return _regular_file(os.open(source, _FILE_FLAGS & ~os.O_NOFOLLOW))
    except OSError as error:
        _require_descriptors(error)
        return None


def _open_below(root: Path, parts: tuple[str, ...]) -> FileContent | None:
    """Open a regular file below a directory; None for anything else that may stand there."""
    try:
        directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        _require_descriptors(error)
        return None
    try:
        for part in parts[:-1]:
            below = os.open(part, _DIRECTORY_FLAGS, dir_fd=directory)
            os.close(directory)
            directory = below
        fd = os.open(parts[-1], _FILE_FLAGS, dir_fd=directory)
    except OSError as error:
        _require_descriptors(error)
        return None
    except ValueError:  # a surrogate that stands for no byte
        return None
    finally:
        os.close(directory)
    return _regular_file(fd)


def _require_descriptors(error: OSError) -> None:
    """Raise an error again that says nothing about the file."""
    if error.errno in _EXHAUSTED:
        raise error


def _regular_file(fd: int) -> FileContent | None:
    """Takes the descriptor over. Raises OSError where its file has gone meanwhile, as one of NFS may."""
    try:
        status = os.fstat(fd)
    except OSError:
        os.close(fd)
        raise
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        return None
    return FileContent(fd, status)
