"""cpio archives in the "newc" form, as the kernel unpacks them into its first root filesystem. Pure.

Each entry: 6 digits of magic and 13 fields of 8 hex digits, the name with its NUL, padding to 4 bytes, the
content, padding to 4 bytes. The kernel makes no missing parents, so every directory on the way has an entry
before what is in it. Archives may follow each other in one file, each padded with zeros; a later entry
replaces an earlier one of the same name.

Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import posixpath
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

ARCHIVE_ALIGNMENT: Final = 512
_TRAILER: Final = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class CpioEntry:
    """A file, directory or link, without a leading slash.

    ``mode`` includes the type; of a link, ``content`` is the target."""

    path: str
    mode: int
    content: bytes = field(default=b"", repr=False)


def regular(path: str, content: bytes, mode: int = 0o644) -> CpioEntry:
    return CpioEntry(path, stat.S_IFREG | mode, content)


def symlink(path: str, target: str) -> CpioEntry:
    return CpioEntry(path, stat.S_IFLNK | 0o777, target.encode())


def encode_archive(entries: Iterable[CpioEntry], mtime: int) -> bytes:
    """An archive of ``entries``, sorted, with a directory entry for each parent, padded to 512 bytes.

    Args:
        entries: at most one per path.
        mtime: time of all entries, UTC seconds since 1970.
    """
    by_path = {entry.path: entry for entry in entries}
    for path in list(by_path):
        for parent in _parents(path):
            by_path.setdefault(parent, CpioEntry(parent, stat.S_IFDIR | 0o755))
    body = b"".join(
        _encode(number, by_path[path], mtime) for number, path in enumerate(sorted(by_path), 1)
    ) + _encode(0, CpioEntry(_TRAILER, 0), 0)
    return pad(body)


def pad(data: bytes) -> bytes:
    """Zeros up to the next 512 bytes, so that another archive may follow."""
    return data + bytes(-len(data) % ARCHIVE_ALIGNMENT)


def _parents(path: str) -> Iterator[str]:
    while path := posixpath.dirname(path):
        yield path


def _encode(number: int, entry: CpioEntry, mtime: int) -> bytes:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (number, entry.mode, 0, 0, links, mtime, len(entry.content), 0, 0, 0, 0, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % value for value in fields) + name
    return header + bytes(-len(header) % 4) + entry.content + bytes(-len(entry.content) % 4)
