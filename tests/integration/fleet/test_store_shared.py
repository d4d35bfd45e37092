"""Several control servers on one PostgreSQL: no update is lost, one wins a claim, all see what others did."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import store_counter
from fakes_fleet import NOW, Clock, cluster_spec, node_spec, open_fleet
from postgres_server import PostgresServer

from fleet.store.database import NoRecordError, Store, StoreError
from fleet.store_place import PostgresPlace
from fleet.timeline import Entry, Kind

pytestmark = pytest.mark.integration

SERVERS, ROUNDS = 4, 60
TIMEOUT_S = 120.0


def test_four_processes_count_one_number_up_and_lose_nothing(postgres: PostgresServer) -> None:
    place = postgres.new_database()
    paths = os.pathsep.join(entry for entry in sys.path if entry)
    # All at once on an empty database: who comes first makes the tables, the others find them.
    servers = [
        subprocess.Popen(
            [sys.executable, store_counter.__file__, place.url, f"server-{number}", str(ROUNDS)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths},
        )
        for number in range(SERVERS)
    ]
    outputs = [server.communicate(timeout=TIMEOUT_S)[0] for server in servers]
    assert [server.returncode for server in servers] == [0] * SERVERS
    won = [claim for output in outputs for claim in json.loads(output)]
    assert sorted(won) == list(range(ROUNDS))
    store = Store.open(place)
    try:
        with store.read() as reader:
            assert reader.value("counter") == str(SERVERS * ROUNDS)
            # Ids grow in the order of the commits: a follower that asks from the last id misses nothing.
            texts = reader.connection.exec_driver_sql("SELECT text FROM events ORDER BY id").scalars().all()
            assert [int(text) for text in texts] == list(range(1, SERVERS * ROUNDS + 1))
    finally:
        store.close()


def test_two_controllers_of_one_cluster_share_nodes_intents_and_the_founder(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = postgres.new_database()
    monkeypatch.setattr("fakes_fleet.store_place", lambda _state: place)
    spec, clock = cluster_spec(node_spec("pi5-1", 1), node_spec("pi5-2", 2)), Clock()
    first = open_fleet(tmp_path, spec, clock)
    second = open_fleet(tmp_path, spec, clock)
    try:
        with first.store.read() as one, second.store.read() as other:
            assert one.nodes() == other.nodes()
        mark = second.store.change_mark()
        assert second.store.change_mark() == mark
        with first.store.write() as tx:
            tx.open_new_intent("pi5-1", NOW, 60, "1a")
        assert second.store.change_mark() != mark
        states = {state.name: state.install_intent for state in second.controller.boot_states()}
        assert states["pi5-1"] == 1
        with second.store.write() as tx:
            assert tx.open_new_intent("pi5-1", NOW, 60, "2b").number == 2
    finally:
        first.store.close()
        second.store.close()


def test_a_server_that_hangs_in_a_transaction_is_not_waited_for_for_ever(postgres: PostgresServer) -> None:
    place = postgres.new_database()
    Store.open(place).close()
    hanging = Store.open(place)
    waiting = Store.open(PostgresPlace(f"{place.url}&options=-c%20lock_timeout%3D200ms"))
    try:
        with hanging.write() as tx:
            tx.put_value("k", "v")
            with pytest.raises(StoreError, match="lock timeout"), waiting.write() as other:
                other.put_value("k", "w")
        with waiting.write() as other:
            assert other.value("k") == "v"
    finally:
        hanging.close()
        waiting.close()


def test_writers_of_one_process_follow_one_another(postgres: PostgresServer) -> None:
    store = Store.open(postgres.new_database())

    def count() -> None:
        for _ in range(25):
            with store.write() as tx:
                tx.put_value("n", str(int(tx.value("n") or 0) + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_S)
        with store.read() as reader:
            assert reader.value("n") == "100"
    finally:
        store.close()


def test_a_row_that_is_refused_is_not_quoted_with_its_secrets(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = postgres.new_database()
    monkeypatch.setattr("fakes_fleet.store_place", lambda _state: place)
    store = open_fleet(tmp_path, cluster_spec(node_spec("pi5-1", 1))).store
    try:
        with store.read() as reader:
            password = reader.require_node("pi5-1").node_password.reveal()
        with pytest.raises(StoreError, match="violates not-null constraint") as refused, store.write() as tx:
            tx.update_node(tx.require_node("pi5-1"), detail=None)
        assert password not in str(refused.value)
    finally:
        store.close()


def test_database_without_tables_is_no_record_yet(postgres: PostgresServer) -> None:
    reader = Store.open_readonly(postgres.new_database())
    try:
        with pytest.raises(NoRecordError, match="no record of this cluster"), reader.read():
            raise AssertionError("there is nothing to read")
    finally:
        reader.close()


def test_database_that_cannot_keep_every_text_is_refused(postgres: PostgresServer) -> None:
    with pytest.raises(StoreError, match="encoding LATIN1") as refused:
        Store.open(postgres.new_database("LATIN1"))
    assert "ENCODING 'UTF8'" in refused.value.hint


@pytest.mark.parametrize(
    ("change", "words"),
    [("/nowhere?host={0}", "nowhere"), ("/fleet1?host=/nonexistent", "nonexistent")],
    ids=["no-such-database", "no-server"],
)
def test_database_that_is_not_there_is_named(postgres: PostgresServer, change: str, words: str) -> None:
    place = PostgresPlace(f"postgresql://postgres@{change.format(postgres.directory)}")
    with pytest.raises(StoreError, match=words) as refused:
        Store.open(place)
    assert "up and reachable" in refused.value.hint


def test_events_are_on_the_disk_before_they_are_acknowledged(postgres: PostgresServer) -> None:
    """The store asks for it whatever the database is set to."""
    place = postgres.new_database()
    with postgres.connect(place.url.split("/")[3].split("?")[0]) as connection:
        connection.execute("ALTER SYSTEM SET synchronous_commit = off")
        connection.execute("SELECT pg_reload_conf()")
    store = Store.open(place)
    try:
        with store.write() as tx:
            tx.add_event(Entry(kind=Kind.BOOT, text="a line"), NOW)
            assert tx.connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
    finally:
        store.close()
