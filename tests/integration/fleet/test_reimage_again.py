"""A re-image that came to nothing is no dead end, and hours in which no server ran are no failure."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes_fleet import node_spec
from fleet_story import intent_of
from reimage_room import A1, S1, Room, open_room

from fleet.lifecycle import State, limit_s
from fleet.refusal import RefusedError
from fleet.reimage.kinds import Outcome, ReimageKind
from fleet.store.records import ReimageRecord

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

NEW = node_spec("a1", 9)
"""Another board."""


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
