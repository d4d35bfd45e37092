"""Backup and restore: the same record and the same keys, between both databases, while somebody writes."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import fakes_fleet
import pexpect
import pytest
import zstandard
from fakes_fleet import NOW, Clock, Fleet, cluster_spec, hardware_of, open_fleet, status_report
from fakes_spec import changed
from fleet_story import AGENT, SERVER, enrol, install, kube_ready, texts
from postgres_server import PostgresServer

from agent.protocol import K3sState
from fleet.backup import BackupError, make_backup, restore_backup, verify_backup
from fleet.lifecycle import State
from fleet.restored import epoch_of
from fleet.secret import Secret
from fleet.spec.model import ClusterSpec, Role
from fleet.store.database import Store
from fleet.store.dump import dump_rows
from fleet.store.transaction import Reader
from fleet.store_place import Place
from fleet.timeline import Entry, Kind

pytestmark = pytest.mark.integration

SPEC = cluster_spec(SERVER, AGENT)
PASSPHRASE = Secret("correct horse battery staple")
FIRST_REVISION = Path(__file__).parents[2] / "data" / "store-0001.sql"
JSON_COLUMNS = {("boards", "macs"), ("nodes", "status"), ("events", "detail")}
LOW = 10
"""scrypt's work factor in these tests: a megabyte and a millisecond."""


