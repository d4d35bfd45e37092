"""Finished artifacts by content id: ``<root>/<kind>/<id>/``.

An entry that has its final name is complete: it was built in ``<root>/tmp``, flushed to the disk and renamed.
A build that dies at any point leaves nothing but a directory in ``tmp``, which the next builder of that entry
removes.

An entry that a ``Store`` object handed out is in use until that object is gone or its process has ended, and
``bramble gc`` (``imagebuilder.store_gc``) leaves it alone.

Owns: the layout of the store, its locks (flock, which ends with the process, however it ends) and its temp
directories. Entries are not changed after they are finished.

    <kind>/<id>/            finished entries
    tmp/<kind>.<id>/        entries being built; tmp/~<kind>.<id>: entries on their way out
    downloads/<id>/         downloads that go on where they ended
    locks/<kind>/<id>       held while an entry is built
    uses/<kind>/<id>        held, shared, by who uses an entry; its time of change is that of the last use
    digests/                digests of files elsewhere on this machine
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import platformdirs

from imagebuilder.errors import CommandFailed, DiskFull, ImageBuilderError, NoSpace, StoreError
from imagebuilder.runner import run
from imagebuilder.sandbox import sandboxed

DOWNLOADS: Final = "downloads"
RESERVED: Final = frozenset(("tmp", "locks", "uses", "digests", DOWNLOADS))
"""Directories of the store that hold no finished entries."""

FULL: Final = (errno.ENOSPC, errno.EDQUOT)

TOLD: Final = (*FULL, errno.EIO, errno.EROFS, errno.EFBIG)
"""What a disk may answer to a write: the user is told what it means, not where it happened."""

fsync: Callable[[int], None] = os.fsync
"""The seam at which tests let a disk fail."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
_KIND: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
"""Kinds and ids become directory names, so neither a separator nor a leading dot may occur; and no dot in a
kind, which tells the two apart in ``tmp``."""


