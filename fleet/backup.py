"""One file that holds everything of a control server: its record and its keys.

A backup is a tar archive, compressed with zstd, and where a passphrase is given encrypted as age does it
(`age -d FILE | tar --zstd -x` opens it without Bramble):

    manifest.json     who wrote what, and the digest and size of every other member
    store.jsonl       the record (`fleet.store.dump`), the same from SQLite and PostgreSQL
    state/…           the files of the state directory: the CAs, the ticket key, k3s' keys and tokens, leases

It can be taken while a server runs, and is read back from the disk before it is called done. A restore puts
it into a directory that does not exist, or is empty, all of it or nothing; afterwards the record knows that
it is older than the world (`fleet.restored`).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import tarfile
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

import zstandard

from fleet.errors import FleetError
from fleet.files import give_to_owner_of, sync_directory
from fleet.restored import BACKUP, epoch_of, mark_restored, revoke_again
from fleet.secret import Secret
from fleet.store.database import Store
from fleet.store.dump import DumpError, dump_rows, load_rows
from fleet.store.version import LATEST
from fleet.store_place import Place
from fleet.trust.age import MAGIC as AGE_MAGIC
from fleet.trust.age import WORK_FACTOR, AgeError, AgeReader, AgeWriter

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
RECORD: Final = "store.jsonl"
STATE: Final = "state/"
MAX_MANIFEST_BYTES: Final = 4 << 20
LEFT_OUT: Final = ("control.db", "boot-images", "snapshots")
"""Names in the state directory that begin so: the database, whose rows are in the record, its journals and
its lock; what 'bramble boot-image' makes anew; and etcd's snapshots, each of which stands by itself."""
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_BLOCK: Final = 1 << 20


class BackupError(FleetError):
    """A backup that cannot be made, read or restored."""


@dataclass(frozen=True, slots=True)
class Member:
    """What the manifest says of one file."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The first member of a backup. `created` is UTC seconds; `epoch` how often its record was restored."""

    cluster: str
    created: float
    revision: str
    epoch: int
    nodes: int
    members: dict[str, Member]
    is_encrypted: bool = False

    def encode(self) -> bytes:
        values = asdict(self)
        del values["is_encrypted"]
        return json.dumps({"format": FORMAT, **values}, indent=1, sort_keys=True).encode()


Progress = Callable[[str, float], None]


def untold(_step: str, _share: float) -> None:
    """Nobody wants to know how far it is."""


