"""Policy and the fleet lock over a real controller and store, with a cluster's API in memory."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import click
import pytest
import pytest_asyncio
from fakes_fleet import node_spec
from fakes_fleet_server import Running
from fleet_story import texts
from node_records import reimage_record
from reimage_room import A1, A2, S1, Room, open_room
from typed_cluster import HEAD, node_line, serving, typed, write_cluster

from fleet.cli.policy import lock, policy
from fleet.lifecycle import Happening, State
from fleet.policy.desk import MAX_FAILED
from fleet.policy.judge import Decision, Verdict
from fleet.refusal import RefusedError
from fleet.reimage.kinds import Outcome
from fleet.spec.model import ReimagePolicy
from fleet.spec.window_text import parse_window
from fleet.store.database import Store
from fleet.store.records import HoldRecord
from fleet.timeline import Entry, Kind
from fleet.trust.tokens import TokenRole

pytestmark = pytest.mark.integration

A3 = node_spec("a3", 4)
AFTER_S = 300
RETRY_S = 600.0
ON = ReimagePolicy(when_failed=True, max_parallel=1, after_s=AFTER_S)


@pytest_asyncio.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    async with open_room(tmp_path, S1, A1, A2, A3) as opened:
        put_in_force(opened, ON)
        yield opened


def put_in_force(room: Room, rules: ReimagePolicy) -> None:
    room.spec = dataclasses.replace(room.spec, policy=dataclasses.replace(room.spec.policy, reimage=rules))
    room.controller.declare(room.spec)


def kill(room: Room, name: str) -> None:
    """Its agent falls silent, and its kubelet."""
    room.kube.join(name, ready=False)


async def pass_time(room: Room, seconds: float, *dead: str) -> None:
    """Everybody who is not dead reports, and Kubernetes is asked, as they go by."""
    end = room.fleet.clock() + seconds
    while room.fleet.clock() < end:
        room.fleet.clock.advance(10.0)
        for node in room.spec.nodes:
            # One in the middle of a re-image has no agent that could.
            if node.name not in dead and room.state_of(node) in (State.READY, State.DEGRADED, State.LOST):
                room.report(node)
        room.controller.watch.apply_kubernetes(room.kube.seen)
        if room.kube.answers:
            room.controller.policy.take_listing(room.kube.seen)
        room.controller.tick()


def decision(room: Room, name: str) -> Decision:
    found = next(one for one in room.controller.policy.decisions() if one.node == name)
    assert room.controller.policy.decision(name) == found, "alone it is judged as among the others"
    return found


def codes(room: Room, name: str) -> list[str]:
    return [reason.code for reason in decision(room, name).reasons]


async def die_and_come_back(room: Room) -> None:
    kill(room, "a1")
    await pass_time(room, AFTER_S, "a1")
    assert room.state_of(A1) is State.LOST
    assert decision(room, "a1").verdict is Verdict.FAILING
    await pass_time(room, 120, "a1")
    order = room.order(A1)
    assert (order.by, order.was, order.closed_at) == ("policy", State.LOST, None)
    assert "silent and Kubernetes not ready for 5 min" in order.why
    assert [hold.node for hold in room.controller.lock.holds()] == ["a1"]
    await room.rounds(State.REBOOT_TO_INSTALLER)
    room.netboot()
    assert (await room.until_closed()).outcome is Outcome.DONE
    assert room.state_of(A1) is State.READY
    room.controller.tick()
    with room.fleet.store.read() as reader:
        assert reader.holds() == []


@pytest.mark.asyncio
async def test_a_dead_agent_is_reimaged_without_anybodys_word(room: Room) -> None:
    await die_and_come_back(room)
    assert "reimage ordered by policy" in " ".join(texts(room.fleet, "a1"))


@pytest.mark.asyncio
async def test_a_second_failure_within_a_day_is_left_to_a_person(room: Room) -> None:
    await die_and_come_back(room)
    kill(room, "a1")
    await pass_time(room, AFTER_S + 120, "a1")
    assert room.state_of(A1) is State.LOST
    assert codes(room, "a1") == ["again"]
    assert any(
        "is not re-imaged by policy: policy ordered its re-image" in text for text in texts(room.fleet, "a1")
    )


@pytest.mark.asyncio
async def test_an_order_that_came_to_nothing_is_tried_again_and_not_for_ever(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.policy.desk.RETRY_S", RETRY_S)
    kill(room, "a1")
    room.kube.pods["a1"] = []
    await pass_time(room, AFTER_S + 60, "a1")
    for attempt in range(1, MAX_FAILED + 1):
        room.controller.reimages.cancel("a1", "nobody")
        await room.until_closed()
        with room.fleet.store.write() as tx:  # as if a step had given up
            last = tx.reimages("a1")[0]
            tx.update_reimage(last, outcome=Outcome.FAILED, reason="its drain did not end")
            ordered = len(tx.reimages("a1"))
        assert (ordered, room.state_of(A1)) == (attempt, State.LOST)
        if attempt == MAX_FAILED:
            break
        await pass_time(room, AFTER_S + 60, "a1")
        assert codes(room, "a1") == ["failed"]
        await pass_time(room, RETRY_S - AFTER_S, "a1")
        assert room.order(A1).number == attempt + 2, "another order"
    await pass_time(room, RETRY_S + 60, "a1")
    assert codes(room, "a1") == ["again"]


@pytest.mark.asyncio
async def test_nodes_go_one_after_the_other_and_one_that_fails_keeps_the_next_back(room: Room) -> None:
    kill(room, "a1")
    await pass_time(room, AFTER_S + 60, "a1")
    kill(room, "a2")
    await room.rounds(State.REBOOT_TO_INSTALLER)
    await pass_time(room, AFTER_S + 60, "a1", "a2")
    assert room.state_of(A1) is State.REBOOT_TO_INSTALLER
    assert room.state_of(A2) is State.LOST
    assert codes(room, "a2") == ["budget"]
    quarantine(room)
    await pass_time(room, 60, "a1", "a2")
    assert codes(room, "a2") == ["lock"]
    (stuck,) = room.controller.lock.holds()
    assert (stuck.node, stuck.stuck, stuck.state) == ("a1", True, "quarantined")
    with pytest.raises(RefusedError, match="a1 holds the fleet lock"):
        room.controller.reimages.request("a2", by="ann", why="")
    # A restart of the server, and any time, change nothing of it.
    room.restart()
    room.fleet.clock.advance(30 * 86400.0)
    room.controller.tick()
    assert [hold.node for hold in room.controller.lock.holds()] == ["a1"]
    assert "freed" not in " ".join(texts(room.fleet, "a1"))
    done = room.controller.lock.release("a1", by="ann", reason="its board is dead")
    assert done == "a1 holds the fleet lock no more"
    assert "ann freed its place of the fleet lock: its board is dead" in texts(room.fleet, "a1")
    assert room.controller.reimages.request("a2", by="ann", why="").startswith("reimage")


def quarantine(room: Room) -> None:
    """Its attempts are used up."""
    entry = Entry(kind=Kind.STATE, text="test")
    with room.fleet.store.write() as tx:
        tx.move(tx.require_node("a1"), Happening.EXHAUSTED, entry, room.fleet.clock())


@pytest.mark.asyncio
async def test_a_place_is_not_freed_while_its_reimage_is_under_way(room: Room) -> None:
    room.controller.reimages.request("a1", by="ann", why="")
    with pytest.raises(RefusedError, match="is under way"):
        room.controller.lock.release("a1", by="ann", reason="x")
    with pytest.raises(RefusedError, match="holds no place"):
        room.controller.lock.release("a2", by="ann", reason="x")
    with pytest.raises(RefusedError, match="agents are being re-imaged: a1"):
        room.controller.reimages.request("a2", by="ann", why="")
    with room.fleet.store.read() as reader:
        assert reader.open_reimage("a2") is None
        assert [hold.node for hold in reader.holds()] == ["a1"]
    room.controller.reimages.cancel("a1", "ann")
    await room.until_closed()
    assert room.controller.lock.holds() == ()


@pytest.mark.asyncio
async def test_silence_of_most_nodes_changes_nothing(room: Room) -> None:
    for name in ("a1", "a2", "a3"):
        kill(room, name)
    await pass_time(room, 3 * AFTER_S, "a1", "a2", "a3")
    for node in (A1, A2, A3):
        assert room.state_of(node) is State.LOST
        assert {"isolated", "together"} <= set(codes(room, node.name))
    assert room.kube.changes == []


@pytest.mark.asyncio
async def test_nothing_is_done_while_kubernetes_is_silent_or_says_ready(room: Room) -> None:
    room.kube.answers = False
    kill(room, "a1")
    await pass_time(room, 2 * AFTER_S, "a1")
    assert codes(room, "a1") == ["failing", "kube-silent"]
    room.kube.answers = True
    room.kube.join("a1", ready=True)
    await pass_time(room, 2 * AFTER_S, "a1")
    assert codes(room, "a1") == ["kube-ready"]


@pytest.mark.asyncio
async def test_a_server_that_starts_counts_anew(room: Room) -> None:
    kill(room, "a1")
    await pass_time(room, AFTER_S - 60, "a1")
    room.restart()
    room.controller.policy.take_listing(room.kube.seen)
    await pass_time(room, AFTER_S - 60, "a1")
    assert decision(room, "a1").verdict is Verdict.FAILING
    await pass_time(room, 120, "a1")
    assert room.order(A1).by == "policy"


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        (dataclasses.replace(ON, when_failed=False), "off"),
        (dataclasses.replace(ON, dry_run=True), "dry-run"),
        (dataclasses.replace(ON, windows=(parse_window("mon 00:00-00:01 Pacific/Kiritimati"),)), "window"),
    ],
)
@pytest.mark.asyncio
async def test_what_the_policy_forbids_is_told_not_done(room: Room, rules: ReimagePolicy, code: str) -> None:
    put_in_force(room, rules)
    kill(room, "a1")
    await pass_time(room, AFTER_S + 200, "a1")
    assert room.state_of(A1) is State.LOST
    assert codes(room, "a1") == [code]
    said = [text for text in texts(room.fleet, "a1") if "re-image" in text and "polic" in text]
    assert len(said) == (0 if code == "off" else 1), "once, and not at all where nobody asked for it"


@pytest.mark.asyncio
async def test_a_brown_out_forbids_everybody_to_write(room: Room) -> None:
    with room.fleet.store.write() as tx:
        held = {"PiUnderVoltage": {"since": 0.0, "evidence": "4.4 V"}}
        tx.put_value("health.a1", json.dumps(held))
    with pytest.raises(RefusedError, match="no image may be written to it now: under-voltage"):
        room.controller.reimages.request("a1", by="ann", why="")
    shown = await room.controller.reimages.preview("a1", by="ann")
    assert "health" in [problem.code for problem in shown.problems]
    assert room.controller.lock.holds() == ()


@pytest.mark.asyncio
async def test_an_image_that_is_not_there_is_refused_before_anything_changes(room: Room) -> None:
    with pytest.raises(RefusedError, match="there is no image 'abcdef123456'"):
        room.controller.reimages.request("a1", image="abcdef123456", by="ann", why="")
    assert room.state_of(A1) is State.READY
    assert room.controller.lock.holds() == ()


@pytest.mark.asyncio
async def test_the_named_image_is_installed_and_no_other(room: Room) -> None:
    new = "1c" * 32
    room.fleet.images.known[new] = "v1.33.5+k3s1"
    room.controller.reimages.request("a1", image=new[:12], by="ann", why="")
    assert room.order(A1).image_id == new
    await room.rounds(State.REBOOT_TO_INSTALLER)
    boots = {boot.name: boot.image_id for boot in room.controller.boot_states()}
    assert boots == {"s1": None, "a1": new, "a2": None, "a3": None}
    room.netboot()
    assert room.record(A1).image_id == new
    await room.until_closed()
    assert room.record(A2).image_id == "f" * 64


@pytest.mark.asyncio
async def test_an_image_whose_k3s_could_not_join_is_refused(room: Room) -> None:
    with room.fleet.store.write() as tx:
        server = tx.require_node("s1")
        tx.update_node(server, status={**(server.status or {}), "k3s_version": "v1.33.5+k3s1"})
    room.fleet.images.known["1c" * 32] = "v1.34.1+k3s1"
    with pytest.raises(RefusedError, match="servers are upgraded first"):
        room.controller.reimages.request("a1", image="1c" * 32, by="ann", why="")


CLUSTER = (
    HEAD
    + node_line("s1", 1, role="server")
    + node_line("a1", 2)
    + """\
