"""A controller over a real store, for the tests of this folder: on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fakes_fleet
import pytest
from fakes_fleet import Fleet, cluster_spec, open_fleet
from fleet_story import AGENT, SERVER
from postgres_server import PostgresServer, find_programs, running_postgres

from fleet.store_place import Place


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of this test run."""
    programs = find_programs()
    if programs is None:
        pytest.skip("there is no PostgreSQL server: package postgresql")
    with running_postgres(programs) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test once on each database: a state directory stands for one database of the server."""
    name: str = request.param
    if name == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        made: dict[Path, Place] = {}

        def place_of(state: Path) -> Place:
            if state not in made:
                made[state] = server.new_database()
            return made[state]

        monkeypatch.setattr(fakes_fleet, "store_place", place_of)
        monkeypatch.setattr(fakes_fleet, "lose_store", made.pop)
    return name


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    opened = open_fleet(tmp_path, cluster_spec(SERVER, AGENT))
    yield opened
    opened.store.close()