class Store:
    """A directory of finished, content-addressed entries; safe for several processes and threads at once.

    ``budget_bytes`` is what it may take on the disk; builds keep to it when they end
    (``imagebuilder.store_gc.keep_budget``). None: any amount.
    """

    def __init__(self, root: Path, *, budget_bytes: int | None = None) -> None:
        self.root = root
        self.budget_bytes = budget_bytes
        self._held: dict[Path, int] = {}
        weakref.finalize(self, _close_all, self._held)

    @classmethod
    def default(cls) -> Store:
        """The store in the user's cache directory (``~/.cache/bramble``)."""
        return cls(platformdirs.user_cache_path("bramble"))

    def find(self, kind: str, entry_id: str) -> Path | None:
        """The finished entry's directory. It is in use from now on."""
        path = self.path(kind, entry_id)
        if not path.is_dir():
            return None
        self._hold(kind, entry_id)
        return path if path.is_dir() else None  # it may have gone before it was held

    def path(self, kind: str, entry_id: str) -> Path:
        """Where the entry is or would be; says nothing of whether it is there."""
        return self.root / _checked(kind, "kind") / _checked(entry_id, "id")

    @property
    def held(self) -> frozenset[tuple[str, str]]:
        """Kind and id of every entry that this object handed out, in whatever thread."""
        return frozenset((path.parent.name, path.name) for path in list(self._held))

    def kinds(self) -> list[str]:
        """The kinds of which there are entries, sorted."""
        if not self.root.is_dir():
            return []
        names = (path.name for path in self.root.iterdir() if path.is_dir())
        return sorted(name for name in names if name not in RESERVED and _KIND.fullmatch(name))

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
        with self.locked(kind, entry_id), self._building(kind, entry_id) as work:
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
        with self.locked(kind, entry_id):
            if found := self.find(kind, entry_id):
                return found
            with self._building(kind, entry_id) as work:
                build(work)
            self._hold(kind, entry_id)
        return self.path(kind, entry_id)

    def adopt(self, kind: str, work_id: str, build: Callable[[Path], str]) -> Path:
        """An entry whose id is known when it has been built: ``build(empty directory)`` returns it.

        Of several callers with one ``work_id`` at once, one builds at a time. Where an entry of the id exists
        by then, what was built is dropped.

        Raises:
            StoreError: the store cannot be written.
            Whatever ``build`` raises; then nothing is left of the attempt.
        """
        with self.locked(kind, work_id):
            work = self._fresh(kind, work_id)
            try:
                entry_id = build(work)
                return self.get_or_create(kind, entry_id, lambda into: _move_content(work, into))
            finally:
                remove_tree(work)

    @contextlib.contextmanager
    def locked(self, kind: str, entry_id: str) -> Iterator[None]:
        """Hold the lock that the builder of an entry holds; waits for it.

        Raises:
            StoreError: the store cannot be written.
        """
        descriptor = self._open_lock("locks", kind, entry_id)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def locked_at_once(
        self, kind: str, entry_id: str, places: tuple[str, ...] = ("uses", "locks")
    ) -> Iterator[bool]:
        """Hold the users' and the builder's lock, if nobody holds either; says whether that is so."""
        used = self.last_used(kind, entry_id)
        with contextlib.ExitStack() as stack:
            for place in places:
                descriptor = self._open_lock(place, kind, entry_id)
                stack.callback(os.close, descriptor)
                if place == "uses":
                    os.utime(descriptor, (used, used))  # asking for the lock, which may make it, is no use
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    yield False
                    return
            yield True

    def last_used(self, kind: str, entry_id: str) -> float:
        """When the entry was last handed out, or else made; seconds since 1970, 0.0 where it is not there."""
        for path in (self.root / "uses" / kind / entry_id, self.path(kind, entry_id)):
            with contextlib.suppress(FileNotFoundError):
                return path.stat().st_mtime
        return 0.0

    def evict(self, kind: str, entry_id: str) -> bool:
        """Remove a finished entry, unless somebody uses or builds it; says whether it is gone.

        Raises:
            StoreError: the store cannot be written.
        """
        with self.locked_at_once(kind, entry_id) as free:
            if not free:
                return False
            leaving = self.root / "tmp" / f"~{kind}.{entry_id}"
            try:
                leaving.parent.mkdir(parents=True, exist_ok=True)
                remove_tree(leaving)
                self.path(kind, entry_id).rename(leaving)  # from here on nobody finds half of it
                remove_tree(leaving)
            except FileNotFoundError:
                pass  # somebody else was faster
            except OSError as exc:
                raise _unwritable(self.root, exc) from exc
            return True

    def _hold(self, kind: str, entry_id: str) -> None:
        """Mark the entry as used by this object, and as used now."""
        path = self.path(kind, entry_id)
        if (descriptor := self._held.get(path)) is None:
            try:
                descriptor = self._open_lock("uses", kind, entry_id)
            except ImageBuilderError:
                return  # a store that we can only read: who may clean it up is not us
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if self._held.setdefault(path, descriptor) != descriptor:
                os.close(descriptor)  # another thread was faster
                return
        with contextlib.suppress(OSError):
            os.utime(descriptor)

    def _open_lock(self, place: str, kind: str, entry_id: str) -> int:
        """A descriptor of a lock file. The file stays: removing it would let two holders in by two inodes."""
        path = self.root / place / _checked(kind, "kind") / _checked(entry_id, "id")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as exc:
            raise _unwritable(self.root, exc) from exc

    def _fresh(self, kind: str, entry_id: str) -> Path:
        """An empty temp directory for the entry. The caller holds its lock."""
        work = self.root / "tmp" / f"{kind}.{entry_id}"
        try:
            remove_tree(work)  # what a killed builder left; nobody else is here, we hold its lock
            work.mkdir(parents=True)
        except OSError as exc:
            raise _unwritable(self.root, exc) from exc
        return work

    @contextlib.contextmanager
    def _building(self, kind: str, entry_id: str) -> Iterator[Path]:
        """A fresh temp directory that takes the entry's name at the end. The caller holds the lock."""
        final = self.path(kind, entry_id)
        work = self._fresh(kind, entry_id)
        try:
            with _disk_errors(self.root):
                yield work
            try:
                flush_tree(work)
                final.parent.mkdir(parents=True, exist_ok=True)
                replaced = work.with_name(f"~{work.name}")
                remove_tree(replaced)
                if final.exists():
                    final.rename(replaced)
                work.rename(final)
                flush_file(final.parent)
                remove_tree(replaced)
            except OSError as exc:
                raise _unwritable(self.root, exc) from exc
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


