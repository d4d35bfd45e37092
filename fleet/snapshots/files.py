"""Snapshots of etcd as they are kept: one directory each, all of it or nothing, for its owner's eyes only.

    <state>/snapshots/<id>/etcd.db        etcd's data with etcd's own digest (`fleet.etcd.snapshot`)
                           keys.json      the CAs, the server token and the agent token that it needs
                           manifest.json  whose it is, when it was taken, and the digest of both
                           brought-in     empty: a person brought it here (`fleet.snapshots.imports`)

Without the token and the CAs a snapshot restores nothing: k3s keeps its bootstrap data in etcd, encrypted
with the token. So whoever has this directory is admin of the cluster.

A snapshot is made under another name and renamed. While that lasts its maker holds a lock on it, so that what
a crash left behind is told from what another process (a second server, `bramble recover`) is about to finish:
the next one removes the former only.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fleet.errors import FleetError
from fleet.etcd.errors import BadSnapshotError
from fleet.etcd.snapshot import check_file
from fleet.files import give_to_owner_of, sync_directory, write_private
from fleet.k3s.material import K3sMaterial

FORMAT: Final = 1
DATA: Final = "etcd.db"
KEYS: Final = "keys.json"
MANIFEST: Final = "manifest.json"
BROUGHT_IN: Final = "brought-in"
ID: Final = r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}"
MAX_MANIFEST_BYTES: Final = 1 << 20
_UNFINISHED: Final = ".new-"
_LOCK: Final = ".lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotInfo:
    """What is known of a snapshot without reading it.

    Attributes:
        cluster: The cluster's name in cluster.yaml.
        cluster_id: etcd's own id, as etcdctl prints it; a restore makes another one.
        taken_at: UTC seconds.
        by: `schedule`, a person, or the re-image that it was taken for.
        node: The server that was asked.
        servers: Nodes that had a voting member then.
        removing: Nodes that were marked for removal from etcd at that moment; None where Kubernetes did not
            tell. Restored on such a node, k3s would take its own member out (k3s issue 8359).
        revision: etcd's, at least.
        ca_hash: Of the cluster's server CA: what tokens pin.
    """

    id: str
    cluster: str
    cluster_id: str
    taken_at: float
    by: str
    node: str
    servers: tuple[str, ...]
    removing: tuple[str, ...] | None
    k3s_version: str
    etcd_version: str
    revision: int
    size_bytes: int
    sha256: str
    keys_sha256: str
    ca_hash: str


@dataclass(frozen=True, slots=True)
class Damaged:
    """A directory in the place of snapshots that is none."""

    id: str
    reason: str


class NoSnapshotError(FleetError):
    """There is no snapshot of that id."""


class BusyError(FleetError):
    """Another process decides at this moment which snapshots are used and which go."""


def new_id(now: float, random: str) -> str:
    """Sorts by time. `random` is six hex digits."""
    return f"{datetime.fromtimestamp(int(now), UTC):%Y%m%dT%H%M%SZ}-{random}"


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
        _write_manifest(staged, info)
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
        _write_manifest(self.place(info.id), info)

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


def _write_manifest(place: Path, info: SnapshotInfo) -> None:
    document = json.dumps({"format": FORMAT, **asdict(info)}, indent=1, sort_keys=True)
    write_private(place / MANIFEST, document.encode())


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


def read_info(place: Path) -> SnapshotInfo:
    """The manifest of the snapshot in a directory.

    Raises:
        BadSnapshotError: It has none, or an unsound one.
    """
    found = _read(place)
    if isinstance(found, Damaged):
        raise BadSnapshotError(f"{place}: {found.reason}", "Take another snapshot, or another copy of it.")
    return found


def verify(place: Path) -> SnapshotInfo:
    """Hold every byte of a snapshot against its manifest, and its data against etcd's own digest.

    Raises:
        BadSnapshotError: Something is not as it was written.
    """
    info = read_info(place)
    try:
        size, digest = check_file(place / DATA)
        keys = (place / KEYS).read_bytes()
    except OSError as error:
        raise BadSnapshotError(
            f"{place} cannot be read: {error.strerror or error}", "Is it yours, and whole?"
        ) from error
    if (size, digest) != (info.size_bytes, info.sha256):
        raise BadSnapshotError(
            f"{place / DATA} is another file than its manifest says", "Take another copy of the directory."
        )
    if hashlib.sha256(keys).hexdigest() != info.keys_sha256:
        raise BadSnapshotError(
            f"{place / KEYS} is another file than its manifest says", "Take another copy of the directory."
        )
    return info


def pack_keys(material: K3sMaterial) -> bytes:
    """The CAs and tokens as one file."""
    document = {
        "server_token": material.server_token.reveal(),
        "agent_token": material.agent_token.reveal(),
        "files": {path: content.reveal() for path, content in material.tls_files().items()},
    }
    return json.dumps(document, indent=1, sort_keys=True).encode()


def _read_under_its_name(place: Path) -> SnapshotInfo | Damaged:
    found = _read(place)
    if isinstance(found, SnapshotInfo) and found.id != place.name:
        return Damaged(place.name, f"it is snapshot {found.id} under another name")
    return found


_KINDS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "taken_at": (int, float),
    "revision": int,
    "size_bytes": int,
    "servers": list,
    "removing": (list, type(None)),
}


def _read(place: Path) -> SnapshotInfo | Damaged:
    try:
        with (place / MANIFEST).open("rb") as stream:
            values = json.loads(stream.read(MAX_MANIFEST_BYTES))
    except OSError as error:
        return Damaged(place.name, f"its manifest cannot be read: {error.strerror or error}")
    except ValueError:
        return Damaged(place.name, "its manifest is no JSON document")
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        return Damaged(place.name, "its manifest is of another version of Bramble")
    wanted = {field.name for field in fields(SnapshotInfo)}
    wrong = sorted(wanted ^ values.keys()) or [
        name for name, value in values.items() if not isinstance(value, _KINDS.get(name, str))
    ]
    for name, pattern in (("cluster_id", "[0-9a-f]{1,16}"), ("id", ID)):
        if not wrong and not re.fullmatch(pattern, values[name]):
            wrong = [name]
    if wrong:
        return Damaged(place.name, f"its manifest is unsound: {', '.join(wrong)}")
    removing = values.pop("removing")
    servers = tuple(map(str, values.pop("servers")))
    return SnapshotInfo(
        servers=servers, removing=None if removing is None else tuple(map(str, removing)), **values
    )


def _refused(path: Path, error: OSError) -> FleetError:
    return FleetError(
        f"{path}: {error.strerror or os.strerror(error.errno or 0)}",
        "Nothing half-written was left under a snapshot's name. Is there room, and is the directory yours?",
    )
