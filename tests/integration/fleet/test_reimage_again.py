"""A re-image that came to nothing is no dead end, and hours in which no server ran are no failure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes_fleet import Fleet, cluster_spec, node_spec, open_fleet
from fleet_story import ask_to_install, complete, enrol, install, intent_of, require_token, see, state_of
from reimage_room import A1, S1, Room, open_room

from fleet.boots import BootStage
from fleet.lifecycle import State, limit_s
from fleet.refusal import RefusedError
from fleet.reimage.kinds import Outcome, ReimageKind
from fleet.spec.model import NodeSpec
from fleet.store.records import ReimageRecord

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

NEW = node_spec("a1", 9)
"""Another board."""
S2 = node_spec("s2", 4, role=S1.role)


def put(room: Room, state: State) -> None:
    with room.fleet.store.write() as tx:
        tx._write_node("a1", {"state": state.value})


async def fail(room: Room, state: State) -> ReimageRecord:
    """a1 was installed again by order, and this is what became of it; the order."""
    room.controller.reimages.request("a1", by="ana")
    await room.rounds(State.REBOOT_TO_INSTALLER)
    intent = intent_of(room.fleet, A1)
    with room.fleet.store.write() as tx:
        found = tx.open_intent("a1")
        assert found is not None
        tx.close_intent(found, "installed", room.fleet.clock())
    put(room, state)
    await room.controller.reimages.drive()
    order = room.order()
    assert (order.number, order.outcome) == (intent, None), "it may come after all"
    return order


def order_of(room: Room, number: int) -> ReimageRecord:
    with room.fleet.store.read() as reader:
        found = reader.reimage("a1", number)
    assert found is not None
    return found


@pytest.mark.parametrize("state", [State.FAILED_FIRST_BOOT, State.FAILED_JOINING, State.LOST])
async def test_a_node_that_did_not_come_after_its_reimage_is_installed_once_more(
    tmp_path: Path, state: State
) -> None:
    async with open_room(tmp_path) as room:
        first = await fail(room, state)
        with pytest.raises(RefusedError, match="only a fresh join brings it back"):
            room.controller.reimages.cancel("a1", by="ana")
        assert not room.controller.reimages.is_open("a1", ReimageKind.REIMAGE)
        assert not (await room.controller.reimages.preview("a1")).problems
        assert "is ordered" in room.controller.reimages.request("a1", by="ana")
        ended = order_of(room, first.number)
        assert ended.outcome is Outcome.ABANDONED
        assert ended.reason == f"it came to nothing ({state}), and ana ordered anew"
        await room.rounds(State.REBOOT_TO_INSTALLER)
        room.report_all(A1)
        room.netboot()
        order = await room.until_closed()
        assert order.outcome is Outcome.DONE
        assert order.number > first.number
        assert room.controller.lock.holds() == ()


async def test_a_node_that_did_not_come_is_decommissioned_as_the_refusal_to_call_it_off_says(
    tmp_path: Path,
) -> None:
    async with open_room(tmp_path) as room:
        first = await fail(room, State.FAILED_JOINING)
        with pytest.raises(RefusedError) as refused:
            room.controller.reimages.cancel("a1", by="ana")
        assert "'bramble decommission a1'" in refused.value.hint
        room.controller.reimages.decommission("a1", by="ana")
        order = await room.until_closed()
        assert (order.kind, order.outcome) == (ReimageKind.DECOMMISSION, Outcome.DONE)
        assert order_of(room, first.number).outcome is Outcome.ABANDONED
        assert room.state_of() is State.DECOMMISSIONED


async def test_a_board_that_died_while_it_joined_is_replaced(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        assert NEW.serial is not None
        await fail(room, State.FAILED_JOINING)
        room.controller.reimages.replace("a1", NEW.serial.text, by="ana")
        await room.rounds(State.REBOOT_TO_INSTALLER)
        room.report_all(A1)
        room.netboot(board=NEW)
        order = await room.until_closed()
        assert (order.kind, order.outcome) == (ReimageKind.REPLACE, Outcome.DONE)


async def test_its_place_of_the_lock_is_held_through_a_second_order_that_is_called_off(
    tmp_path: Path,
) -> None:
    async with open_room(tmp_path) as room:
        await fail(room, State.LOST)
        (hold,) = room.controller.lock.holds()
        assert hold.stuck, "a person may free it"
        room.controller.reimages.request("a1", by="ana")
        (hold,) = room.controller.lock.holds()
        assert not hold.stuck
        room.controller.reimages.cancel("a1", by="ana")
        assert (await room.until_closed()).outcome is Outcome.CANCELLED
        assert room.state_of() is State.LOST
        room.controller.lock.tick()
        (hold,) = room.controller.lock.holds()
        assert (hold.node, hold.stuck) == ("a1", True)
        with pytest.raises(RefusedError, match="came to nothing"):
            room.controller.reimages.request("a2", by="ana")
        put(room, State.READY)
        assert room.controller.lock.holds() == ()


async def test_an_order_that_is_under_way_is_not_taken_for_one_that_came_to_nothing(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        order = await fail(room, State.JOINING)
        assert "under way already (joining)" in room.controller.reimages.request("a1", by="ana")
        with pytest.raises(RefusedError, match="a reimage of a1 is under way") as refused:
            room.controller.reimages.decommission("a1", by="ana")
        assert refused.value.hint == "Let it end.", "it can not be called off"
        assert order_of(room, order.number).outcome is None


async def test_a_dead_board_that_is_in_no_cluster_any_more_is_shown_to_be_replaced_at_once(
    tmp_path: Path,
) -> None:
    async with open_room(tmp_path) as room:
        assert NEW.serial is not None
        put(room, State.QUARANTINED)
        room.kube.answers = False
        shown = await room.controller.reimages.preview("a1", kind=ReimageKind.REPLACE, serial=NEW.serial.text)
        assert (shown.problems, shown.steps[0]) == ((), "imaging")
        assert [one.code for one in (await room.controller.reimages.preview("a1")).problems] != []


async def test_hours_in_which_no_server_ran_do_not_count_against_a_board_that_is_awaited(
    tmp_path: Path,
) -> None:
    """The power of the whole site was away: it starts, and asks, when the server is there again."""
    async with open_room(tmp_path) as room:
        room.controller.reimages.request("a1", by="policy")
        await room.rounds(State.REBOOT_TO_INSTALLER)
        limit = limit_s(State.REBOOT_TO_INSTALLER, room.record().role)
        assert limit is not None
        for _ in range(2):
            room.fleet.clock.advance(limit + 1.0)
            room.restart()
            room.controller.watch.tick()
            await room.controller.reimages.drive()
            assert room.state_of() is State.REBOOT_TO_INSTALLER
        room.fleet.clock.advance(limit + 1.0)
        room.report(S1)
        room.controller.watch.tick()
        assert room.state_of() is State.FAILED_REBOOT_TO_INSTALLER


# --- before there is a cluster


@pytest.fixture
def young(tmp_path: Path) -> Iterator[Fleet]:
    """Two servers were written; none of them was ever Ready."""
    opened = open_fleet(tmp_path, cluster_spec(S1, S2))
    for server in (S1, S2):
        install(opened, server)
    yield opened
    opened.store.close()


def install_again(fleet: Fleet, node: NodeSpec) -> None:
    """Under another intent than the first, by a person's word."""
    see(fleet, node)
    see(fleet, node, BootStage.KERNEL)
    intent = intent_of(fleet, node)
    assert intent == 2
    assert ask_to_install(fleet, node, intent=intent).token is None
    fleet.controller.people.approve(node.name)
    token = require_token(ask_to_install(fleet, node, intent=intent))
    fleet.controller.installs.complete(token, complete(fleet.controller.installs.plan(token)))
    assert state_of(fleet, node) is State.FIRST_BOOT