policy:
  reimage: {when_failed: true, after: 20m, windows: ["sat,sun 01:00-05:00 Europe/Madrid"]}
"""
)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Running, Path]]:
    file = write_cluster(tmp_path, CLUSTER, monkeypatch)
    with serving(file) as one:
        yield one, file


def told_by(command: click.Command, *arguments: object) -> str:
    result = typed(command, *arguments)
    assert result.exit_code == 0, result.output
    return result.output


def hold_back(store: Store) -> None:
    """a1's re-image came to nothing."""
    with store.write() as tx:
        tx.add_reimage(reimage_record("a1", outcome=Outcome.ABANDONED, closed_at=1_000_001.0))
        tx.put_hold(HoldRecord(node="a1", number=1, taken_at=1_000_000.0))


def test_policy_and_lock_as_a_person_types_them(server: tuple[Running, Path]) -> None:
    one, file = server
    told = told_by(policy, file)
    assert "after 20 min, 1 agent(s) at a time" in told
    assert "windows: sat,sun 01:00-05:00 Europe/Madrid" in told
    assert "No node has failed." in told
    assert "a1                   left  agent" in told_by(policy, file, "--all")
    view = json.loads(told_by(policy, file, "--json"))
    assert [found["node"] for found in view["decisions"]] == ["a1", "s1"]
    assert told_by(lock, "show", file) == "Nobody holds the fleet lock.\n"
    assert json.loads(told_by(lock, "show", file, "--json")) == []
    refused = typed(lock, "release", "a1", "--why", "x", "--yes", "-c", file)
    assert refused.exit_code == 1
    assert "holds no place of the fleet lock" in str(refused.exception)
    one.in_loop(lambda: hold_back(one.fleet.store))
    no_terminal = typed(lock, "release", "a1", "--why", "x", "-c", file)
    assert no_terminal.exit_code == 2
    assert "There is no terminal to ask on" in no_terminal.output
    viewer = one.person("eve", TokenRole.VIEWER)
    assert viewer.ask("GET", "/v1/admin/policy").status == 200
    assert viewer.ask("GET", "/v1/admin/lock").status == 200
    assert viewer.ask("POST", "/v1/admin/lock/a1/release", b'{"reason": "x"}').status == 403