def make_backup(
    cluster: str,
    state: Path,
    place: Place,
    target: Path,
    *,
    passphrase: Secret | None = None,
    force: bool = False,
    clock: Callable[[], float] = time.time,
    work_factor: int = WORK_FACTOR,
    progress: Progress = untold,
) -> Manifest:
    """Write a backup of a cluster's server to `target` (0600), and read it back.

    Args:
        progress: Told what is done, and the share of the whole, 0.0–1.0.

    Raises:
        BackupError: The target exists already or cannot be written, or what was written cannot be read.
        FleetError: The record or a key cannot be read.
    """
    if target.exists() and not force:
        raise BackupError(f"{target} exists already", "Name another file, or say --force.")
    temporary: Path | None = None
    try:
        with ExitStack() as stack:
            progress("reading the record", 0.01)
            rows = stack.enter_context(tempfile.TemporaryFile(dir=target.parent))
            nodes, epoch = _spool(place, rows)
            files = _read_state(state)
            members = {RECORD: _digest(rows)}
            members |= {name: Member(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files}
            manifest = Manifest(
                cluster=cluster,
                created=clock(),
                revision=LATEST,
                epoch=epoch,
                nodes=nodes,
                members=members,
                is_encrypted=passphrase is not None,
            )
            descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
            temporary = Path(name)
            stream = stack.enter_context(os.fdopen(descriptor, "wb"))
            progress("packing", 0.4)
            _write_archive(stream, manifest, rows, files, passphrase, work_factor)
            stream.flush()
            os.fsync(stream.fileno())
        verify_backup(temporary, passphrase, lambda share: progress("reading it back", 0.7 + 0.3 * share))
        temporary.replace(target)
        sync_directory(target.parent)
    except OSError as error:
        raise BackupError(
            f"{target} cannot be written: {error.strerror or error}",
            "Is there room, and is the directory yours?",
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return manifest


def verify_backup(
    path: Path, passphrase: Secret | None = None, on_share: Callable[[float], None] = lambda share: None
) -> Manifest:
    """Read a whole backup and hold every byte against the manifest.

    Args:
        on_share: Told the share that was read, 0.0–1.0.

    Raises:
        BackupError: It is no backup, is damaged or cut off, or needs another passphrase.
    """
    with _open_backup(path, passphrase) as (manifest, members):
        done, total = 0, sum(member.size for member in manifest.members.values())
        for _name, content in members:
            while piece := content.read(_BLOCK):
                done += len(piece)
                on_share(done / total)
    return manifest


def restore_backup(
    cluster: str,
    path: Path,
    state: Path,
    place: Place,
    *,
    passphrase: Secret | None = None,
    clock: Callable[[], float] = time.time,
    revoked: Collection[str] = (),
    progress: Progress = untold,
) -> Manifest:
    """Make a server's state from a backup: the state directory, and the record at `place`.

    A database that holds this very backup's record already keeps it: so keys get to a second server of it.

    Args:
        revoked: Nodes that are not to be trusted again, whatever the backup says of them.
        progress: Told what is done, and the share of the whole, 0.0–1.0.

    Raises:
        RefusedError: One of `revoked` is no node of the backup.
        BackupError: The backup is unsound or another cluster's, or there is a state already.
    """
    manifest = verify_backup(path, passphrase, lambda share: progress("checking the backup", 0.4 * share))
    if manifest.cluster != cluster:
        raise BackupError(
            f"{path} is a backup of cluster {manifest.cluster!r}, cluster.yaml names {cluster!r}",
            "Give the cluster.yaml that belongs to it.",
        )
    if state.exists() and any(state.iterdir()):
        raise BackupError(
            f"{state} holds a server's state already",
            f"Stop that server, and move it away first: mv {state} {state}.before-restore",
        )
    state.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    staged = Path(tempfile.mkdtemp(prefix=f".{state.name}.restore-", dir=state.parent))
    try:
        at = staged / place.name if isinstance(place, Path) else place
        with _open_backup(path, passphrase) as (manifest, members):
            for name, content in members:
                if name == RECORD:
                    progress("writing the record", 0.4)
                    _load(at, content, manifest, clock(), revoked)
                else:
                    progress("writing keys and settings", 0.95)
                    _put(staged / PurePosixPath(name.removeprefix(STATE)), content)
        for folder in (staged, *(one for one in staged.rglob("*") if one.is_dir())):
            sync_directory(folder)
        give_to_owner_of(state.parent, staged)
        staged.rename(state)  # over an empty directory too
        sync_directory(state.parent)
    except OSError as error:
        raise BackupError(f"{state} cannot be written: {error.strerror or error}", "Is it yours?") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return manifest


def _spool(place: Place, rows: IO[bytes]) -> tuple[int, int]:
    store = Store.open_readonly(place)
    try:
        with store.read() as reader:
            rows.writelines(dump_rows(reader))
            return len(reader.nodes()), epoch_of(reader)
    finally:
        store.close()


def _load(place: Place, lines: IO[bytes], manifest: Manifest, now: float, revoked: Collection[str]) -> None:
    store = Store.open(place)
    digest = manifest.members[RECORD].sha256
    try:
        with store.write() as tx:
            # A restore that was cut off before the keys were in place, or another server of this database:
            # what it holds is this backup's record, or newer.
            if tx.value(BACKUP) == digest:
                revoke_again(tx, revoked, now)
                return
        load_rows(
            store,
            lines,
            manifest.revision,
            lambda tx: mark_restored(tx, backup_at=manifest.created, now=now, digest=digest, revoked=revoked),
        )
    except DumpError as error:
        raise BackupError(
            f"the record of the backup cannot be restored: {error}",
            "A newer backup needs the Bramble that made it; a database has to be empty.",
        ) from error
    finally:
        store.close()


def _read_state(state: Path) -> list[tuple[str, bytes]]:
    """The regular files of the state directory, by their names in the archive."""
    found = []
    for path in sorted(state.rglob("*")):
        inner = path.relative_to(state)
        if inner.parts[0].startswith((".", *LEFT_OUT)) or not stat.S_ISREG(path.lstat().st_mode):
            continue
        try:
            found.append((f"{STATE}{inner.as_posix()}", path.read_bytes()))
        except OSError as error:
            raise BackupError(
                f"{path} cannot be read: {error.strerror}", "Run this as the user who runs 'bramble serve'."
            ) from error
    return found


def _digest(stream: IO[bytes]) -> Member:
    stream.seek(0)
    return Member(hashlib.file_digest(stream, "sha256").hexdigest(), stream.tell())  # type: ignore[arg-type]


def _write_archive(
    stream: IO[bytes],
    manifest: Manifest,
    rows: IO[bytes],
    files: list[tuple[str, bytes]],
    passphrase: Secret | None,
    work_factor: int,
) -> None:
    with ExitStack() as stack:
        sink: Any = stream
        if passphrase is not None:
            sink = stack.enter_context(AgeWriter(stream, passphrase, os.urandom, work_factor))
        packed = stack.enter_context(
            zstandard.ZstdCompressor(level=6, write_checksum=True).stream_writer(sink, closefd=False)
        )
        archive = stack.enter_context(tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT))
        text = manifest.encode()
        rows.seek(0)
        _add(archive, MANIFEST, len(text), io.BytesIO(text), manifest.created)
        _add(archive, RECORD, manifest.members[RECORD].size, rows, manifest.created)
        for name, data in files:
            _add(archive, name, len(data), io.BytesIO(data), manifest.created)


def _add(archive: tarfile.TarFile, name: str, size: int, content: IO[bytes], at: float) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o600, int(at)
    archive.addfile(member, content)


class _Checked(io.RawIOBase):
    """One member's bytes; at their end they must be what the manifest says.

    Raises:
        BackupError: They are not.
    """

    def __init__(self, name: str, content: IO[bytes], expected: Member) -> None:
        self._name, self._content, self._expected = name, content, expected
        self._digest, self._size = hashlib.sha256(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray, /) -> int:  # type: ignore[override]
        data = self._content.read(len(buffer))
        buffer[: len(data)] = data
        self._digest.update(data)
        self._size += len(data)
        if not data and (self._size, self._digest.hexdigest()) != (
            self._expected.size,
            self._expected.sha256,
        ):
            raise BackupError(f"{self._name} in the backup is not what its manifest says", _DAMAGED)
        return len(data)


_DAMAGED: Final = "The file is damaged. Take another backup, or another copy of it."
Members = Iterator[tuple[str, IO[bytes]]]


@contextmanager
def _open_backup(path: Path, passphrase: Secret | None) -> Iterator[tuple[Manifest, Members]]:
    """The manifest and, in the archive's order, the members that it names; each is to be read to its end."""
    try:
        with path.open("rb") as stream, ExitStack() as stack:
            start = stream.read(len(AGE_MAGIC))
            stream.seek(0)
            source: Any = stream
            is_encrypted = start == AGE_MAGIC
            if is_encrypted:
                if passphrase is None:
                    raise BackupError(f"{path} is encrypted", "Give its passphrase with --passphrase-file.")
                source = io.BufferedReader(AgeReader(stream, passphrase), _BLOCK)
            elif not start.startswith(_ZSTD_MAGIC):
                raise BackupError(f"{path} is no backup of Bramble", "'bramble backup FILE' makes one.")
            plain = stack.enter_context(zstandard.ZstdDecompressor().stream_reader(source))
            archive = stack.enter_context(tarfile.open(fileobj=plain, mode="r|"))
            manifest = _read_manifest(archive, is_encrypted=is_encrypted)
            yield manifest, _members(archive, manifest)
            while plain.read(_BLOCK):  # the checksum of zstd and the last chunk of age stand at the very end
                pass
    except (AgeError, zstandard.ZstdError, tarfile.TarError, EOFError) as error:
        raise BackupError(f"{path} cannot be read: {error}", _DAMAGED) from error
    except OSError as error:
        raise BackupError(f"{path} cannot be read: {error.strerror or error}", "Is it yours?") from error


def _read_manifest(archive: tarfile.TarFile, *, is_encrypted: bool) -> Manifest:
    first = archive.next()
    content = archive.extractfile(first) if first is not None and first.name == MANIFEST else None
    if first is None or content is None or first.size > MAX_MANIFEST_BYTES:
        raise BackupError("the file begins with no manifest", _DAMAGED)
    try:
        values = json.loads(content.read())
        found = values.pop("format")
        if found != FORMAT:
            raise BackupError(
                f"the backup has format {found}, this Bramble reads {FORMAT}",
                "Restore it with the version of Bramble that made it.",
            )
        members = {name: Member(**member) for name, member in values.pop("members").items()}
        manifest = Manifest(members=members, is_encrypted=is_encrypted, **values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BackupError(f"the backup's manifest is unsound: {error}", _DAMAGED) from error
    if RECORD not in members:
        raise BackupError("the backup's manifest names no record", _DAMAGED)
    return manifest


def _members(archive: tarfile.TarFile, manifest: Manifest) -> Members:
    missing = set(manifest.members)
    while (member := archive.next()) is not None:
        if member.name not in missing or not member.isreg() or not _is_inside(member.name):
            raise BackupError(f"the backup holds {member.name!r}, which it should not", _DAMAGED)
        missing.remove(member.name)
        content = archive.extractfile(member)
        if content is None:
            raise BackupError(f"{member.name} in the backup cannot be read", _DAMAGED)
        checked: Any = _Checked(member.name, content, manifest.members[member.name])
        yield member.name, io.BufferedReader(checked, _BLOCK)
    if missing:
        raise BackupError(f"the backup lacks {min(missing)}", _DAMAGED)


def _is_inside(name: str) -> bool:
    """No member may be written elsewhere than below the state directory, or in the database's place."""
    if name == RECORD:
        return True
    parts = name.removeprefix(STATE).split("/")
    return (
        name.startswith(STATE)
        and not any(part in ("", ".", "..") or "\0" in part for part in parts)
        and not parts[0].startswith((".", *LEFT_OUT))
    )


def _put(path: Path, content: IO[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as target:
        shutil.copyfileobj(content, target, _BLOCK)
        target.flush()
        os.fsync(target.fileno())
