"""What can be put into an image, as values, and the record of what was put there."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from imagebuilder.errors import ImageBuilderError

EPOCH: Final = 1_600_000_000
"""The time (UTC, seconds since 1970; 2020-09-13) that every written file and filesystem bears. Fixed, so that
the same inputs give the same bytes, and in the past, so that a node without a clock does not see files from
its future."""

_UNSAFE: Final = re.compile(r'["\n\r\\]')


@dataclass(frozen=True, slots=True, kw_only=True)
class PutFile:
    """A regular file on the root filesystem, replacing what was there.

    ``content`` is bytes, or a file of the host that does not change; ``sha256`` is its digest where it is
    known. ``xattrs`` are extended attributes by their full names, ``security.capability`` among them."""

    path: str
    content: bytes | Path = field(repr=False)
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PutLink:
    """A symbolic link on the root filesystem, replacing a file or link that was there."""

    path: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PutDirectory:
    """A directory on the root filesystem; one that exists gets this mode and owner."""

    path: str
    mode: int = 0o755
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PutBootFile:
    """A file in the FAT, replacing what was there. The format has neither owners nor modes."""

    path: str
    content: bytes = field(repr=False)


RootEdit = PutFile | PutLink | PutDirectory
Edit = RootEdit | PutBootFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One line of the record of what was changed; ``sha256`` is None for links and directories."""

    volume: str
    path: str
    mode: int
    uid: int
    gid: int
    size_bytes: int
    sha256: str | None
    target: str | None
    replaced: bool


def iter_content(content: bytes | Path) -> Iterator[bytes]:
    """What a file edit writes, in pieces of 1 MiB."""
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while piece := file.read(1 << 20):
            yield piece


def content_size(content: bytes | Path) -> int:
    """Bytes that a file edit writes."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def checked_path(path: str) -> str:
    """``path``, if it is absolute, without '..' and fit for debugfs."""
    if not path.startswith("/") or posixpath.normpath(path) != path or path == "/":
        raise ImageBuilderError(f"{path!r} is not a plain absolute path", "Write it like '/etc/motd'.")
    return checked_text(path, path)


def checked_text(text: str, path: str) -> str:
    """``text``, if debugfs can take it between quotes; ``path`` is what it is for."""
    if _UNSAFE.search(text):
        raise ImageBuilderError(
            f"{path!r}: {text!r} holds a quote, a backslash or a line break, which debugfs cannot take",
            "Rename the file.",
        )
    return text
