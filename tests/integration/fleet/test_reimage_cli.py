"""`bramble reimage`, `replace`, `decommission`, `cancel`: from the keyboard to record and cluster."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import click
import pytest
import pytest_asyncio
from click.testing import Result
from fakes_cluster import pod
from reimage_room import A1, Room, open_room
from typed_cluster import HEAD, node_line, state_of, typed, write_cluster

from fleet.api.doors import serve_admin
from fleet.cli.reimage import cancel, decommission, reimage, replace
from fleet.errors import FleetError
from fleet.lifecycle import State
from fleet.reimage.kinds import Outcome

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

CLUSTER = HEAD + node_line("s1", 1, role="server") + node_line("a1", 2) + node_line("a2", 3)
TIMEOUT_S = 60.0


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return write_cluster(tmp_path, CLUSTER, monkeypatch)


@pytest_asyncio.fixture
async def room(file: Path) -> AsyncIterator[Room]:
    state = state_of(file)
    async with open_room(state) as opened, serve_admin(opened.controller, state / "control.sock"):
        yield opened


async def done_by(file: Path, command: click.Command, *arguments: str) -> Result:
    """In a thread, as another process would: the server goes on meanwhile."""
    return await asyncio.wait_for(asyncio.to_thread(typed, command, *arguments, "-c", file), TIMEOUT_S)


@contextlib.asynccontextmanager
async def driven(room: Room) -> AsyncIterator[None]:
    """The controller works on orders, and the node's kubelet ends pods, until left."""

    async def go_on() -> None:
        while True:
            await room.controller.reimages.drive()
            room.kube.settle()
            room.fleet.clock.advance(0.5)
            await asyncio.sleep(0.02)

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def reached(room: Room, state: State) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while room.state_of() is not state:  # noqa: ASYNC110 - the condition is in the store
            await asyncio.sleep(0.02)


async def test_a_dry_run_shows_the_steps_and_changes_nothing(file: Path, room: Room) -> None:
    done = await done_by(file, reimage, "a1", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "cordoned → draining → node-deleted → reboot-to-installer" in done.output
    assert room.state_of() is State.READY
    assert room.kube.changes == []


async def test_a_dry_run_shows_all_that_stands_against_it(file: Path, room: Room) -> None:
    room.kube.pods["a1"] = [pod("lone", owner=""), pod("web", scratch=True)]
    done = await done_by(file, reimage, "a1", "--dry-run")
    assert done.exit_code == 1
    assert "! nothing makes these pods anew elsewhere: default/lone" in done.output
    assert "~ the scratch data (emptyDir) of these pods is lost: default/web" in done.output
    assert "it stays as it is" in done.output
    refused = await done_by(file, reimage, "a1", "--yes")
    assert isinstance(refused.exception, FleetError)
    assert "a1 stays as it is: nothing makes these pods anew elsewhere" in refused.exception.message
    assert "--force-drain" in refused.exception.hint
    assert room.state_of() is State.READY


async def test_who_gives_pods_and_volumes_up_sees_every_one_of_them(file: Path, room: Room) -> None:
    """`--force-drain` is the consent to lose them: none hides behind 'and 3 more'."""
    lone = [pod(f"lone-{number}", owner="") for number in range(8)]
    claims = [pod(f"db-{number}", claims=(f"data-{number}", f"log-{number}")) for number in range(8)]
    room.kube.pods["a1"] = [*lone, *claims]
    for claim in (claim for one in claims for claim in one.claims):
        room.kube.volumes[f"default/{claim}"] = {"spec": {"hostPath": {"path": "/var/lib/rancher"}}}
    everything = [one.title for one in lone] + [f"{one.title} ({', '.join(one.claims)})" for one in claims]
    refused = await done_by(file, reimage, "a1", "--dry-run")
    assert refused.exit_code == 1
    assert [text for text in everything if text not in refused.output] == []
    assert refused.output.count("order with --force-drain") == 2
    consented = await done_by(file, reimage, "a1", "--dry-run", "--force-drain")
    assert consented.exit_code == 0, consented.output
    assert [text for text in everything if text not in consented.output] == []
    assert "~ these volumes are given up: " in consented.output
    assert room.kube.changes == []


async def test_without_a_terminal_it_takes_a_yes(file: Path, room: Room) -> None:
    done = await done_by(file, reimage, "a1")
    assert done.exit_code == 2
    assert "answer with --yes" in done.output
    assert room.state_of() is State.READY


async def test_an_order_is_followed_to_its_end(file: Path, room: Room) -> None:
    async with driven(room):
        waiting = asyncio.create_task(
            done_by(file, reimage, "a1", "--yes", "--wait", "--why", "its card is worn")
        )
        await reached(room, State.REBOOT_TO_INSTALLER)
        room.netboot()
        done = await waiting
    assert done.exit_code == 0, done.output
    for line in ("reimage ordered by ", "its card is worn", "cordoned: no new pods", "a1 is Ready again"):
        assert line in done.output


async def test_json_has_the_order_and_what_was_found(file: Path, room: Room) -> None:
    done = await done_by(file, reimage, "a1", "--yes", "--json")
    answer = json.loads(done.output)
    assert answer["problems"] == []
    assert (answer["order"]["kind"], answer["order"]["was"]) == ("reimage", "ready")
    again = json.loads((await done_by(file, reimage, "a1", "--yes", "--json")).output)
    assert "under way already" in again["message"]
    assert again["order"]["number"] == answer["order"]["number"]


async def test_an_order_that_fails_is_an_error_with_its_reason(file: Path, room: Room) -> None:
    async with driven(room):
        room.kube.pods["a1"] = [pod("web")]
        room.kube.refusals["web"] = (429, "needs 2")
        waiting = asyncio.create_task(done_by(file, reimage, "a1", "--yes", "--wait"))
        await reached(room, State.DRAINING)
        called_off = await done_by(file, cancel, "a1")
        assert "is being called off" in called_off.output
        done = await waiting
    assert isinstance(done.exception, FleetError)
    assert done.exception.message.startswith("a1: reimage cancelled: called off by ")


async def test_a_board_is_replaced_and_a_node_decommissioned(file: Path, room: Room) -> None:
    alive = await done_by(file, replace, "a1", "--with", "10000000abcd0009", "--yes")
    assert isinstance(alive.exception, FleetError)
    assert "its board is alive" in alive.exception.message
    async with driven(room):
        done = await done_by(file, decommission, "a1", "--yes", "--wait", "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["order"]["outcome"] == Outcome.DONE.value
    assert answer["steps"][-1] == "decommissioned"
    assert room.state_of(A1) is State.DECOMMISSIONED


async def test_who_ordered_what_stands_in_the_audit(file: Path, room: Room) -> None:
    await done_by(file, reimage, "a1", "--yes", "--why", "its card is worn")
    await done_by(file, cancel, "a1")
    with room.fleet.store.read() as reader:
        lines = [(line.what, dict(line.detail)) for line in reader.audit_lines(after=0, limit=10)]
    assert lines[-2][0] == "orderReimage"
    assert lines[-2][1]["why"] == "its card is worn"
    assert lines[-1] == ("cancelReimage", {"name": "a1"})


async def test_what_is_done_at_once_has_nothing_to_wait_for(file: Path, room: Room) -> None:
    with room.fleet.store.write() as tx:
        tx._write_node("a1", {"state": State.QUARANTINED.value})
    done = await done_by(file, decommission, "a1", "--yes", "--wait", "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert (answer["order"], answer["number"]) == (None, None)
    assert room.state_of() is State.DECOMMISSIONED
