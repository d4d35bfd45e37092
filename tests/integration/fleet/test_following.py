"""Several control servers on one record: a cluster.yaml that one of them takes is in force on all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import fakes_fleet
import pytest
from fakes_fleet import Fleet, open_fleet
from postgres_server import PostgresServer
from typed_cluster import HEAD, node_line

from fleet import controller
from fleet.apply.following import RETRY_S
from fleet.lifecycle import State
from fleet.refusal import RefusedError
from fleet.spec import load_cluster
from fleet.spec.model import ClusterSpec
from fleet.store.database import Store, StoreError
from fleet.store_place import Place

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

Start = Callable[[str, str], Fleet]

OLD = HEAD + node_line("s1", 1, role="server") + node_line("a1", 2)
NEW = OLD + node_line("a2", 3)


@pytest.fixture
def start(postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a server, by the name of its machine; its file says this."""
    database, started = postgres.new_database(), list[Fleet]()
    monkeypatch.setattr(fakes_fleet, "store_place", lambda _state: database)

    def open_one(machine: str, text: str) -> Fleet:
        state = tmp_path / machine
        state.mkdir(exist_ok=True)
        spec = write(state / "cluster.yaml", text.replace("eth0", f"of-{machine}"))
        started.append(open_fleet(state, spec))
        return started[-1]

    yield open_one
    for fleet in started:
        fleet.store.close()


def write(file: Path, text: str) -> ClusterSpec:
    file.write_text(text)
    return load_cluster(file)


def put_in_force(fleet: Fleet, text: str, tmp_path: Path) -> None:
    """'bramble apply' of a file that is not the server's own."""
    spec = write(tmp_path / "applied.yaml", text)
    fleet.controller.declare(replace(spec, network=fleet.controller.spec.network))


def names(fleet: Fleet) -> list[str]:
    return [node.name for node in fleet.controller.spec.nodes]


def states(fleet: Fleet) -> dict[str, State]:
    with fleet.store.read() as reader:
        return {node.name: node.state for node in reader.nodes()}


def told(fleet: Fleet) -> list[str]:
    return [one.text for one in fleet.controller.findings() if one.code == "cluster-file"]


async def test_what_one_server_takes_the_others_take_over_with_their_own_network(
    start: Start, tmp_path: Path
) -> None:
    first, second = start("one", OLD), start("two", OLD)
    put_in_force(first, NEW, tmp_path)
    await second.controller.following.look()
    assert names(second) == ["s1", "a1", "a2"]
    assert second.controller.spec.nodes == first.controller.spec.nodes
    assert second.controller.spec.network.interface == "of-two"
    assert "cluster.yaml is not what is in force" in told(second)[0]

    put_in_force(second, OLD, tmp_path)
    await first.controller.following.look()
    assert names(first) == ["s1", "a1"]
    assert states(first)["a2"] is State.DECOMMISSIONED
    await second.controller.following.look()
    assert told(second) == []  # its own file is the one in force again


async def test_a_server_that_starts_with_an_older_file_takes_nothing_back(
    start: Start, tmp_path: Path
) -> None:
    first = start("one", OLD)
    start("two", OLD)
    put_in_force(first, NEW, tmp_path)
    for machine in ("two", "three"):  # one that read this file before, and one that is new
        later = start(machine, OLD)
        assert states(later)["a2"] is State.DECLARED
        await later.controller.following.look()
        assert names(later) == ["s1", "a1", "a2"]
        assert len(told(later)) == 1


async def test_a_file_that_somebody_put_back_is_no_old_copy(start: Start, tmp_path: Path) -> None:
    first = start("one", OLD)
    start("two", NEW)
    await first.controller.following.look()
    assert names(first) == ["s1", "a1", "a2"]
    back = start("two", OLD)
    assert states(back)["a2"] is State.DECOMMISSIONED
    await first.controller.following.look()
    assert names(first) == ["s1", "a1"]
    assert told(first) == []


async def test_a_file_that_can_not_be_used_here_is_told_of_and_undoes_nothing(
    start: Start, tmp_path: Path
) -> None:
    first, second = start("one", OLD), start("two", OLD)
    put_in_force(first, NEW.replace("image:", "image:\n  packages: [htop]"), tmp_path)
    await second.controller.following.look()
    assert names(second) == ["s1", "a1"]
    assert "its image is not built on this machine" in told(second)[0]
    with second.store.read() as reader:
        newcomer = reader.require_node("a2")
    with pytest.raises(RefusedError, match="a2 is not in"):
        second.controller.joins.settings.spec_of(newcomer)
    second.controller.tick()
    assert states(second)["a2"] is State.DECLARED

    second.images.built = second.images.current
    await second.controller.following.look()
    assert names(second) == ["s1", "a1"]  # not asked each second
    second.clock.advance(RETRY_S)
    await second.controller.following.look()
    assert names(second) == ["s1", "a1", "a2"]
    assert "its image" not in told(second)[0]


async def test_the_database_reaches_no_file_of_a_machine(start: Start, tmp_path: Path) -> None:
    first, second = start("one", OLD), start("two", OLD)
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    put_in_force(first, OLD.replace("image:", f"image:\n  overlays: [{overlay}]"), tmp_path)
    await second.controller.following.look()
    assert f"it names {overlay}, which this server's own file does not" in told(second)[0]


async def test_the_database_runs_no_command_on_a_machine(start: Start, tmp_path: Path) -> None:
    first, second = start("one", OLD), start("two", OLD)
    power = "power: {driver: command, on: [relay, up], off: [relay, down], status: [relay, show]}"
    put_in_force(first, OLD + node_line("a2", 3).replace("}", f", {power}}}"), tmp_path)
    await second.controller.following.look()
    assert "commands or secrets of its machine" in told(second)[0]
    assert names(second) == ["s1", "a1"]


async def test_a_server_alone_takes_its_file_as_it_is(tmp_path: Path) -> None:
    for text, state in ((NEW, State.DECLARED), (OLD, State.DECOMMISSIONED), (NEW, State.DECLARED)):
        alone = open_fleet(tmp_path, write(tmp_path / "cluster.yaml", text))
        assert states(alone).get("a2") is state
        await alone.controller.following.look()
        assert told(alone) == []
        alone.store.close()


async def test_a_start_that_breaks_off_makes_no_old_copy_of_a_new_file(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = [start("one", OLD).store]
    open_store = Store.open

    def open_and_remember(place: Place) -> Store:
        opened.append(open_store(place))
        return opened[-1]

    with monkeypatch.context() as broken:
        broken.setattr(Store, "open", open_and_remember)
        broken.setattr(controller, "note_in_force", _refuse)
        with pytest.raises(StoreError):
            start("one", NEW)
    opened[-1].close()
    assert states(start("one", NEW))["a2"] is State.DECLARED


def _refuse(*_arguments: object) -> None:
    raise StoreError("the record can not be written", "Look at the database.", Path("a test"))
