"""What the store promises on either database: migrations, what is undone, claims, readers beside writers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fakes_fleet
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from fakes_fleet import NOW, cluster_spec, node_spec, open_fleet

from fleet.lifecycle import Happening, IllegalTransitionError, State
from fleet.store.database import Store, StoreError, _backend
from fleet.store.migrate import MIGRATIONS, upgrade
from fleet.store.tables import metadata
from fleet.store.version import LATEST, REVISIONS, is_current
from fleet.timeline import Entry, Kind

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("backend")]

NODE = node_spec("pi4-1", 1)
NOTE = Entry(kind=Kind.BOOT, text="a line")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    open_fleet(tmp_path, cluster_spec(NODE)).store.close()
    opened = Store.open(fakes_fleet.store_place(tmp_path))
    yield opened
    opened.close()


def set_version(store: Store, version: str) -> None:
    with store.write() as tx:
        tx.connection.execute(
            sa.text("UPDATE alembic_version SET version_num = :version"), {"version": version}
        )


@pytest.mark.parametrize("way", ["migrated", "fresh"])
def test_migrations_make_exactly_the_declared_tables(tmp_path: Path, way: str) -> None:
    backend = _backend(fakes_fleet.store_place(tmp_path), readonly=False)
    try:
        with backend.engine.begin() as connection:
            if way == "migrated":
                upgrade(connection)
            assert is_current(connection)
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, metadata) == []
            assert context.get_current_heads() == (LATEST,)
        scripts = ScriptDirectory(str(MIGRATIONS))
        assert tuple(reversed([script.revision for script in scripts.walk_revisions()])) == REVISIONS
    finally:
        backend.close()


def test_reader_works_beside_a_writer_and_after_it(store: Store) -> None:
    with store.write() as tx:
        tx.put_value("k", "before")
    reader = Store.open_readonly(store.place)
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


def test_a_view_stays_as_it_was_when_it_began(store: Store) -> None:
    with store.write() as tx:
        tx.put_value("k", "before")
    reader = Store.open_readonly(store.place)
    try:
        with reader.read() as view:
            assert view.value("k") == "before"
            with store.write() as tx:
                tx.put_value("k", "after")
                tx.add_event(NOTE, NOW)
            assert view.value("k") == "before"
            assert "a line" not in [event.text for event in view.timeline()]
    finally:
        reader.close()


def test_reader_cannot_write(store: Store) -> None:
    reader = Store.open_readonly(store.place)
    try:
        with pytest.raises(StoreError, match=r"read-?only"), reader.write() as tx:
            tx.put_value("k", "v")
    finally:
        reader.close()


def test_database_of_a_newer_version_is_refused(store: Store) -> None:
    set_version(store, "9999")
    store.close()
    with pytest.raises(StoreError, match="newer Bramble") as refused:
        Store.open(store.place)
    assert refused.value.hint == "Run that version."
    reader = Store.open_readonly(store.place)
    try:
        with pytest.raises(StoreError, match="newer Bramble"), reader.read():
            raise AssertionError("nothing of it may be read")
    finally:
        reader.close()


def test_reader_of_an_older_version_is_told_who_brings_it_up_to_date(store: Store) -> None:
    set_version(store, "0001")
    reader = Store.open_readonly(store.place)
    try:
        with pytest.raises(StoreError, match="older Bramble") as refused, reader.read():
            raise AssertionError("columns of it are missing")
        assert "bramble serve" in refused.value.hint
    finally:
        reader.close()


def test_damaged_statement_is_a_store_error(store: Store) -> None:
    twice = "INSERT INTO kv (key, value) VALUES ('a', 'b'), ('a', 'b')"
    with pytest.raises(StoreError, match="cannot be written"), store.write() as tx:
        tx.connection.exec_driver_sql(twice)
    with store.read() as reader:
        assert reader.value("a") is None


def test_numbers_of_53_bits_are_kept(store: Store) -> None:
    with store.write() as tx:
        tx.update_node(tx.require_node("pi4-1"), status_sequence=2**53, generation=2**40)
    with store.read() as reader:
        node = reader.require_node("pi4-1")
        assert (node.status_sequence, node.generation) == (2**53, 2**40)


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


def test_values_are_found_by_the_beginning_of_their_keys_and_by_nothing_else(store: Store) -> None:
    mine = ("disk.", "disk.a", "disk.z\u00e9")
    with store.write() as tx:
        for key in (*mine, "disk", "disk-a", "disk/a", "diskette", "Disk.b", "DISK.A", "disk_a"):
            tx.put_value(key, key)
    with store.read() as reader:
        assert reader.values("disk.") == {key: key for key in mine}


def test_timeline_can_be_followed_from_an_id(store: Store) -> None:
    with store.write() as tx:
        for number in range(5):
            tx.add_event(Entry(kind=Kind.BOOT, text=str(number)), NOW + number, node="pi4-1")
    with store.read() as reader:
        whole = reader.timeline(node="pi4-1")
        assert [event.text for event in reader.timeline(node="pi4-1", since=whole[-3].id)] == ["3", "4"]
        assert [event.text for event in reader.timeline(node="pi4-1", limit=2)] == ["3", "4"]
