"""The words of a debugfs session: which commands put edits into an ext4.

No process is started here; contents that are given as bytes are staged as files.

Source: debugfs(8) and debugfs/debugfs.c of e2fsprogs 1.47.0.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from imagebuilder.disk.edits import (
    EPOCH,
    PutDirectory,
    PutFile,
    PutLink,
    RootEdit,
    checked_path,
    checked_text,
    content_size,
)
from imagebuilder.disk.ext4 import Ext4Volume, Inode
from imagebuilder.errors import ImageBuilderError

DIRECTORY_BYTES: Final = 4096

EXTENT_ALLOWANCE: Final = 1.01
"""Extent blocks of large, scattered files: at most one block per 340 extents."""


def needed_bytes(edits: Iterable[RootEdit], block_bytes: int) -> int:
    """An upper bound of the room that edits take on an ext4 with blocks of this size."""
    total = 0.0
    for edit in edits:
        parents = edit.path.count("/") - 1
        size = content_size(edit.content) if isinstance(edit, PutFile) else block_bytes
        total += -(-size // block_bytes) * block_bytes * EXTENT_ALLOWANCE + block_bytes
        total += DIRECTORY_BYTES if parents > 0 else 0
        # Attributes that do not fit the inode take a block of their own.
        total += block_bytes if isinstance(edit, PutFile) and edit.xattrs else 0
    return int(total)


def session_commands(volume: Ext4Volume, edits: Sequence[RootEdit], staged: Path) -> Iterator[str]:
    """The debugfs commands for ``edits``; contents given as bytes are put into ``staged``."""
    made: set[str] = set()
    for number, edit in enumerate(edits):
        # debugfs follows links in the middle of a path, but not one at its end: /lib/x must be written as
        # /usr/lib/x.
        path = _canonical(volume, checked_path(edit.path), follow=isinstance(edit, PutDirectory))
        yield from _parents(volume, posixpath.dirname(path), made)
        old = volume.find(path, follow=False)
        match edit:
            case PutDirectory():
                if path not in made and old is None:
                    yield from _in_parent("mkdir", path)
                    made.add(path)
                yield from _attributes(path, stat.S_IFDIR | edit.mode, edit.uid, edit.gid)
            case PutLink():
                yield from _removal(path, old)
                yield from _in_parent("symlink", path, checked_text(edit.target, path))
            case PutFile():
                yield from _removal(path, old)
                content = edit.content
                if isinstance(content, bytes):
                    host = staged / str(number)
                    host.write_bytes(content)
                else:
                    host = content.resolve()
                yield f'cd "{posixpath.dirname(path)}"'
                yield f'write "{checked_text(os.fspath(host), path)}" "{posixpath.basename(path)}"'
                yield from _attributes(path, stat.S_IFREG | edit.mode, edit.uid, edit.gid)
                for index, (name, value) in enumerate(sorted(edit.xattrs.items())):
                    value_file = staged / f"{number}.{index}"
                    value_file.write_bytes(value)
                    yield f'ea_set -f "{value_file}" "{path}" {checked_text(name, path)}'


def _in_parent(command: str, path: str, *arguments: str) -> Iterator[str]:
    """``command`` on a name in the current directory.

    'write' takes nothing else, and 'mkdir "/x"' makes x in the current directory, not in the root (1.47.0).
    """
    yield f'cd "{posixpath.dirname(path)}"'
    yield " ".join([command, *(f'"{word}"' for word in (posixpath.basename(path), *arguments))])


def _canonical(volume: Ext4Volume, path: str, *, follow: bool) -> str:
    """``path`` with the links in its existing part followed; the last name only with ``follow``."""
    if follow and (found := volume.canonical(path)):
        return found
    parent, name = posixpath.split(path)
    if parent == "/":
        return path
    return posixpath.join(_canonical(volume, parent, follow=True), name)


def _parents(volume: Ext4Volume, directory: str, made: set[str]) -> Iterator[str]:
    missing = []
    while directory not in ("", "/") and directory not in made and volume.find(directory) is None:
        missing.append(directory)
        directory = posixpath.dirname(directory)
    for path in reversed(missing):
        made.add(path)
        yield from _in_parent("mkdir", path)
        yield from _attributes(path, stat.S_IFDIR | 0o755, 0, 0)


def _removal(path: str, old: Inode | None) -> Iterator[str]:
    if old is None:
        return
    if old.is_directory:
        raise ImageBuilderError(
            f"{path} is a directory in the base, a file or link of that name cannot replace it",
            "Rename it in the overlay.",
        )
    yield f'rm "{path}"'


def _attributes(path: str, mode: int, uid: int, gid: int) -> Iterator[str]:
    yield f'sif "{path}" mode 0{mode:o}'
    yield f'sif "{path}" uid {uid}'
    yield f'sif "{path}" gid {gid}'
    for name in ("atime", "ctime", "mtime", "crtime"):
        yield f'sif "{path}" {name} @{EPOCH}'
