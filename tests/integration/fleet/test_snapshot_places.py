"""Snapshots where several have a hand in them: processes on one directory, copies from elsewhere, and control
servers that share one record and not their disks.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from click.testing import CliRunner, Result
from fakes_fleet import cluster_spec, open_fleet
from postgres_server import PostgresServer
from servers_room import S1, S2, S3, ServersRoom, servers_room

from fleet.api.doors import serve_admin
from fleet.cli.questions import DeclinedError
from fleet.cli.snapshot import snapshot as command
from fleet.errors import FleetError
from fleet.etcd.errors import BadSnapshotError
from fleet.refusal import RefusedError
from fleet.snapshots.desk import SnapshotDesk
from fleet.snapshots.files import BROUGHT_IN, SnapshotFiles
from fleet.snapshots.manifest import DATA, KEYS, MANIFEST, SnapshotInfo, verify
from fleet.snapshots.places import Place, elsewhere, forget, forget_unseen
from fleet.store.database import Store

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

OTHER_PROCESS = """
import sys
from pathlib import Path
from fleet.snapshots.files import SnapshotFiles
with SnapshotFiles(Path(sys.argv[1])).staged() as staged:
    (staged / "etcd.db").write_bytes(b"half")
    print(staged.name, flush=True)
    sys.stdin.read()
    print(sorted(path.name for path in staged.iterdir()), flush=True)
