"""Snapshots that a person brings over: usable for a recovery, or refused with everything that is wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from click.testing import CliRunner, Result
from fakes_fleet import cluster_spec
from servers_room import S1, S2, S3, ServersRoom, lose, servers_room

from fleet.cli.snapshot import snapshot as command
from fleet.errors import FleetError
from fleet.etcd.errors import BadSnapshotError
from fleet.k3s.material import K3sMaterial, open_k3s
from fleet.snapshots.files import SnapshotFiles
from fleet.snapshots.imports import Ours, import_snapshot
from fleet.snapshots.manifest import DATA, KEYS, MANIFEST, Damaged, verify
from fleet.spec.model import SnapshotPolicy

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]
NOW = 1764200000.0
TAKEN_AT = 1764126000
NAME = f"etcd-snapshot-s1-{TAKEN_AT}"
MIB = 1 << 20


@pytest_asyncio.fixture
async def room(tmp_path: Path) -> AsyncIterator[ServersRoom]:
    policy = dataclasses.replace(cluster_spec().policy, snapshots=SnapshotPolicy(every_s=3600, keep=1))
    async with servers_room(
        tmp_path / "attic", dataclasses.replace(cluster_spec(S1, S2, S3), policy=policy)
    ) as made:
        yield made


@pytest.fixture
def cluster_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file whose cluster is the room's, for who types a command."""
    monkeypatch.setenv("BRAMBLE_STATE_DIR", str(tmp_path))
    file = tmp_path / "cluster.yaml"
    file.write_text(
        "version: 1\ncluster: {name: attic, domain: attic.internal, k3s: {version: v1.33.5+k3s1}}\n"
        "image: {base: debian-trixie}\nnetwork: {interface: lo, dhcp: full, subnet: 10.77.0.0/24}\n"
        "defaults: {disk: nvme}\nnodes:\n"
        "  - {name: s1, board: pi5, role: server, serial: 10000000abcd0001, address: 10.77.0.11}\n"
    )
    return file


@pytest.fixture(scope="module")
def attic(tmp_path_factory: pytest.TempPathFactory) -> Ours:
    """A cluster without a control server: its name and its keys."""
    return Ours(name="attic", material=open_k3s(tmp_path_factory.mktemp("attic") / "k3s", "attic", NOW))


@pytest.fixture
def files(tmp_path: Path) -> SnapshotFiles:
    return SnapshotFiles(tmp_path / "state" / "snapshots")


def ours(room: ServersRoom) -> Ours:
    return Ours(name="attic", material=K3sMaterial(room.state / "k3s"))


def database(*texts: bytes, size: int = 8 * 4096) -> bytes:
    """bbolt's magic, some texts, and etcd's digest at the end: as far as anybody looks into it."""
    body = bytearray(size)
    body[16:20] = b"\xed\xda\x0c\xed"
    at = 4096
    for text in texts:
        body[at : at + len(text)] = text
        at += 512
    return bytes(body) + hashlib.sha256(body).digest()


def own_key(cluster: Ours) -> bytes:
    return f"/bootstrap/{cluster.bootstrap_key}".encode()


def written(directory: Path, data: bytes, name: str = NAME) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / name).write_bytes(data)
    return directory / name


async def test_a_file_of_k3s_is_kept_with_its_digest_and_a_recovery_begins_from_it(
    room: ServersRoom, tmp_path: Path
) -> None:
    data = database(own_key(ours(room)), b"v1.33.4+k3s1", b"v1.33.5+k3s1")
    file, files = written(tmp_path / "nas", data), room.controller.snapshots.files
    info = import_snapshot(files, file, ours(room))
    assert (info.taken_at, info.sha256) == (TAKEN_AT, hashlib.sha256(data).hexdigest())
    assert (info.k3s_version, info.by) == ("v1.33.5+k3s1", f"import of {NAME}")
    assert verify(files.place(info.id)) == info
    keys = json.loads((files.place(info.id) / KEYS).read_text())
    assert keys["server_token"] == ours(room).material.server_token.reveal()
    assert {path.stat().st_mode & 0o777 for path in files.place(info.id).iterdir()} == {0o600}
    assert import_snapshot(files, file, ours(room)) == info, "again is no mistake"
    lose(room)
    view = await room.controller.recovery.begin(info.id, by="anna")
    assert (view.snapshot, view.taken_at) == (info.id, TAKEN_AT)


