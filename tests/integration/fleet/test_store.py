"""The store as a file: migrations, modes, one writer, readers beside it, and what is undone."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from fakes_fleet import NOW, cluster_spec, node_spec, open_fleet

from fleet.events import Entry, Kind
from fleet.lifecycle import Happening, IllegalTransitionError, State
from fleet.store.database import Store, StoreError
from fleet.store.migrate import MIGRATIONS, upgrade
from fleet.store.tables import metadata
from fleet.store.version import LATEST, is_current

pytestmark = pytest.mark.integration

NODE = node_spec("pi4-1", 1)
NOTE = Entry(kind=Kind.BOOT, text="a line")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    open_fleet(tmp_path, cluster_spec(NODE)).store.close()
    opened = Store.open(tmp_path / "control.db")
    yield opened
    opened.close()


@pytest.mark.parametrize("way", ["migrated", "fresh"])
def test_migrations_make_exactly_the_declared_tables(tmp_path: Path, way: str) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'control.db'}")
    try:
        with engine.begin() as connection:
            if way == "migrated":
                upgrade(connection)
            assert is_current(connection)
            context = MigrationContext.configure(connection)
            assert compare_metadata(context, metadata) == []
            assert context.get_current_heads() == (LATEST,)
            assert ScriptDirectory(str(MIGRATIONS)).get_heads() == [LATEST]
    finally:
        engine.dispose()


def test_files_are_their_owners_alone(store: Store) -> None:
    with store.write() as tx:
        tx.put_value("k", "v")
        modes = {path.name: path.stat().st_mode & 0o777 for path in store.path.parent.glob("control.db*")}
    assert {"control.db", "control.db-wal", "control.db-shm", "control.db.lock"} <= modes.keys()
    assert set(modes.values()) == {0o600}


def test_second_writer_is_told_who_may_be_running(store: Store) -> None:
    with pytest.raises(StoreError, match="in use by another process"):
        Store.open(store.path)


def test_reader_works_beside_a_writer_and_after_it(store: Store) -> None:
    with store.write() as tx:
        tx.put_value("k", "before")
    reader = Store.open_readonly(store.path)
    try:
        with store.write() as tx:
            tx.put_value("k", "after")
            with reader.read() as view:
                assert view.value("k") == "before"
        with reader.read() as view:
            assert view.value("k") == "after"
        store.close()
        with reader.read() as view:
            assert view.value("k") == "after"
    finally:
        reader.close()


def test_reader_cannot_write(store: Store) -> None:
    reader = Store.open_readonly(store.path)
    try:
        with pytest.raises(StoreError, match="readonly"), reader.write() as tx:
            tx.put_value("k", "v")
    finally:
        reader.close()


def test_a_raised_error_undoes_the_state_and_its_event_together(store: Store) -> None:
    def fail_after_move() -> None:
        with store.write() as tx:
            tx.move(tx.require_node("pi4-1"), Happening.POWERED_ON, NOTE, NOW)
            raise RuntimeError("cut")

    with pytest.raises(RuntimeError, match="cut"):
        fail_after_move()
    with store.read() as reader:
        assert reader.require_node("pi4-1").state is State.DECLARED
        assert "a line" not in [event.text for event in reader.timeline()]


def test_illegal_step_writes_nothing(store: Store) -> None:
    with pytest.raises(IllegalTransitionError), store.write() as tx:
        tx.move(tx.require_node("pi4-1"), Happening.INSTALLED, NOTE, NOW)
    with store.read() as reader:
        assert reader.require_node("pi4-1").state is State.DECLARED


@pytest.mark.parametrize("column", ["state", "since", "attempt", "name"])
def test_lifecycle_columns_have_no_other_way_in(store: Store, column: str) -> None:
    with store.write() as tx, pytest.raises(ValueError, match="lifecycle"):
        tx.update_node(tx.require_node("pi4-1"), **{column: "ready"})


def test_intents_count_per_node_and_only_one_is_open(store: Store) -> None:
    with store.write() as tx:
        first = tx.open_new_intent("pi4-1", NOW, 60, "1a")
        second = tx.open_new_intent("pi4-1", NOW + 1, 60, "2b")
        assert (first.number, second.number) == (1, 2)
        assert tx.open_intent("pi4-1") == second
        assert tx.last_intent_numbers() == {"pi4-1": 2}


def test_ticket_burns_once(store: Store) -> None:
    with store.write() as tx:
        tx.add_ticket("a" * 64, "pi4-1", 1, 1, NOW)
        assert tx.burn_ticket("a" * 64, "key", NOW)
        assert not tx.burn_ticket("a" * 64, "other", NOW)
        assert tx.tickets("pi4-1")[0].used_by == "key"


def test_first_claim_wins(store: Store) -> None:
    with store.write() as tx:
        assert tx.claim_value("founder", "a") == "a"
        assert tx.claim_value("founder", "b") == "a"


def test_timeline_can_be_followed_from_an_id(store: Store) -> None:
    with store.write() as tx:
        for number in range(5):
            tx.add_event(Entry(kind=Kind.BOOT, text=str(number)), NOW + number, node="pi4-1")
    with store.read() as reader:
        whole = reader.timeline(node="pi4-1")
        assert [event.text for event in reader.timeline(node="pi4-1", since=whole[-3].id)] == ["3", "4"]
        assert [event.text for event in reader.timeline(node="pi4-1", limit=2)] == ["3", "4"]


def test_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    path.write_bytes(b"not a database, but somebody's file" * 100)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="not a usable database"):
        Store.open(path)
    assert path.read_bytes() == before


def test_database_of_a_newer_version_is_refused(store: Store) -> None:
    path = store.path
    store.close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match="newer Bramble"):
        Store.open(path)


def test_missing_record_says_when_it_is_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no record of this cluster") as missing:
        Store.open_readonly(tmp_path / "control.db")
    assert "bramble serve" in missing.value.hint


def test_full_disk_is_told_and_changes_nothing(store: Store) -> None:
    with store.write() as tx:
        tx._connection.exec_driver_sql("PRAGMA max_page_count=1")
    large = Entry(kind=Kind.BOOT, text="a line", detail={"filler": "x" * 1_000_000})
    with pytest.raises(StoreError, match="disk is full"), store.write() as tx:
        tx.add_event(large, NOW)
    with store.read() as reader:
        assert [event.text for event in reader.timeline()] == ["declared in cluster.yaml"]


def test_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        Store.open(tmp_path / "file" / "control.db")


def test_damaged_file_is_a_store_error_for_readers_and_writers(store: Store, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"no database " * 1000)
    reader = Store.open_readonly(garbage)
    try:
        with pytest.raises(StoreError, match="cannot be read"), reader.read() as view:
            view.nodes()
    finally:
        reader.close()
    twice = "INSERT INTO kv (key, value) VALUES ('a', 'b'), ('a', 'b')"
    with pytest.raises(StoreError, match="cannot be written"), store.write() as tx:
        tx._connection.exec_driver_sql(twice)