"""


@pytest_asyncio.fixture
async def room(tmp_path: Path) -> AsyncIterator[ServersRoom]:
    async with servers_room(tmp_path / "attic") as made:
        yield made


def start_other(directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
    )


async def test_what_another_process_is_making_is_left_alone_and_what_a_dead_one_left_is_not(
    room: ServersRoom,
) -> None:
    files = room.controller.snapshots.files
    with start_other(files.directory) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        name = other.stdout.readline().strip()
        info = await room.controller.snapshots.take("anna")
        assert sorted(path.name for path in files.directory.iterdir()) == sorted([name, info.id])
        other.stdin.close()
        assert other.stdout.readline().strip() == "['etcd.db']"
    with start_other(files.directory) as killed:
        assert killed.stdout is not None
        left = killed.stdout.readline().strip()
        killed.kill()
    assert (files.directory / left).is_dir()
    with files.staged():
        assert not (files.directory / left).exists()


async def test_of_a_copy_only_the_snapshots_own_files_are_brought_in(
    room: ServersRoom, tmp_path: Path
) -> None:
    """A NAS leaves directories of its own, and a person may have put anything beside them."""
    info = await room.controller.snapshots.take("anna")
    copy = tmp_path / "nas" / "copy"
    shutil.copytree(room.controller.snapshots.files.place(info.id), copy)
    (copy / "@eaDir").mkdir()
    os.mkfifo(copy / "pipe")
    elsewhere = SnapshotFiles(tmp_path / "other" / "snapshots")
    elsewhere.directory.parent.mkdir()
    assert elsewhere.bring_in(copy) == info
    place = elsewhere.place(info.id)
    assert verify(place) == info
    assert {path.name: path.stat().st_mode & 0o777 for path in place.iterdir()} == dict.fromkeys(
        (DATA, KEYS, MANIFEST, BROUGHT_IN), 0o600
    )
    assert elsewhere.bring_in(copy) == info, "again is no mistake"


def _without(name: str) -> Callable[[Path], None]:
    return lambda place: (place / name).unlink()


def _as_directory(place: Path) -> None:
    (place / DATA).unlink()
    (place / DATA).mkdir()


def _elsewhere(place: Path) -> None:
    manifest = json.loads((place / MANIFEST).read_text())
    (place / MANIFEST).write_text(json.dumps({**manifest, "id": "../../outside"}))


HARMS = {
    "no-data": _without(DATA),
    "no-keys": _without(KEYS),
    "no-manifest": _without(MANIFEST),
    "data-is-a-directory": _as_directory,
    "id-leads-out": _elsewhere,
}


async def test_a_copy_that_is_none_is_refused_with_what_is_wrong(room: ServersRoom, tmp_path: Path) -> None:
    info = await room.controller.snapshots.take("anna")
    for name, harm in HARMS.items():
        copy = tmp_path / name / "copy"
        shutil.copytree(room.controller.snapshots.files.place(info.id), copy)
        harm(copy)
        elsewhere = SnapshotFiles(tmp_path / name / "other")
        with pytest.raises(BadSnapshotError):
            elsewhere.bring_in(copy)
        assert not elsewhere.directory.exists() or list(elsewhere.directory.iterdir()) == [], name
        assert not (tmp_path / "outside").exists()


async def test_what_another_process_pruned_meanwhile_is_no_mistake(
    room: ServersRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = room.controller.snapshots
    taken = [await desk.take("anna"), await desk.take("anna")]
    ids = tuple(info.id for info in taken)
    monkeypatch.setattr(desk.files, "surplus", lambda _keep, _wanted: ids)  # what it saw before
    shutil.rmtree(desk.files.place(ids[0]))
    assert desk.prune(1) == ids
    assert desk.everything() == []


async def test_another_server_tells_where_a_snapshot_is_and_how_to_bring_it(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = postgres.new_database()
    monkeypatch.setattr("fakes_fleet.store_place", lambda _state: place)
    async with servers_room(tmp_path / "attic") as room:
        taken = await room.controller.snapshots.take("anna")
        room.controller.snapshots.place = here = Place("first", "/var/lib/bramble/attic/snapshots")
        room.controller.snapshots.note_place()
        second = open_fleet(tmp_path / "second", cluster_spec(S1, S2, S3), room.fleet.clock)
        try:
            desk: SnapshotDesk = second.controller.snapshots
            assert desk.everything() == []
            (kept,) = desk.elsewhere()
            assert (kept.id, kept.taken_at, kept.place) == (taken.id, taken.taken_at, here)
            with pytest.raises(RefusedError, match="is kept on first, in /var/lib/bramble") as refused:
                await second.controller.recovery.plan(taken.id)
            assert f"rsync -a first:/var/lib/bramble/attic/snapshots/{taken.id} ." in refused.value.hint
            assert f"bramble recover --snapshot ./{taken.id}" in refused.value.hint
            assert _listed(monkeypatch, tmp_path, place.url)["elsewhere"] == [
                {
                    "id": taken.id,
                    "taken_at": taken.taken_at,
                    "host": here.host,
                    "directory": here.directory,
                    "seen_at": room.fleet.clock(),
                }
            ]
            for name in ("s1", "s2", "s3"):
                room.etcd.set_health(name, False)
            await room.controller.recovery.begin(taken.id, by="anna")
            view = second.controller.recovery.status()
            assert view is not None
            assert view.taken_at == taken.taken_at
            assert "s1 needs it here if it asks this server" in view.waits_for[0]
            desk.files.bring_in(room.controller.snapshots.files.place(taken.id))
            view = second.controller.recovery.status()
            assert view is not None
            assert "needs it here" not in " ".join(view.waits_for)
            room.fleet.clock.advance(3601.0)
            room.controller.snapshots.note_place()
            assert [kept.seen_at for kept in desk.elsewhere()] == [room.fleet.clock()], "once an hour"
            assert "within an hour" in desk.forget_place("first", None)
            assert desk.elsewhere() == ()
            room.fleet.clock.advance(3601.0)
            room.controller.snapshots.note_place()
            assert [kept.host for kept in desk.elsewhere()] == ["first"], "who is alive tells again"
            room.controller.snapshots.files.remove(taken.id)
            room.controller.snapshots.note_place()
            assert desk.elsewhere() == ()
        finally:
            second.store.close()


def _listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str) -> dict[str, Any]:
    """What `bramble snapshot list` says on the machine of a server that keeps none."""
    monkeypatch.setenv("BRAMBLE_STATE_DIR", str(tmp_path / "third"))
    monkeypatch.setenv("BRAMBLE_STORE", url)
    file = _cluster_file(tmp_path)
    text = CliRunner().invoke(command, ["list", "-c", str(file)], catch_exceptions=False).output
    assert "kept on first" in text
    done = CliRunner().invoke(command, ["list", "--json", "-c", str(file)], catch_exceptions=False)
    found: dict[str, Any] = json.loads(done.output)
    return found


def _cluster_file(directory: Path) -> Path:
    file = directory / "cluster.yaml"
    file.write_text(
        "version: 1\ncluster: {name: attic, domain: attic.internal, k3s: {version: v1.33.5+k3s1}}\n"
        "image: {base: debian-trixie}\nnetwork: {interface: lo, dhcp: full, subnet: 10.77.0.0/24}\n"
        "nodes:\n"
        "  - {name: s1, board: pi5, role: server, serial: 10000000abcd0001, address: 10.77.0.11}\n"
        "defaults: {disk: nvme}\n"
    )
    return file


DAY_S = 86400.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "record" / "control.db")
    yield opened
    opened.close()


def an_info(info: SnapshotInfo, number: int) -> SnapshotInfo:
    return dataclasses.replace(info, id=f"{info.id[:-1]}{number}")


async def test_a_machine_that_gets_another_name_is_the_same_place(room: ServersRoom, store: Store) -> None:
    info = await room.controller.snapshots.take("anna")
    directory = room.controller.snapshots.files.directory
    before = Place("rack-1", str(directory)).marked(directory)
    with store.write() as tx:
        before.note(tx, [info], 0.0)
        after = Place("rack-2", str(directory)).marked(directory)
        assert after.mark == before.mark
        after.note(tx, [info], 1.0)
        assert elsewhere(tx, after) == ()
        (seen,) = elsewhere(tx, Place("other", "/elsewhere", "0" * 32))
        assert (seen.host, seen.seen_at) == ("rack-2", 1.0)
        after.note(tx, [], 2.0)
        assert elsewhere(tx, Place("other", "/elsewhere", "0" * 32)) == ()
    assert room.controller.snapshots.everything() == [info], "the mark is no snapshot"
    copy = directory.with_name("copy")
    shutil.copytree(directory, copy)
    assert Place("rack-3", str(copy)).marked(copy).mark not in ("", after.mark)


async def test_two_machines_of_one_name_do_not_overwrite_each_other(room: ServersRoom, store: Store) -> None:
    info = await room.controller.snapshots.take("anna")
    one, two = (Place("bramble", "/var/lib/bramble/attic/snapshots", mark * 32) for mark in "ab")
    with store.write() as tx:
        one.note(tx, [info], 0.0)
        two.note(tx, [an_info(info, 1)], 0.0)
        assert [kept.id for kept in elsewhere(tx, one)] == [an_info(info, 1).id]
        assert [kept.id for kept in elsewhere(tx, two)] == [info.id]


async def test_what_an_older_release_wrote_is_read_and_gives_way(room: ServersRoom, store: Store) -> None:
    info = await room.controller.snapshots.take("anna")
    here = Place("first", "/var/lib/bramble", "a" * 32)
    with store.write() as tx:
        tx.put_json("snapshots-at.first:/var/lib/bramble", {info.id: info.taken_at})
        tx.put_json("snapshots-at.second:/var/lib/bramble", {info.id: info.taken_at})
        (seen,) = elsewhere(tx, here)
        assert (seen.host, seen.directory, seen.seen_at) == ("second", "/var/lib/bramble", None)
        here.note(tx, [info], info.taken_at)
        assert set(tx.values("snapshots-at.")) == {"snapshots-at.second:/var/lib/bramble"}


@pytest.mark.parametrize("release", ["this", "older"])
async def test_a_machine_that_is_gone_is_forgotten_in_time(
    room: ServersRoom, store: Store, release: str
) -> None:
    info = await room.controller.snapshots.take("anna")
    here, dead = Place("here", "/h", "a" * 32), Place("dead", "/d", "b" * 32)
    with store.write() as tx:
        if release == "this":
            dead.note(tx, [info], info.taken_at)
        else:
            tx.put_json("snapshots-at.dead:/d", {info.id: info.taken_at})
        here.note(tx, [info], info.taken_at)
        assert forget_unseen(tx, here, info.taken_at + 29 * DAY_S) == ()
        (gone,) = forget_unseen(tx, here, info.taken_at + 31 * DAY_S)
        assert (gone.host, gone.directory) == ("dead", "/d")
        assert elsewhere(tx, here) == ()
        assert len(tx.values("snapshot-place.")) == 1, "its own stays, whatever the clock says"


async def test_a_person_has_a_place_forgotten_by_its_name_and_no_other(
    room: ServersRoom, store: Store
) -> None:
    info = await room.controller.snapshots.take("anna")
    here, other = Place("here", "/h", "a" * 32), Place("there", "/t", "b" * 32)
    with store.write() as tx:
        for place in (here, other, Place("there", "/u", "c" * 32)):
            place.note(tx, [info], 0.0)
        with pytest.raises(RefusedError, match="no other machine nowhere") as unknown:
            forget(tx, here, "nowhere", None)
        assert "there (/t), there (/u)" in unknown.value.hint
        with pytest.raises(RefusedError, match="this very server's"):
            forget(tx, here, "here", None)
        assert [place.directory for place in forget(tx, here, "there", "/u")] == ["/u"]
        assert [kept.directory for kept in elsewhere(tx, here)] == ["/t"]
        assert [place.directory for place in forget(tx, here, "there", None)] == ["/t"]
        assert elsewhere(tx, here) == ()


async def test_a_place_is_forgotten_from_the_keyboard(
    room: ServersRoom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = await room.controller.snapshots.take("anna")
    with room.fleet.store.write() as tx:
        Place("dead", "/d", "b" * 32).note(tx, [info], 0.0)
    monkeypatch.setenv("BRAMBLE_STATE_DIR", str(tmp_path))
    file = _cluster_file(tmp_path)

    async def typed(*argv: str) -> Result:
        words = ["forget", *argv, "-c", str(file)]
        typing = asyncio.to_thread(CliRunner().invoke, command, words, input="n\n")
        return await asyncio.wait_for(typing, 60)

    async with serve_admin(room.controller, tmp_path / "attic" / "control.sock"):
        assert (await typed("dead")).exit_code == 2, "nobody is there to say yes"
        monkeypatch.setattr("fleet.cli.questions.is_terminal", lambda: True)
        asked = await typed("dead")
        assert isinstance(asked.exception, DeclinedError)
        assert "dead is said to keep 1 snapshot in /d, the newest " in asked.stderr
        assert len(room.controller.snapshots.elsewhere()) == 1
        for unknown in (("rack-9",), ("dead", "--directory", "/elsewhere")):
            refused = await typed(*unknown)
            assert "no other machine" in str(refused.exception)
            assert refused.stderr == "", "there is nothing to ask"
        done = await typed("dead", "--yes", "--json")
        assert "what dead (/d) keeps is forgotten" in json.loads(done.output)["message"]
        assert room.controller.snapshots.elsewhere() == ()
        again = await typed("dead", "--yes")
        assert isinstance(again.exception, FleetError)
        assert "no other machine dead" in again.exception.message


async def test_a_server_that_has_its_record_to_itself_writes_down_no_place(room: ServersRoom) -> None:
    await room.controller.snapshots.take("anna")
    room.controller.snapshots.note_place()
    assert room.controller.snapshots.elsewhere() == ()
    with room.fleet.store.read() as reader:
        assert reader.values("snapshot-place.") == {}
