"""Files as a session reads them: by offset, any part again, and never through a path.

Files of a boot tree are opened one component at a time below the root's directory, without following symbolic
links, and only regular files are served: no name leads out of the tree, to a device or to a pipe.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
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


class Content(Protocol):
    """What a transfer reads from. The owner closes it."""

    @property
    def size(self) -> int:
        """Bytes in all, fixed when the content was opened."""

    def read_at(self, offset: int, size: int) -> bytes:
        """Bytes from `offset` on, fewer than `size` only at the end. OSError when the file has shrunk."""

    def close(self) -> None:
        """Give back what it holds open; a second call does nothing."""


class BytesContent:
    """Bytes in memory."""

    __slots__ = ("_data", "size")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read_at(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size]

    def close(self) -> None:
        pass


class FileContent:
    """One open file; takes over the descriptor."""

    __slots__ = ("_fd", "size")

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self.size = size

    def read_at(self, offset: int, size: int) -> bytes:
        wanted = min(size, self.size - offset)
        if wanted <= 0:
            return b""
        data = os.pread(self._fd, wanted, offset)
        while len(data) < wanted:
            more = os.pread(self._fd, wanted - len(data), offset + len(data))
            if not more:
                raise OSError("the file became shorter while it was served")
            data += more
        return data

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

    __slots__ = ("_pieces", "size")

    def __init__(self, contents: Sequence[Content]) -> None:
        pieces: list[_Piece] = []
        start = 0
        for content in contents:
            pieces.append(_Piece(start, content))
            start += content.size
        self._pieces = tuple(pieces)
        self.size = start

    def read_at(self, offset: int, size: int) -> bytes:
        end = min(offset + size, self.size)
        return b"".join(
            piece.content.read_at(max(offset - piece.start, 0), end - max(offset, piece.start))
            for piece in self._pieces
            if piece.start < end and offset < piece.start + piece.content.size
        )

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
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        return None
    return FileContent(fd, status.st_size)
