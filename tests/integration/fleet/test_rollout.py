"""Rollouts over a real controller and store, with boards and a cluster in memory."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from fleet_story import texts
from rollout_room import NEW, OLD, Play, agents, open_play, servers

from fleet.lifecycle import Happening, State
from fleet.refusal import RefusedError
from fleet.reimage.kinds import Outcome
from fleet.restored import mark_restored
from fleet.rollout.record import StepState
from fleet.spec.model import ReimagePolicy
from fleet.spec.window_text import parse_window
from fleet.timeline import Entry, Kind

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]
RULES = ReimagePolicy(when_failed=False, max_parallel=3, after_s=900)
SMALL = (*servers(3), *agents(3))


@pytest_asyncio.fixture
async def play(tmp_path: Path) -> AsyncIterator[Play]:
    async with open_play(tmp_path, SMALL, RULES) as opened:
        yield opened


async def test_twenty_nodes_get_another_image_while_the_server_ends_again_and_again(tmp_path: Path) -> None:
    everybody = (*servers(3), *agents(17))
    chance = random.Random(6)
    async with open_play(tmp_path, everybody, RULES) as play:
        await play.start(canary="a05")
        ended = 0
        while play.desk.view()["phase"] == "running":
            cut = chance.randrange(1, 8) if chance.random() < 0.15 else None
            ended += not await play.round(calls=cut)
            if chance.random() < 0.05:
                play.restart()
                ended += 1
            assert len(play.seen) < 500, "it goes on for ever"
        view = play.desk.view()
        assert ended >= 5, "nothing of the server's ends was tried"
        assert (view["phase"], view["done"], view["total"]) == ("done", 20, 20)
        assert set(play.images().values()) == {NEW}
        assert play.taken[0] == "a05"
        assert next(down for down in play.seen if down) == {"a05"}
        assert play.taken[-3:] == ["s1", "s2", "s3"], "agents prove the image before etcd loses a member"
        assert sorted(play.taken) == sorted(node.name for node in everybody), "each board once"
        for down in play.seen:
            at_once = [name for name in down if name.startswith("s")]
            assert len(down) <= (1 if at_once else 3), down
        assert {len(play.orders(node.name)) for node in everybody} == {1}
        assert play.room.controller.lock.holds() == ()


async def test_a_node_that_fails_stops_it_and_gets_another_turn(play: Play) -> None:
    play.broken.add("a02")
    await play.start()
    while play.record("a02").state is not State.REBOOT_TO_INSTALLER:
        await play.round()
    with play.room.fleet.store.write() as tx:
        entry = Entry(kind=Kind.STATE, text="its attempts are used up")
        tx.move(tx.require_node("a02"), Happening.EXHAUSTED, entry, play.now)
    view = await play.until("stopped")
    assert view["reason"].startswith("a02 failed: its re-image")
    assert "quarantined" in view["reason"]
    taken = list(play.taken)
    for _ in range(20):
        await play.round()
    assert play.taken == taken, "nobody else is taken"
    assert play.images()["s1"] == OLD
    assert "stopped rollout 1" in " ".join(texts(play.room.fleet, "a02"))
    # Before it is mended, going on changes nothing.
    play.desk.resume("ann")
    await play.until("stopped")
    assert play.taken == taken
    play.room.controller.people.approve("a02", None)
    play.broken.clear()
    play.room.netboot(next(node for node in SMALL if node.name == "a02"))
    for _ in range(5):
        await play.round()
    assert play.step("a02")["state"] == StepState.DONE.value
    play.desk.resume("ann")
    view = await play.until("done")
    assert view["done"] == 6
    assert set(play.images().values()) == {NEW}


async def test_the_canary_is_watched_before_the_others_follow(play: Play) -> None:
    await play.start(soak_s=300.0)
    while not play.taken:
        await play.round()
    began = play.now
    while len(play.taken) == 1:
        await play.round()
    assert play.now - began >= 300.0
    assert play.taken[0] == play.desk.view()["canary"] == "a01"


async def test_a_canary_that_dies_while_it_is_watched_stops_it(play: Play) -> None:
    await play.start(soak_s=600.0)
    while play.step("a01")["state"] != "done":
        await play.round()
    assert "watched for another" in (await one_more(play))["reason"]
    play.dead.add("a01")
    play.room.kube.join("a01", ready=False)
    view = await play.until("stopped")
    assert view["reason"] == "a01, which has the new image, is 'lost'"
    assert play.taken == ["a01"]


async def one_more(play: Play) -> dict[str, str]:
    await play.round()
    view: dict[str, str] = play.desk.view()
    return view


async def test_a_newer_k3s_goes_to_the_servers_first(play: Play) -> None:
    report_k3s(play, "v1.33.5+k3s1")
    play.room.fleet.images.known[NEW] = "v1.34.1+k3s1"
    with pytest.raises(RefusedError, match="a02 cannot go first, it is of role agent: servers first"):
        await play.start(canary="a02")
    shown = await play.start(dry_run=True)
    assert [node["node"] for node in shown["plan"]["nodes"]] == ["s1", "s2", "s3", "a01", "a02", "a03"]
    assert shown["plan"]["order"].startswith("servers first")
    play.room.fleet.images.known[NEW] = "v1.35.1+k3s1"
    with pytest.raises(RefusedError, match="leaves out a minor release"):
        await play.start()
    play.room.fleet.images.known[NEW] = "v1.32.1+k3s1"
    with pytest.raises(RefusedError, match="a server never goes back"):
        await play.start()


def report_k3s(play: Play, version: str) -> None:
    with play.room.fleet.store.write() as tx:
        for node in tx.nodes():
            tx.update_node(node, status={**(node.status or {}), "k3s_version": version})


async def test_a_dry_run_shows_everything_and_changes_nothing(play: Play) -> None:
    shown = await play.start(dry_run=True, max_parallel=9)
    assert shown["message"] is None
    assert [problem["code"] for problem in shown["problems"]] == ["budget"]
    assert "not-current" in [warning["code"] for warning in shown["warnings"]]
    assert play.desk.view() is None
    assert play.room.kube.changes == []


async def test_without_an_id_it_is_the_newest_image_of_the_file_in_force(play: Play) -> None:
    with pytest.raises(RefusedError, match="hold image ffffffffffff already"):
        await play.start(image=None)
    play.room.fleet.images.built = NEW
    shown = await play.start(image=None, dry_run=True)
    assert shown["plan"]["image"] == NEW
    assert "not-current" not in [warning["code"] for warning in shown["warnings"]]
    await play.start(image=None)
    assert play.desk.view()["image"] == NEW


async def test_the_newest_image_by_its_id_is_that_of_the_file_in_force(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line shows a plan without an id, and orders the image of that plan."""
    redeclared: list[bool] = []
    monkeypatch.setattr(play.desk, "_redeclare", lambda: redeclared.append(True))
    play.room.fleet.images.built = NEW
    shown = await play.start(image=NEW, dry_run=True)
    assert "not-current" not in [warning["code"] for warning in shown["warnings"]]
    assert redeclared == []
    await play.start(image=NEW)
    assert redeclared == [True]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"image": "abcdef123456"}, "there is no image"),
        ({"image": OLD}, "hold image ffffffffffff already"),
        ({"canary": "a99"}, "there is no node 'a99'"),
        ({"max_parallel": 4}, "more than the 3"),
    ],
)
async def test_what_cannot_be_is_refused_before_anything_changes(
    play: Play, wanted: dict[str, str], words: str
) -> None:
    with pytest.raises(RefusedError, match=words):
        await play.start(**wanted)
    assert play.desk.view() is None


