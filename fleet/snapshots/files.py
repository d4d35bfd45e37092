"""Snapshots of etcd as they are kept: one directory each, all of it or nothing, for its owner's eyes only.

    <state>/snapshots/<id>/etcd.db, keys.json, manifest.json  (`fleet.snapshots.manifest`)
                           brought-in     empty: a person brought it here (`fleet.snapshots.imports`)

A snapshot is made under another name and renamed. While that lasts its maker holds a lock on it, so that what
a crash left behind is told from what another process (a second server, `bramble recover`) is about to finish:
the next one removes the former only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final

from fleet.errors import FleetError
from fleet.etcd.errors import BadSnapshotError
from fleet.files import give_to_owner_of, sync_directory, write_private
from fleet.snapshots.manifest import (
    DATA,
    ID,
    KEYS,
    MANIFEST,
    Damaged,
    SnapshotInfo,
    read,
    read_info,
    verify,
    write_manifest,
)

BROUGHT_IN: Final = "brought-in"
_UNFINISHED: Final = ".new-"
_LOCK: Final = ".lock"


class NoSnapshotError(FleetError):
    """There is no snapshot of that id."""


class BusyError(FleetError):
    """Another process decides at this moment which snapshots are used and which go."""


class SnapshotFiles:
    """The directory of one cluster's snapshots."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def place(self, snapshot_id: str) -> Path:
        """The directory of one snapshot.

        Raises:
            NoSnapshotError: That is no id, or there is none of it.
        """
        path = self.directory / snapshot_id
        if not re.fullmatch(ID, snapshot_id) or not path.is_dir():
            raise NoSnapshotError(
                f"there is no snapshot {snapshot_id[:80]!r}", "'bramble snapshot list' shows them."
            )
        return path

    def everything(self) -> list[SnapshotInfo | Damaged]:
        """All there are, the newest first."""
        found: list[SnapshotInfo | Damaged] = []
        with contextlib.suppress(FileNotFoundError):
            for path in sorted(self.directory.iterdir(), reverse=True):
                if re.fullmatch(ID, path.name) and path.is_dir():
                    found.append(_read_under_its_name(path))
        return found

    def strays(self) -> tuple[str, ...]:
        """Names of what lies among the snapshots and is none, by name: nothing here touches it."""
        try:
            names = sorted(path.name for path in self.directory.iterdir())
        except FileNotFoundError:
            return ()
        return tuple(name for name in names if not name.startswith(".") and not re.fullmatch(ID, name))

    def is_brought_in(self, snapshot_id: str) -> bool:
        """Whether a person brought it here: no schedule counts it, and it goes when a person says so."""
        return (self.directory / snapshot_id / BROUGHT_IN).exists()

    def sound(self) -> list[SnapshotInfo]:
        """Those whose manifest can be read, the newest first."""
        return [one for one in self.everything() if isinstance(one, SnapshotInfo)]

    def info(self, snapshot_id: str) -> SnapshotInfo:
        """What is known of one.

        Raises:
            NoSnapshotError: There is none of that id.
            BadSnapshotError: Its manifest is unsound.
        """
        return read_info(self.place(snapshot_id))

    def surplus(self, keep: int, wanted: Collection[object] = ()) -> tuple[str, ...]:
        """Ids of all but the newest `keep` sound ones, without those that are `wanted` or were brought in.

        A damaged one counts for nothing, and is surplus once `keep` sound ones are newer than it.
        """
        sound, found = 0, []
        for one in self.everything():
            if self.is_brought_in(one.id):
                continue
            if sound >= keep:
                found.append(one.id)
            elif isinstance(one, SnapshotInfo):
                sound += 1
        return tuple(one for one in found if one not in wanted)

    @contextlib.contextmanager
    def deciding(self) -> Iterator[None]:
        """While the block runs nobody else decides what becomes of a snapshot: whoever begins to use one
        writes that into the record within, whoever deletes some reads the record within. It is short.

        Raises:
            BusyError: Somebody else is at it.
            FleetError: The disk refuses.
        """
        path = self.directory / _LOCK
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _refused(path, error) from error
        try:
            give_to_owner_of(self.directory, path)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BusyError(
                    f"another process is deciding which snapshots in {self.directory} go",
                    "That takes a moment; try again.",
                ) from error
            except OSError as error:
                raise _refused(path, error) from error
            yield
        finally:
            os.close(descriptor)

    def brought_in(self, wanted: Collection[object]) -> tuple[str, ...]:
        """Ids of those that a person brought in, without those that are `wanted`."""
        return tuple(
            one.id for one in self.everything() if self.is_brought_in(one.id) and one.id not in wanted
        )

    def prune(
        self, keep: int, wanted: Callable[[], Collection[object]], *, imported: bool = False
    ) -> tuple[str, ...]:
        """Delete the surplus, and with `imported` all that were brought in; the ids that are gone. `wanted`
        reads the record, once.

        Raises:
            BusyError: One of them may be about to be used: the next time will do.
            FleetError: The disk refuses.
        """
        if not self.directory.is_dir():
            return ()
        with self.deciding():
            needed = wanted()
            gone = self.surplus(keep, needed) + (self.brought_in(needed) if imported else ())
            hidden = [self._hide(one) for one in gone]
        for doomed in filter(None, hidden):
            _delete(doomed)
        return gone

    @contextlib.contextmanager
    def staged(self) -> Iterator[Path]:
        """A directory to make a snapshot in; it is gone afterwards, or was put in place by `keep`.

        Raises:
            FleetError: The disk refuses.
        """
        with contextlib.ExitStack() as stack:
            try:
                if not self.directory.is_dir():
                    self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
                    give_to_owner_of(self.directory.parent, self.directory)
                for left in self.directory.glob(f"{_UNFINISHED}*"):
                    _remove_ownerless(left)
                staged = stack.enter_context(_locked(self.directory))
            except OSError as error:
                raise _refused(self.directory, error) from error
            try:
                yield staged
            except OSError as error:
                raise _refused(self.directory, error) from error
            finally:
                shutil.rmtree(staged, ignore_errors=True)

    def keep(self, staged: Path, info: SnapshotInfo) -> None:
        """Give a finished one its manifest and its name."""
        write_manifest(staged, info)
        give_to_owner_of(self.directory, staged)
        sync_directory(staged)
        staged.rename(self.directory / info.id)
        sync_directory(self.directory)

    def remove(self, snapshot_id: str) -> None:
        """Delete one, whoever may need it."""
        self.place(snapshot_id)
        doomed = self._hide(snapshot_id)
        if doomed is not None:
            _delete(doomed)

    def _hide(self, snapshot_id: str) -> Path | None:
        """Out of sight, so that a crash leaves no half of it under its name; None: it is gone already."""
        place = self.directory / snapshot_id
        doomed = place.with_name(f"{_UNFINISHED}doomed-{snapshot_id}")
        try:
            with contextlib.suppress(FileNotFoundError):
                place.rename(doomed)
                sync_directory(self.directory)
                return doomed
        except OSError as error:
            raise _refused(place, error) from error
        return None

    def bring_in(self, place: Path) -> SnapshotInfo:
        """Copy a snapshot from elsewhere to the others, unless it is there; its files and nothing else.

        Raises:
            BadSnapshotError: The directory holds no sound snapshot.
            FleetError: The disk refuses.
        """
        info = verify(place)
        if self._is_kept(info):
            return self.info(info.id)
        with self.staged() as staged:
            for name in (DATA, KEYS, MANIFEST):
                shutil.copyfile(place / name, staged / name)
                (staged / name).chmod(0o600)
            verify(staged)
            write_private(staged / BROUGHT_IN, b"")
            return self.keep_unless_there(staged, info)

    def keep_unless_there(self, staged: Path, info: SnapshotInfo) -> SnapshotInfo:
        """Keep one that was brought in; the one that is kept. In place of a damaged one of its id, not of a
        sound one.

        Raises:
            BadSnapshotError: Another one of its id is kept.
        """
        if self._is_kept(info):
            return self.info(info.id)
        with contextlib.suppress(NoSnapshotError):
            self.remove(info.id)
        self.keep(staged, info)
        return info

    def correct(self, info: SnapshotInfo) -> None:
        """Give one that was brought in another manifest, in the place of its own: a person knows better."""
        write_manifest(self.place(info.id), info)

    def _is_kept(self, info: SnapshotInfo) -> bool:
        """Whether it is here, and sound."""
        try:
            known = verify(self.place(info.id))
        except (NoSnapshotError, BadSnapshotError):
            return False
        if known.sha256 != info.sha256:
            raise BadSnapshotError(
                f"another snapshot {info.id} is kept in {self.directory}",
                "Two snapshots can not have one id: was a manifest written by hand?",
            )
        return True


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[Path]:
    """A new directory that no other process takes for left behind, while the block runs."""
    with contextlib.ExitStack() as stack:
        is_mine = False
        while not is_mine:  # until nobody saw it before it was locked
            staged = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=directory))
            stack.close()
            with contextlib.suppress(FileNotFoundError):
                stack.enter_context(_lock_on(staged, fcntl.LOCK_EX))
            is_mine = staged.is_dir()
        yield staged


