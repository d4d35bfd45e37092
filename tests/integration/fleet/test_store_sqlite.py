"""The store as a SQLite file: modes, one writer, damage, a full disk, and files of older releases."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes_fleet import NOW, cluster_spec, node_spec, open_fleet

from fleet.lifecycle import State
from fleet.store.database import Store, StoreError
from fleet.timeline import Entry, Kind

pytestmark = pytest.mark.integration

FIRST_REVISION = Path(__file__).parents[2] / "data" / "store-0001.sql"
"""What the first release wrote for one installed node: `sqlite3 control.db .dump`."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    open_fleet(tmp_path, cluster_spec(node_spec("pi4-1", 1))).store.close()
    opened = Store.open(tmp_path / "control.db")
    yield opened
    opened.close()


def path_of(store: Store) -> Path:
    assert isinstance(store.place, Path)
    return store.place


def test_files_are_their_owners_alone(store: Store) -> None:
    with store.write() as tx:
        tx.put_value("k", "v")
        modes = {path.name: path.stat().st_mode & 0o777 for path in path_of(store).parent.glob("control.db*")}
    assert {"control.db", "control.db-wal", "control.db-shm", "control.db.lock"} <= modes.keys()
    assert set(modes.values()) == {0o600}


def test_second_writer_is_told_who_may_be_running(store: Store) -> None:
    with pytest.raises(StoreError, match="in use by another process"):
        Store.open(path_of(store))


def test_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    path.write_bytes(b"not a database, but somebody's file" * 100)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="not a usable database"):
        Store.open(path)
    assert path.read_bytes() == before


def test_missing_record_says_when_it_is_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no record of this cluster") as missing:
        Store.open_readonly(tmp_path / "control.db")
    assert "bramble serve" in missing.value.hint


def test_full_disk_is_told_and_changes_nothing(store: Store) -> None:
    with store.write() as tx:
        tx.connection.exec_driver_sql("PRAGMA max_page_count=1")
    large = Entry(kind=Kind.BOOT, text="a line", detail={"filler": "x" * 1_000_000})
    with pytest.raises(StoreError, match="disk is full"), store.write() as tx:
        tx.add_event(large, NOW)
    with store.read() as reader:
        assert [event.text for event in reader.timeline()] == ["declared in cluster.yaml"]


def test_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        Store.open(tmp_path / "file" / "control.db")


def test_damaged_file_is_a_store_error_for_readers(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"no database " * 1000)
    reader = Store.open_readonly(garbage)
    try:
        with pytest.raises(StoreError, match="cannot be read"), reader.read() as view:
            view.nodes()
    finally:
        reader.close()


def test_file_of_the_first_release_opens_with_all_that_it_held(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(FIRST_REVISION.read_text("utf-8"))
    connection.close()
    store = Store.open(path)
    try:
        with store.read() as reader:
            node = reader.require_node("pi5-1")
            assert (node.state, node.generation, node.boots) == (State.READY, 1, 1)
            assert node.node_password.reveal() == "0123456789abcdef0123456789abcdef"
            assert node.status is not None
            assert node.status["k3s"] == "running"
            assert reader.timeline(node="pi5-1")[0].text == "declared in cluster.yaml"
            assert reader.value("k3s.founder") == "pi5-1"
            assert reader.tickets("pi5-1")[0].used_by == "ab" * 32
            intent = reader.intent_of_token("cd" * 32)
            assert intent is not None
            assert (intent.installation, intent.why) == (None, "installed")
    finally:
        store.close()


def test_torn_end_of_the_log_loses_no_more_than_what_was_torn(store: Store, tmp_path: Path) -> None:
    for number in range(20):
        with store.write() as tx:
            tx.put_value("k", str(number))
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("control.db", "control.db-wal"):
        (copy / name).write_bytes((tmp_path / name).read_bytes())
    log = copy / "control.db-wal"
    whole = log.read_bytes()
    seen = set()
    for keep in range(len(whole) - 9000, len(whole), 700):
        for name in ("control.db", "control.db-wal"):
            (copy / name).write_bytes((tmp_path / name).read_bytes())
        log.write_bytes(whole[:keep] + b"\xa5" * 300)
        opened = Store.open(copy / "control.db")
        try:
            with opened.read() as reader:
                seen.add(int(reader.value("k") or -1))
                assert reader.require_node("pi4-1").state is State.DECLARED
        finally:
            opened.close()
    assert max(seen) >= 18
    assert min(seen) >= 10