def let_its_limit_pass(fleet: Fleet, state: State) -> None:
    limit = limit_s(state, S1.role)
    assert limit is not None
    fleet.clock.advance(limit + 1.0)
    fleet.controller.watch.tick()


async def test_a_first_server_that_did_not_come_is_installed_again(young: Fleet) -> None:
    """There is no API that could be asked, and nothing that it could be taken out of."""
    let_its_limit_pass(young, State.FIRST_BOOT)
    assert state_of(young, S1) is State.FAILED_FIRST_BOOT
    desk = young.controller.reimages
    shown = await desk.preview("s1")
    assert (shown.problems, shown.steps) == ((), ("imaging", "first-boot", "joining", "ready"))
    with pytest.raises(RefusedError, match="was never in a cluster"):
        desk.request("s1", image="1c" * 32, by="ana")
    assert "bramble approve s1" in desk.request("s1", by="ana")
    assert state_of(young, S1) is State.DECLARED
    with young.store.read() as reader:
        assert all(ticket.used_at is not None for ticket in reader.tickets("s1")), "the old disk stays out"
    install_again(young, S1)
    first = enrol(young, S1)
    assert young.controller.joins.desired(first).join, "it founds the cluster"


async def test_a_first_server_that_failed_to_found_is_taken_out_and_the_next_one_founds(young: Fleet) -> None:
    first, second = enrol(young, S1), enrol(young, S2)
    joins = young.controller.joins
    assert joins.desired(first).join
    joins.join_material(first)
    assert not joins.desired(second).join
    let_its_limit_pass(young, State.JOINING)
    assert state_of(young, S1) is State.FAILED_JOINING
    young.controller.reimages.decommission("s1", by="ana")
    assert state_of(young, S1) is State.DECOMMISSIONED
    assert joins.desired(second).join


async def test_a_board_that_never_came_is_replaced_before_there_is_a_cluster(young: Fleet) -> None:
    let_its_limit_pass(young, State.FIRST_BOOT)
    other = node_spec("s1", 9, role=S1.role)
    assert other.serial is not None
    young.controller.reimages.replace("s1", other.serial.text, by="ana")
    assert state_of(young, S1) is State.DECLARED
    install_again(young, other)