async def test_a_zipped_file_is_the_same_snapshot(attic: Ours, files: SnapshotFiles, tmp_path: Path) -> None:
    data = database(own_key(attic), b"v1.33.5+k3s1")
    plain = written(tmp_path / "nas", data)
    with zipfile.ZipFile(f"{plain}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(plain, plain.name)
    info = import_snapshot(files, Path(f"{plain}.zip"), attic)
    assert info.sha256 == hashlib.sha256(data).hexdigest()
    assert import_snapshot(files, plain, attic) == info


async def test_what_is_looked_for_is_found_where_two_reads_meet(
    attic: Ours, files: SnapshotFiles, tmp_path: Path
) -> None:
    body = bytearray(database(size=2 * MIB)[:-32])
    body[MIB - 10 : MIB - 10 + 23] = own_key(attic)
    body[2 * MIB - 12 :] = b"v1.33.5+k3s1"
    file = written(tmp_path / "nas", bytes(body) + hashlib.sha256(body).digest())
    assert import_snapshot(files, file, attic).k3s_version == "v1.33.5+k3s1"


@pytest.mark.parametrize(
    ("harm", "reasons"),
    [
        ("foreign", ["another token than 'attic' has"]),
        ("no-k3s", ["it holds no k3s cluster's keys", "the k3s release that wrote it is not in it"]),
        ("no-release", ["the k3s release that wrote it is not in it"]),
        ("cut-off", ["is cut off"]),
        ("pages-missing", ["the digest at its end is not that of its content"]),
        ("flipped", ["the digest at its end is not that of its content"]),
        ("empty", ["has 0 bytes"]),
        ("text", ["does not begin like etcd's database"]),
        ("zip-of-two", ["holds 2 files"]),
        ("zip-damaged", ["cannot be unpacked"]),
        ("pipe", ["neither a directory nor a file"]),
    ],
)
async def test_a_file_that_can_not_be_restored_is_refused_with_every_reason(
    attic: Ours, files: SnapshotFiles, tmp_path: Path, harm: str, reasons: list[str]
) -> None:
    sound = database(own_key(attic), b"v1.33.5+k3s1")
    text = b"not etcd's" * 4096
    contents = {
        "foreign": database(b"/bootstrap/0123456789ab", b"v1.33.5+k3s1"),
        "no-k3s": database(),
        "no-release": database(own_key(attic)),
        "cut-off": sound[:-1],
        "pages-missing": sound[:-512],
        "flipped": sound[:5000] + b"!" + sound[5001:],
        "empty": b"",
        "text": text[: 512 * 40] + hashlib.sha256(text[: 512 * 40]).digest(),
    }
    file = tmp_path / NAME
    if harm == "pipe":
        os.mkfifo(file)
    elif harm.startswith("zip"):
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("one", os.urandom(20000))
            if harm == "zip-of-two":
                archive.writestr("two", b"")
        if harm == "zip-damaged":
            data = bytearray(file.read_bytes())
            data[5000:6000] = bytes(1000)
            file.write_bytes(data)
    else:
        file.write_bytes(contents[harm])
    with pytest.raises(BadSnapshotError) as refused:
        import_snapshot(files, file, attic)
    for reason in reasons:
        assert reason in refused.value.message
    assert str(file) in refused.value.message
    assert files.everything() == []
    assert not files.directory.exists() or list(files.directory.iterdir()) == []


async def test_the_release_that_a_file_does_not_name_can_be_given(
    attic: Ours, files: SnapshotFiles, tmp_path: Path
) -> None:
    file = written(tmp_path / "nas", database(own_key(attic)))
    with pytest.raises(BadSnapshotError, match="'newest' is no k3s release"):
        import_snapshot(files, file, attic, release="newest")
    info = import_snapshot(files, file, attic, release="v1.33.4+k3s1")
    assert info.k3s_version == "v1.33.4+k3s1"
    corrected = import_snapshot(files, file, attic, release="v1.32.9+k3s1")
    assert corrected == dataclasses.replace(info, k3s_version="v1.32.9+k3s1")
    assert verify(files.place(info.id)) == corrected
    assert len(files.everything()) == 1


async def test_that_a_release_is_guessed_is_said_and_it_can_be_named(
    room: ServersRoom, cluster_yaml: Path, tmp_path: Path
) -> None:
    place = written(tmp_path / "nas", database(own_key(ours(room)), b"v1.33.4+k3s1", b"v1.33.5+k3s1"))

    def typed(*words: str) -> Result:
        return CliRunner().invoke(command, ["import", str(place), "-c", str(cluster_yaml), *words])

    told = typed()
    assert "That k3s v1.33.5+k3s1 wrote it is a guess" in told.output, told.exception
    assert "--k3s-version" in told.output
    assert "guess" not in typed().output, "it was said; somebody may have named another since"
    named = json.loads(typed("--k3s-version", "v1.33.4+k3s1", "--json").output)
    assert (named["k3s_version"], named["k3s_version_is_guess"]) == ("v1.33.4+k3s1", False)
    again = json.loads(typed("--json").output)
    assert (again["k3s_version"], again["k3s_version_is_guess"]) == ("v1.33.4+k3s1", False)
    directory = room.controller.snapshots.files.place(named["id"])
    argv = ["import", str(directory), "-c", str(cluster_yaml), "--k3s-version", "v1.33.4+k3s1"]
    assert CliRunner().invoke(command, argv).exit_code == 2


async def test_a_directory_of_another_cluster_is_refused_with_both_reasons(
    room: ServersRoom, tmp_path: Path
) -> None:
    info = await room.controller.snapshots.take("anna")
    place = room.controller.snapshots.files.place(info.id)
    other = Ours(name="cellar", material=open_k3s(tmp_path / "cellar", "cellar", room.fleet.clock()))
    files = SnapshotFiles(tmp_path / "other" / "snapshots")
    with pytest.raises(BadSnapshotError, match="it is of cluster 'attic', this is 'cellar'; its CA is"):
        import_snapshot(files, place, other)
    assert not files.directory.exists()
    assert import_snapshot(files, place, ours(room)) == info
    (files.place(info.id) / DATA).write_bytes(b"")
    assert import_snapshot(files, place, ours(room)) == info, "a damaged one gives way"
    assert verify(files.place(info.id)) == info


async def test_no_schedule_counts_or_deletes_what_a_person_brought(room: ServersRoom, tmp_path: Path) -> None:
    desk = room.controller.snapshots
    newer = int(room.fleet.clock()) + 600
    file = written(tmp_path, database(own_key(ours(room)), b"v1.33.5+k3s1"), f"on-demand-s1-{newer}")
    brought = import_snapshot(desk.files, file, ours(room))
    assert await desk.round() is not None, "it is not the one that the schedule asks for"
    room.fleet.clock.advance(3601.0)
    newest = await desk.round()
    assert newest is not None
    assert {one.id for one in desk.everything()} == {newest.id, brought.id}
    assert desk.health().count == 1
    assert desk.files.prune(1, frozenset, imported=True) == (brought.id,)


async def test_what_lies_among_the_snapshots_under_another_name_is_said(
    room: ServersRoom, tmp_path: Path, cluster_yaml: Path
) -> None:
    files = room.controller.snapshots.files
    info = await room.controller.snapshots.take("anna")
    renamed = f"{info.id[:-6]}ffffff"
    shutil.copytree(files.place(info.id), files.directory / renamed)
    written(files.directory, b"", "etcd.db")
    assert set(files.everything()) == {
        info,
        Damaged(renamed, f"it is snapshot {info.id} under another name"),
    }
    assert files.strays() == ("etcd.db",)
    file = cluster_yaml
    listed = CliRunner().invoke(command, ["list", "-c", str(file)], catch_exceptions=False)
    assert "etcd.db is no snapshot as they are kept" in listed.output
    nas = tmp_path / "nas" / "copy"
    shutil.copytree(files.place(info.id), nas)
    shutil.rmtree(files.place(info.id))
    argv = ["import", str(nas), "--json", "-c", str(file)]
    done = CliRunner().invoke(command, argv, catch_exceptions=False)
    assert json.loads(done.output)["sha256"] == info.sha256
    assert files.info(info.id) == info
    (nas / MANIFEST).unlink()
    with pytest.raises(FleetError, match="its manifest cannot be read"):
        CliRunner().invoke(command, ["import", str(nas), "-c", str(file)], catch_exceptions=False)