async def test_one_at_a_time(play: Play) -> None:
    await play.start()
    with pytest.raises(RefusedError, match="rollout 1 of image 1c1c1c1c1c1c is running"):
        await play.start()
    for word in ("resume",):
        with pytest.raises(RefusedError, match="rollout 1 is running"):
            getattr(play.desk, word)("ann")
    assert "is over; 0 of 6" in play.desk.abort("ann")
    with pytest.raises(RefusedError, match="no rollout to pause: there is none"):
        play.desk.pause("ann")
    await play.start()
    assert play.desk.view()["number"] == 2


async def test_two_servers_together_take_no_more_at_a_time_than_one(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one ordered the same node, after this one had looked at the rollout."""
    await play.start(max_parallel=1, soak_s=1.0)
    while play.step("a01")["state"] != "done":
        await play.round()
    assert play.orders("a02") == []
    look = play.desk._look

    def look_and_be_overtaken() -> object:
        seen = look()
        if not play.orders("a02"):
            play.room.controller.reimages.request("a02", image=NEW, by="rollout 1")
        return seen

    monkeypatch.setattr(play.desk, "_look", look_and_be_overtaken)
    play.room.fleet.clock.advance(2.0)
    await play.desk.drive()
    assert (len(play.orders("a02")), play.orders("a03")) == (1, [])


async def test_a_node_that_was_written_and_did_not_come_is_written_again_when_it_is_resumed(
    play: Play,
) -> None:
    play.broken.add("a01")
    await play.start(soak_s=0.0)
    while play.record("a01").state is not State.REBOOT_TO_INSTALLER:
        await play.round()
    with play.room.fleet.store.write() as tx:
        tx._write_node("a01", {"state": State.FAILED_FIRST_BOOT.value})
    assert "came to nothing (failed-first-boot)" in (await play.until("stopped"))["reason"]
    play.broken.clear()
    play.desk.resume("ann")
    while play.step("a01")["state"] != "done":
        await play.round()
    assert [order.outcome for order in play.orders("a01")] == [Outcome.DONE, Outcome.ABANDONED]


async def test_a_pause_lets_those_under_way_end_and_takes_nobody_else(play: Play) -> None:
    await play.start(soak_s=0.0)
    while play.record("a01").state is State.READY:
        await play.round()
    assert "is paused" in play.desk.pause("ann")
    for _ in range(20):
        await play.round()
    assert play.taken == ["a01"]
    assert play.step("a01")["state"] == "done"
    assert play.desk.view()["reason"] == "ann paused it"
    play.desk.resume("ann")
    assert (await play.until("done"))["done"] == 6


async def test_closed_windows_are_waited_for(play: Play) -> None:
    closed = parse_window("mon 00:00-00:01 Pacific/Kiritimati")
    play.put_in_force(dataclasses.replace(RULES, windows=(closed,)))
    await play.start()
    for _ in range(15):
        await play.round()
    assert play.taken == []
    assert "no maintenance window is open" in play.desk.view()["reason"]
    play.put_in_force(RULES)
    assert (await play.until("done"))["done"] == 6


async def test_a_node_that_is_away_is_waited_for_and_one_that_leaves_is_skipped(play: Play) -> None:
    play.dead.add("a03")
    play.room.kube.join("a03", ready=False)
    for _ in range(30):
        await play.round()
    assert play.record("a03").state is State.LOST
    await play.start(soak_s=0.0)
    for _ in range(60):
        await play.round()
    assert sorted(play.taken) == ["a01", "a02"]
    view = play.desk.view()
    assert "a03 is 'lost': mend it, decommission it, or abort" in view["reason"]
    room = play.room
    room.spec = dataclasses.replace(
        room.spec, nodes=tuple(node for node in room.spec.nodes if node.name != "a03")
    )
    room.controller.declare(room.spec)
    view = await play.until("done")
    assert play.step("a03") == {**play.step("a03"), "state": "skipped", "reason": "it left the cluster"}
    assert (view["done"], view["total"]) == (5, 6)


async def test_time_left_is_measured_from_the_nodes_that_are_done(play: Play) -> None:
    await play.start(soak_s=0.0)
    assert play.desk.view()["time_left_s"] is None
    while play.desk.view()["done"] < 1:
        await play.round()
    first = play.step("a01")
    took = first["ended"] - first["began"]
    # Two agents beside each other, then three servers one by one.
    assert play.desk.view()["time_left_s"] == pytest.approx(4 * took, abs=took)
    await play.until("done")
    assert play.desk.view()["time_left_s"] is None


async def test_a_rollout_of_a_restored_record_waits_for_a_person(play: Play) -> None:
    await play.start(soak_s=0.0)
    with play.room.fleet.store.write() as tx:
        mark_restored(tx, backup_at=play.now - 3600, now=play.now)
    play.restart()
    view = await play.until("paused")
    assert "restored from a backup" in view["reason"]
    assert play.taken == []


async def test_a_persons_reimage_and_a_rollout_keep_out_of_each_others_way(play: Play) -> None:
    play.room.controller.reimages.request("a02", image=NEW, by="bob", why="")
    await play.start(soak_s=0.0)
    view = await play.until("done")
    assert view["done"] == 6
    assert play.step("a02")["number"] is None, "somebody else brought the image"
    assert {order.by for name in ("a01", "a03") for order in play.orders(name)} == {"rollout 1"}