def allocated_bytes(root: Path) -> int:
    """What a file or tree takes on the disk: holes count nothing, a file with several names once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    paths = [root, *(Path(directory, name) for directory, _, names in os.walk(root) for name in names)]
    for path in paths:
        with contextlib.suppress(OSError):  # it went meanwhile, or belongs to the sandbox
            state = path.lstat()
            if (state.st_dev, state.st_ino) not in seen:
                seen.add((state.st_dev, state.st_ino))
                total += state.st_blocks * 512
    return total


def flush_tree(root: Path) -> None:
    """Write every regular file and directory below ``root``, and ``root``, through to the disk."""
    for directory, _, names in os.walk(root, topdown=False):
        for name in names:
            path = Path(directory, name)
            if path.is_file() and not path.is_symlink():
                flush_file(path)
        flush_file(Path(directory))


def flush_file(path: Path) -> None:
    """Write a file or directory through to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(root: Path) -> None:
    """Remove a directory tree if it is there; also one made in the sandbox, which belongs to its ids."""
    if not root.is_dir():
        return
    try:
        shutil.rmtree(root)
    except PermissionError:
        run(sandboxed(["rm", "-rf", "--", str(root)], arm64=False))


@contextlib.contextmanager
def workspace(path: Path) -> Iterator[Path]:
    """A directory for a system's tree, whose files belong to the sandbox's ids; gone at the end."""
    path.mkdir()
    try:
        yield path
    finally:
        remove_tree(path)


def _move_content(source: Path, target: Path) -> None:
    for path in source.iterdir():
        path.rename(target / path.name)


def _close_all(held: dict[Path, int]) -> None:
    while held:
        os.close(held.popitem()[1])


def _checked(name: str, what: str) -> str:
    if not (_KIND if what == "kind" else _NAME).fullmatch(name):
        raise StoreError(
            f"store: {name!r} cannot be the {what} of an entry; expected 1–128 letters, digits and '._+-'",
            "This is a fault of the program that asked for it; please report it.",
        )
    return name


@contextlib.contextmanager
def _disk_errors(root: Path) -> Iterator[None]:
    """Say of a disk that fills up or fails under a builder what became of it, whoever wrote: we or a tool."""
    try:
        yield
    except OSError as exc:
        if exc.errno in TOLD:
            raise _unwritable(root, exc) from exc
        raise
    except CommandFailed as exc:
        for number in TOLD:
            if any(os.strerror(number) in line for line in exc.last_lines):
                raise _unwritable(root, OSError(number, os.strerror(number)), exc.message) from exc
        raise


def _unwritable(root: Path, exc: OSError, command: str = "") -> ImageBuilderError:
    """What an error of the disk means. ``command``: the words of the tool that met it."""
    if exc.errno in FULL:
        return DiskFull(root)
    words = f"\n{command}" if command else ""
    if exc.errno == errno.EIO:
        return StoreError(
            f"{root}: the disk of the store failed: {exc.strerror}{words}",
            "Look at the disk (dmesg, smartctl), or put the cache on another one with BRAMBLE_CACHE_DIR.",
        )
    if exc.errno == errno.EFBIG:
        return StoreError(
            f"{root}: a file grew larger than its filesystem or 'ulimit -f' allows{words}",
            "FAT ends at 4 GiB: put the cache on another filesystem with BRAMBLE_CACHE_DIR, or raise the "
            "limit.",
        )
    return StoreError(
        f"{root}: the store cannot be written: {exc.strerror}",
        "Make the directory yours, or choose another one with BRAMBLE_CACHE_DIR.",
    )
