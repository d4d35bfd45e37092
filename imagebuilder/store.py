"""Finished artifacts by content id: ``<root>/<kind>/<id>/``.

An entry that has its final name is complete: it was built in ``<root>/tmp``, flushed to the disk and renamed.
A build that dies at any point leaves nothing but a directory in ``tmp``, which the next builder of that entry
removes.

Owns: the layout of the store, its locks (flock on ``<root>/locks/<kind>/<id>``, which ends with the process)
and its temp directories. Entries are not changed after they are finished.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import platformdirs

from imagebuilder.errors import NoSpace, StoreError
from imagebuilder.runner import run
from imagebuilder.sandbox import sandboxed

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
"""Kinds and ids become directory names, so neither a separator nor a leading dot may occur."""


class Store:
    """A directory of finished, content-addressed entries; safe for several processes and threads at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def default(cls) -> Store:
        """The store in the user's cache directory (``~/.cache/bramble``)."""
        return cls(platformdirs.user_cache_path("bramble"))

    def find(self, kind: str, entry_id: str) -> Path | None:
        """The finished entry's directory."""
        path = self._path(kind, entry_id)
        return path if path.is_dir() else None

    def entries(self, kind: str) -> list[Path]:
        """The directories of all finished entries of one kind, sorted by id."""
        _checked(kind, "kind")
        directory = self.root / kind
        return sorted(path for path in directory.iterdir() if path.is_dir()) if directory.is_dir() else []

    @contextlib.contextmanager
    def create(self, kind: str, entry_id: str) -> Iterator[Path]:
        """Hand out an empty directory that becomes the entry when the block ends without an error.

        Waits while another process or thread builds the same entry. An entry that exists by then is replaced;
        use ``get_or_create`` to build only what is not there.

        Raises:
            StoreError: the store cannot be written.
        """
        with self._locked(kind, entry_id), self._building(kind, entry_id) as work:
            yield work

    def get_or_create(self, kind: str, entry_id: str, build: Callable[[Path], None]) -> Path:
        """The entry's directory, built by ``build(empty directory)`` if it is not there yet.

        Of several callers at once one builds; the others wait and get what it built, or build if it failed.

        Raises:
            StoreError: the store cannot be written.
            Whatever ``build`` raises; then nothing is left of the attempt.
        """
        if found := self.find(kind, entry_id):
            return found
        with self._locked(kind, entry_id):
            if found := self.find(kind, entry_id):
                return found
            with self._building(kind, entry_id) as work:
                build(work)
        return self._path(kind, entry_id)

    def _path(self, kind: str, entry_id: str) -> Path:
        return self.root / _checked(kind, "kind") / _checked(entry_id, "id")

    @contextlib.contextmanager
    def _locked(self, kind: str, entry_id: str) -> Iterator[None]:
        """Hold the entry's lock. The lock file stays: removing it would let two holders in by two inodes."""
        path = self.root / "locks" / _checked(kind, "kind") / _checked(entry_id, "id")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as exc:
            raise _unwritable(self.root, exc) from exc
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _building(self, kind: str, entry_id: str) -> Iterator[Path]:
        """A fresh temp directory that takes the entry's name at the end. The caller holds the lock."""
        final = self._path(kind, entry_id)
        work = self.root / "tmp" / f"{kind}.{entry_id}"
        try:
            remove_tree(work)  # what a killed builder left; nobody else is here, we hold its lock
            work.mkdir(parents=True)
            final.parent.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise _unwritable(self.root, exc) from exc
        try:
            yield work
            flush_tree(work)
            replaced = work.with_name(f"{work.name}.replaced")
            remove_tree(replaced)
            if final.exists():
                final.rename(replaced)
            work.rename(final)
            _flush(final.parent)
            remove_tree(replaced)
        except BaseException:
            remove_tree(work)
            raise


def require_room(path: Path, needed_bytes: int) -> None:
    """Raise ``NoSpace`` when the filesystem of ``path`` (or of its nearest existing parent) has less room."""
    place = path
    while not place.exists() and place != place.parent:
        place = place.parent
    state = os.statvfs(place)
    available = state.f_bavail * state.f_frsize
    if available < needed_bytes:
        raise NoSpace(path, needed_bytes, available)


def flush_tree(root: Path) -> None:
    """Write every regular file and directory below ``root``, and ``root``, through to the disk."""
    for directory, _, names in os.walk(root, topdown=False):
        for name in names:
            path = Path(directory, name)
            if path.is_file() and not path.is_symlink():
                _flush(path)
        _flush(Path(directory))


def remove_tree(root: Path) -> None:
    """Remove a directory tree if it is there; also one made in the sandbox, which belongs to its ids."""
    if not root.is_dir():
        return
    try:
        shutil.rmtree(root)
    except PermissionError:
        run(sandboxed(["rm", "-rf", "--", str(root)], arm64=False))


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checked(name: str, what: str) -> str:
    if not _NAME.fullmatch(name):
        raise StoreError(
            f"store: {name!r} cannot be the {what} of an entry; expected 1–128 letters, digits and '._+-'",
            "This is a fault of the program that asked for it; please report it.",
        )
    return name


def _unwritable(root: Path, exc: OSError) -> StoreError:
    return StoreError(
        f"{root}: the store cannot be written: {exc.strerror}",
        "Make the directory yours, or choose another one with BRAMBLE_CACHE_DIR.",
    )