@pytest.fixture(params=["sqlite", "postgres"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where the record is restored to; with `backend`, every pair of databases."""
    if request.param == "sqlite":
        return tmp_path / "new" / "control.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


def open_at(
    state: Path, place: Place, spec: ClusterSpec, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> Fleet:
    monkeypatch.setattr(fakes_fleet, "store_place", lambda _state: place)
    return open_fleet(state, spec, clock)


def ready_fleet(state: Path, clock: Clock) -> tuple[Fleet, str]:
    """A server that runs and an agent that was never seen; the server's certificate."""
    fleet = open_fleet(state, SPEC, clock)
    install(fleet, SERVER)
    certificate = enrol(fleet, SERVER)
    report = status_report(hardware_of(SERVER), 1, k3s=K3sState.RUNNING)
    fleet.controller.joins.status(certificate, report)
    fleet.controller.watch.apply_kubernetes(kube_ready(SERVER))
    return fleet, certificate


def backup_of(
    fleet: Fleet, state: Path, target: Path, clock: Clock, passphrase: Secret | None = None
) -> Path:
    make_backup(
        "attic", state, fleet.store.place, target, passphrase=passphrase, clock=clock, work_factor=LOW
    )
    return target


@pytest.mark.usefixtures("backend")
def test_a_restored_server_goes_on_with_its_nodes_and_keys(
    tmp_path: Path, target: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, old, new = Clock(), tmp_path / "old", tmp_path / "new"
    old.mkdir()
    fleet, certificate = ready_fleet(old, clock)
    with fleet.store.read() as reader:
        before = reader.require_node("pi5-1")
        timeline = [event.text for event in reader.timeline()]
    file = backup_of(fleet, old, tmp_path / "attic.bramble", clock)  # beside the open server
    assert file.stat().st_mode & 0o777 == 0o600
    fleet.store.close()
    clock.advance(3600)
    manifest = restore_backup("attic", file, new, target, clock=clock)
    assert (manifest.nodes, manifest.epoch) == (2, 0)
    for name in ("control-ca.key", "ticket.key", "k3s/token", "k3s/etcd/peer-ca.key"):
        assert (new / name).read_bytes() == (old / name).read_bytes()
        assert (new / name).stat().st_mode & 0o777 == 0o600
    assert new.stat().st_mode & 0o777 == 0o700
    restored = open_at(new, target, SPEC, clock, monkeypatch)
    try:
        with restored.store.read() as reader:
            after = reader.require_node("pi5-1")
            assert (after.standing, after.status, after.node_password) == (
                before.standing,
                before.status,
                before.node_password,
            )
            assert [event.text for event in reader.timeline()][: len(timeline)] == timeline
        # The node's certificate is known, and its next report ends the doubt.
        assert restored.pki.ca_pem == fleet.pki.ca_pem
        report = status_report(hardware_of(SERVER), 2, k3s=K3sState.RUNNING)
        restored.controller.joins.status(certificate, report)
        assert "observed again after the restore" in texts(restored, "pi5-1")[-1]
        with restored.store.write() as tx:
            tx.add_event(Entry(kind=Kind.BOOT, text="ids go on"), clock())
            assert tx.timeline()[-1].id > len(timeline)
    finally:
        restored.store.close()


def test_how_far_it_is_is_told_and_never_goes_back(tmp_path: Path) -> None:
    clock, old = Clock(), tmp_path / "old"
    old.mkdir()
    fleet, _certificate = ready_fleet(old, clock)
    told: list[tuple[str, float]] = []

    def tell(step: str, share: float) -> None:
        told.append((step, share))

    file = tmp_path / "attic.bramble"
    make_backup("attic", old, fleet.store.place, file, clock=clock, progress=tell)
    fleet.store.close()
    assert list(dict(told)) == ["reading the record", "packing", "reading it back"]
    assert [share for _step, share in told] == sorted(share for _step, share in told)
    assert told[-1][1] == pytest.approx(1.0)
    told.clear()
    new = tmp_path / "new"
    restore_backup("attic", file, new, new / "control.db", clock=clock, progress=tell)
    assert list(dict(told)) == ["checking the backup", "writing the record", "writing keys and settings"]
    assert [share for _step, share in told] == sorted(share for _step, share in told)


def test_a_backup_taken_while_somebody_writes_is_one_moment(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, old = Clock(), tmp_path / "old"
    old.mkdir()
    fleet = open_fleet(old, SPEC, clock)
    lines = dump_rows

    def write_meanwhile(reader: Reader) -> object:
        for line in lines(reader):
            with fleet.store.write() as tx:
                count = int(tx.value("count") or 0) + 1
                tx.put_value("count", str(count))
                tx.add_event(Entry(kind=Kind.BOOT, text=f"count {count}"), NOW)
            yield line

    with fleet.store.write() as tx:
        tx.put_value("count", "0")
    monkeypatch.setattr("fleet.backup.dump_rows", write_meanwhile)
    file = backup_of(fleet, old, tmp_path / "attic.bramble", clock)
    fleet.store.close()
    monkeypatch.setattr("fleet.backup.dump_rows", lines)
    restore_backup("attic", file, tmp_path / "new", tmp_path / "new" / "control.db", clock=clock)
    store = Store.open(tmp_path / "new" / "control.db")
    try:
        with store.read() as reader:
            counted = [event.text for event in reader.timeline() if event.text.startswith("count ")]
            assert (reader.value("count"), counted) == ("0", [])
    finally:
        store.close()


def test_age_itself_opens_an_encrypted_backup(tmp_path: Path) -> None:
    age = shutil.which("age")
    if age is None:
        pytest.skip("there is no age: package age")
    clock = Clock()
    fleet, _certificate = ready_fleet(tmp_path / "old", clock)
    file = backup_of(fleet, tmp_path / "old", tmp_path / "attic.age", clock, PASSPHRASE)
    fleet.store.close()
    assert b"PRIVATE KEY" not in file.read_bytes()
    plain = tmp_path / "plain"
    child = pexpect.spawn(age, ["-d", "-o", str(plain), str(file)], timeout=120)
    child.expect("passphrase")
    child.sendline(PASSPHRASE.reveal())
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    with zstandard.open(plain, "rb") as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        names = [member.name for member in archive]
    assert names[:2] == ["manifest.json", "store.jsonl"]
    assert "state/k3s/token" in names


def test_what_age_encrypted_is_opened(tmp_path: Path) -> None:
    age = shutil.which("age")
    if age is None:
        pytest.skip("there is no age: package age")
    fleet, _certificate = ready_fleet(tmp_path / "old", Clock())
    plain = backup_of(fleet, tmp_path / "old", tmp_path / "plain.bramble", Clock())
    fleet.store.close()
    locked = tmp_path / "locked.bramble"
    child = pexpect.spawn(age, ["-p", "-o", str(locked), str(plain)], timeout=120)
    for _ in range(2):
        child.expect("passphrase")
        child.sendline(PASSPHRASE.reveal())
    child.expect(pexpect.EOF)
    assert verify_backup(locked, PASSPHRASE).is_encrypted


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    fleet, _certificate = ready_fleet(tmp_path / "old", Clock())
    file = backup_of(fleet, tmp_path / "old", tmp_path / "attic.bramble", Clock())
    locked = tmp_path / "locked.bramble"
    backup_of(fleet, tmp_path / "old", locked, Clock(), PASSPHRASE)
    fleet.store.close()
    return file


@pytest.mark.parametrize("name", ["attic.bramble", "locked.bramble"])
def test_a_backup_that_was_cut_off_or_changed_is_refused_and_leaves_nothing(
    sound: Path, tmp_path: Path, name: str
) -> None:
    file = sound.with_name(name)
    whole = file.read_bytes()
    passphrase = PASSPHRASE if name.startswith("locked") else None
    damaged = [whole[: len(whole) * part // 16] for part in range(16)]
    for place in range(300, len(whole), len(whole) // 16):
        damaged.append(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    state = tmp_path / "new"
    for data in damaged:
        file.write_bytes(data)
        with pytest.raises(BackupError):
            restore_backup("attic", file, state, state / "control.db", passphrase=passphrase)
        assert not list(tmp_path.glob("*new*"))


def unpack(file: Path) -> dict[str, bytes]:
    with zstandard.open(file, "rb") as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        return {one.name: (archive.extractfile(one) or stream).read() for one in archive}


def rewrite(file: Path, change: dict[str, bytes | None], extra: dict[str, bytes] | None = None) -> None:
    """Pack the archive anew, with members changed; an attacker can do no more to a plain backup."""
    found = unpack(file)
    found |= {name: data for name, data in change.items() if data is not None}
    with zstandard.open(file, "wb") as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
        for name, data in [*found.items(), *(extra or {}).items()]:
            if change.get(name, b"") is not None:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize(
    ("change", "extra", "words"),
    [
        ({"state/ticket.key": b"other"}, {}, "not what its manifest says"),
        ({"state/ticket.key": None}, {}, "lacks state/ticket.key"),
        ({}, {"state/more": b"x"}, "holds 'state/more'"),
        ({}, {"../outside": b"x"}, "which it should not"),
        ({"manifest.json": b"{}"}, {}, "manifest is unsound"),
        ({"manifest.json": b"no json"}, {}, "manifest is unsound"),
        ({"manifest.json": b'{"format": 9}'}, {}, "has format 9"),
    ],
    ids=["changed", "missing", "more", "outside", "empty-manifest", "no-json", "newer-format"],
)
def test_an_archive_that_does_not_fit_its_manifest_is_refused(
    sound: Path, tmp_path: Path, change: dict[str, bytes | None], extra: dict[str, bytes], words: str
) -> None:
    rewrite(sound, change, extra)
    with pytest.raises(BackupError, match=words):
        restore_backup("attic", sound, tmp_path / "new", tmp_path / "new" / "control.db")
    assert not list(tmp_path.glob("*new*"))


@pytest.mark.parametrize("name", ["state/../../outside", "/etc/outside", "state/control.db", "state/.x", "x"])
def test_a_manifest_that_names_other_places_is_refused(sound: Path, tmp_path: Path, name: str) -> None:
    manifest = json.loads(unpack(sound)["manifest.json"])
    manifest["members"][name] = {
        "sha256": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
        "size": 1,
    }
    rewrite(sound, {"manifest.json": json.dumps(manifest).encode()}, {name: b"x"})
    with pytest.raises(BackupError, match="which it should not"):
        restore_backup("attic", sound, tmp_path / "new", tmp_path / "new" / "control.db")
    assert not list(tmp_path.rglob("outside"))


def test_other_passphrases_and_none_are_told_apart(sound: Path) -> None:
    locked = sound.with_name("locked.bramble")
    with pytest.raises(BackupError, match="passphrase is another"):
        verify_backup(locked, Secret("wrong"))
    with pytest.raises(BackupError, match="is encrypted"):
        verify_backup(locked)


def test_a_state_that_is_there_is_not_replaced(sound: Path, tmp_path: Path) -> None:
    state = tmp_path / "new"
    state.mkdir()
    (state / "ticket.key").write_text("mine")
    with pytest.raises(BackupError, match="holds a server's state already") as refused:
        restore_backup("attic", sound, state, state / "control.db")
    assert "mv " in refused.value.hint
    assert [path.name for path in state.iterdir()] == ["ticket.key"]


def test_a_database_that_holds_a_record_is_not_filled(
    sound: Path, tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = postgres.new_database()
    open_at(tmp_path / "other", place, cluster_spec(AGENT), Clock(), monkeypatch).store.close()
    with pytest.raises(BackupError, match="holds a record already"):
        restore_backup("attic", sound, tmp_path / "new", place)
    assert not (tmp_path / "new").exists()


def test_a_second_server_of_a_restored_database_gets_the_keys_and_leaves_the_record(
    sound: Path, tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = postgres.new_database()
    real = Path.rename

    def cut(*_args: object) -> None:
        raise OSError(5, "the power failed")

    monkeypatch.setattr(Path, "rename", cut)
    with pytest.raises(BackupError, match="power failed"):
        restore_backup("attic", sound, tmp_path / "new", place)
    assert not list(tmp_path.glob("*new*"))
    monkeypatch.setattr(Path, "rename", real)
    store = Store.open(place)
    with store.write() as tx:
        tx.add_event(Entry(kind=Kind.BOOT, text="after the restore"), NOW)
    store.close()
    for name in ("new", "second"):
        restore_backup("attic", sound, tmp_path / name, place)
        assert (tmp_path / name / "ticket.key").read_bytes() == (tmp_path / "old" / "ticket.key").read_bytes()
    store = Store.open(place)
    with store.read() as reader:
        assert epoch_of(reader) == 1
        assert reader.timeline()[-1].text == "after the restore"
    store.close()


def test_another_clusters_backup_is_refused(sound: Path, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="is a backup of cluster 'attic'"):
        restore_backup("cellar", sound, tmp_path / "new", tmp_path / "new" / "control.db")


def test_a_backup_of_older_tables_is_brought_up_to_date(sound: Path, tmp_path: Path, target: Place) -> None:
    with sqlite3.connect(":memory:") as connection:
        connection.row_factory = sqlite3.Row
        connection.executescript(FIRST_REVISION.read_text("utf-8"))
        rows = [
            [
                table,
                {
                    key: json.loads(row[key]) if (table, key) in JSON_COLUMNS else row[key]
                    for key in tuple(row.keys())
                },
            ]
            for table in ("boards", "nodes", "intents", "tickets", "events", "kv")
            for row in connection.execute(f"SELECT * FROM {table}")  # noqa: S608  (names of this line above)
        ]
    connection.close()
    data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    manifest = json.loads(unpack(sound)["manifest.json"])
    manifest["revision"] = "0001"
    manifest["members"]["store.jsonl"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    rewrite(sound, {"store.jsonl": data, "manifest.json": json.dumps(manifest).encode()})
    restore_backup("attic", sound, tmp_path / "new", target)
    store = Store.open(target)
    try:
        with store.read() as reader:
            node = reader.require_node("pi5-1")
            assert (node.state, node.role, node.status_sequence) == (State.READY, Role.SERVER, 41)
            assert reader.intent_of_token("cd" * 32) is not None
            assert reader.value("k3s.founded") == "pi5-1"
    finally:
        store.close()


def test_commands_back_up_verify_and_restore(tmp_path: Path) -> None:
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(changed())
    secret = tmp_path / "passphrase"
    secret.write_text("a passphrase\n")
    fleet = open_fleet(tmp_path / "states" / "attic", SPEC, Clock())
    fleet.store.close()

    def bramble(states: str, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bramble.cli", *argv, str(cluster)],
            env={"BRAMBLE_STATE_DIR": str(tmp_path / states), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    file = str(tmp_path / "attic.bramble")
    done = bramble("states", "backup", "--passphrase-file", str(secret), file)
    assert done.returncode == 0, done.stderr
    assert "2 nodes" in done.stdout
    again = bramble("states", "backup", file)
    assert (again.returncode, "exists already" in again.stderr) == (1, True)
    shown = bramble("states", "restore", "--verify", "--json", "--passphrase-file", str(secret), file)
    assert json.loads(shown.stdout)["encrypted"] is True
    refused = bramble("states", "restore", "--passphrase-file", str(secret), file)
    assert (refused.returncode, "holds a server's state" in refused.stderr) == (1, True)
    done = bramble("elsewhere", "restore", "--passphrase-file", str(secret), file)
    assert done.returncode == 0, done.stderr
    listed = bramble("elsewhere", "nodes", "--json")
    assert {node["name"] for node in json.loads(listed.stdout)["nodes"]} == {"pi4-1", "pi5-1"}
    assert "is in force again, so before 'bramble serve'" in done.stdout
    assert "restore again with --revoke NODE" in done.stdout
    unknown = bramble("third", "restore", "--passphrase-file", str(secret), "--revoke", "pi9", file)
    assert (unknown.returncode, "no node 'pi9'" in unknown.stderr) == (1, True)
    done = bramble("third", "restore", "--passphrase-file", str(secret), "--revoke", "pi4-1", file)
    assert done.returncode == 0, done.stderr
    shown = bramble("third", "show", "pi4-1")
    assert "revoked by a person" in shown.stdout
