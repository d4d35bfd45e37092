"""Snapshots that a person brings over: a directory that a control server kept, or a file of k3s' own.

    directory   etcd.db, keys.json, manifest.json (`fleet.snapshots.files`)
    file        what k3s writes below server/db/snapshots or to S3: etcd's data with etcd's digest; plain, or
                alone in a zip ('etcd-snapshot-compress')

A file does not say whose it is. k3s keeps a cluster's CAs in etcd under a name made of its token, encrypted
with it, so that name has to be in the file: without that token nobody can restore it. The newest k3s release
that is named in it (its Node objects name theirs) is the one that wrote it last.

Source: k3s pkg/cluster/storage.go (/bootstrap/ and the first 12 hex digits of the SHA-256 of the token's
    password), pkg/etcd/snapshot.go (names end with the time, UTC seconds), read 2026-11.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Final

from fleet.errors import FleetError
from fleet.etcd.errors import BadSnapshotError
from fleet.etcd.snapshot import MAX_BYTES, check_file, require_room
from fleet.files import write_private
from fleet.k3s.material import K3sMaterial
from fleet.k3s.versions import K3sVersion
from fleet.snapshots.files import BROUGHT_IN, SnapshotFiles
from fleet.snapshots.manifest import DATA, KEYS, SnapshotInfo, new_id, pack_keys, verify

UNKNOWN_CLUSTER: Final = "0"
"""In place of etcd's id of a cluster, which its data do not hold."""
_BATCH: Final = 1 << 20
_OVERLAP: Final = 64
_BOOTSTRAP: Final = re.compile(rb"/bootstrap/([0-9a-f]{12})")
_RELEASE: Final = re.compile(rb"v[0-9]{1,2}\.[0-9]{1,3}\.[0-9]{1,3}\+k3s[0-9]{1,2}")
_NAME_TIME: Final = re.compile(r".*-([0-9]{10})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """The cluster to which a snapshot has to belong."""

    name: str
    material: K3sMaterial

    @property
    def bootstrap_key(self) -> str:
        """The end of the name under which k3s keeps the cluster's CAs in etcd."""
        password = self.material.server_token.reveal().rpartition(":")[2]
        return hashlib.sha256(password.encode()).hexdigest()[:12]


@dataclass(slots=True)
class _Traces:
    """What a file tells of its origin."""

    keys: set[str] = field(default_factory=set)
    releases: set[K3sVersion] = field(default_factory=set)


def import_snapshot(
    files: SnapshotFiles, place: Path, ours: Ours, *, release: str | None = None
) -> SnapshotInfo:
    """Copy it to the others, with its digests; the same one again changes nothing but its release, if one is
    given.

    Args:
        release: Of the k3s that wrote a file; unless given it is guessed from what is named in the file.

    Raises:
        BadSnapshotError: It is none, is cut off or damaged, or is another cluster's.
        FleetError: It cannot be read, or the disk refuses; nothing is left behind.
    """
    try:
        if place.is_dir():
            _require_ours(verify(place), ours)
            return files.bring_in(place)
        if not place.is_file():
            raise BadSnapshotError(
                f"{place} is neither a directory nor a file",
                "Give the directory of a snapshot, or a file that 'k3s etcd-snapshot save' wrote.",
            )
        return _import_file(files, place, ours, release)
    except OSError as error:
        raise FleetError(f"{place} cannot be read: {error.strerror or error}", "Is it yours?") from error


def _require_ours(info: SnapshotInfo, ours: Ours) -> None:
    pin = ours.material.ca_hash
    found = []
    if info.cluster != ours.name:
        found.append(f"it is of cluster {info.cluster!r}, this is {ours.name!r}")
    if info.ca_hash != pin:
        found.append(f"its CA is {info.ca_hash[:12]}…, this cluster's is {pin[:12]}…")
    if found:
        raise BadSnapshotError(
            f"snapshot {info.id} can not be restored here: {'; '.join(found)}",
            "Restore the control server's backup that belongs to it first: 'bramble restore'.",
        )


def _import_file(files: SnapshotFiles, place: Path, ours: Ours, release: str | None) -> SnapshotInfo:
    with files.staged() as staged:
        data = staged / DATA
        _copy(place, data)
        data.chmod(0o600)
        try:
            size, digest = check_file(data)
        except BadSnapshotError as error:
            raise BadSnapshotError(error.message.replace(str(data), str(place)), error.hint) from error
        traces = _traces(data)
        version = _require_origin(place, traces, ours, release)
        keys = pack_keys(ours.material)
        write_private(staged / KEYS, keys)
        write_private(staged / BROUGHT_IN, b"")
        taken_at = _taken_at(place)
        info = SnapshotInfo(
            id=new_id(taken_at, digest[:6]),
            cluster=ours.name,
            cluster_id=UNKNOWN_CLUSTER,
            taken_at=taken_at,
            by=f"import of {place.name[:80]}",
            node="",
            servers=(),
            removing=None,
            k3s_version=str(version),
            etcd_version="",
            revision=0,
            size_bytes=size,
            sha256=digest,
            keys_sha256=hashlib.sha256(keys).hexdigest(),
            ca_hash=ours.material.ca_hash,
        )
        kept = files.keep_unless_there(staged, info)
    if release is not None and kept.k3s_version != info.k3s_version and files.is_brought_in(kept.id):
        kept = replace(kept, k3s_version=info.k3s_version)
        files.correct(kept)
    return kept


def _require_origin(place: Path, traces: _Traces, ours: Ours, release: str | None) -> K3sVersion:
    """The release that wrote it, if it is this cluster's; all that stands against it otherwise."""
    found, hints = [], []
    if not traces.keys:
        found.append("it holds no k3s cluster's keys")
        hints.append("Is it a snapshot of k3s' etcd, and not of another program's?")
    elif ours.bootstrap_key not in traces.keys:
        found.append(f"it is of a cluster with another token than {ours.name!r} has")
        hints.append("Restore the control server's backup that belongs to it first: 'bramble restore'.")
    version = K3sVersion.find(release) if release else max(traces.releases, default=None)
    if version is None:
        given = f"{release!r} is no k3s release" if release else "the k3s release that wrote it is not in it"
        found.append(given)
        hints.append("Name it with --k3s-version, like v1.33.5+k3s1.")
    if found or version is None:
        raise BadSnapshotError(f"{place} can not be restored here: {'; '.join(found)}", " ".join(hints))
    return version


def _copy(place: Path, target: Path) -> None:
    """The plain data of a file, which may be alone in a zip."""
    if not zipfile.is_zipfile(place):
        require_room(target.parent, place.stat().st_size)
        shutil.copyfile(place, target)
        return
    try:
        with zipfile.ZipFile(place) as archive:
            inside = [one for one in archive.infolist() if not one.is_dir()]
            if len(inside) != 1 or inside[0].file_size > MAX_BYTES:
                raise BadSnapshotError(
                    f"{place} holds {len(inside)} files, one snapshot of at most {MAX_BYTES >> 30} GiB is "
                    "expected",
                    "Take the snapshot out of it, and give that.",
                )
            require_room(target.parent, inside[0].file_size)
            with archive.open(inside[0]) as stream, target.open("wb") as out:
                _copy_at_most(stream, out, inside[0].file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise BadSnapshotError(f"{place} cannot be unpacked: {error}", "Take another copy of it.") from error


def _copy_at_most(stream: IO[bytes], out: IO[bytes], size: int) -> None:
    while block := stream.read(min(size + 1, _BATCH)):
        size -= len(block)
        if size < 0:
            raise zipfile.BadZipFile("it is larger than its directory says")
        out.write(block)


def _traces(data: Path) -> _Traces:
    found = _Traces()
    for block in _blocks(data):
        found.keys |= {each[1].decode() for each in _BOOTSTRAP.finditer(block)}
        for each in _RELEASE.finditer(block):
            version = K3sVersion.find(each[0].decode())
            if version is not None:
                found.releases.add(version)
    return found


def _blocks(data: Path) -> Iterator[bytes]:
    """Pieces that overlap: what is looked for is whole in one of them."""
    with data.open("rb") as stream:
        kept = b""
        while block := stream.read(_BATCH):
            yield kept + block
            kept = block[-_OVERLAP:]


def _taken_at(place: Path) -> float:
    """UTC seconds: as its name says, or else as its file does."""
    named = _NAME_TIME.fullmatch(place.name.removesuffix(".zip"))
    return float(named[1]) if named else place.stat().st_mtime