def _delete(doomed: Path) -> None:
    try:
        with contextlib.suppress(FileNotFoundError):  # another process takes it for left behind
            shutil.rmtree(doomed)
    except OSError as error:
        raise _refused(doomed, error) from error


def _remove_ownerless(left: Path) -> None:
    """Remove what nobody works on any more."""
    with contextlib.suppress(OSError), _lock_on(left, fcntl.LOCK_EX | fcntl.LOCK_NB) as is_held:
        if is_held:
            shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def _lock_on(path: Path, how: int) -> Iterator[bool]:
    """A lock on a directory, which ends with its process; whether there is one.

    Where directories can not be locked (NFS) nothing is ever taken for left behind.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        is_held = False
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, how)
            is_held = True
        yield is_held
    finally:
        os.close(descriptor)


def _read_under_its_name(place: Path) -> SnapshotInfo | Damaged:
    found = read(place)
    if isinstance(found, SnapshotInfo) and found.id != place.name:
        return Damaged(place.name, f"it is snapshot {found.id} under another name")
    return found


def _refused(path: Path, error: OSError) -> FleetError:
    return FleetError(
        f"{path}: {error.strerror or os.strerror(error.errno or 0)}",
        "Nothing half-written was left under a snapshot's name. Is there room, and is the directory yours?",
    )
