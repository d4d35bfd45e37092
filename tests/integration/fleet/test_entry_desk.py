"""Into the installer over a real controller: the agent is told, then the power is cut, then a person is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from fakes_fleet import Fleet, hardware_of, node_spec, status_report
from fleet_story import texts
from reimage_room import A1, A2, S1, Room, open_room

from agent.orders import REBOOT
from agent.protocol import K3sState, Problem, RebootOrder
from fleet.entry.ways import MAX_CYCLES, MAX_REBOOTS, PATIENCE_S
from fleet.lifecycle import State
from fleet.power.cycle import Pace
from fleet.power.driver import PowerDriver, PowerError, PowerState
from fleet.refusal import RefusedError
from fleet.spec.model import NodeSpec
from fleet.spec.power import TasmotaPower

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

PLUGGED = replace(A1, power=TasmotaPower(url="http://10.77.0.60", output=1))


class Outlet:
    """The node's outlet; counts what is done to it."""

    def __init__(self) -> None:
        self.cuts = 0
        self.fault = ""

    def open(self, spec: NodeSpec, environ: Mapping[str, str]) -> PowerDriver:
        assert spec.name == "a1", "no other node's power is touched"
        return self

    async def on(self) -> None:
        if self.fault:
            raise PowerError(self.fault)

    async def off(self) -> None:
        if self.fault:
            raise PowerError(self.fault)
        self.cuts += 1

    async def state(self) -> PowerState:
        return PowerState.UNKNOWN


@contextlib.asynccontextmanager
async def entering(path: Path, *nodes: NodeSpec) -> AsyncIterator[tuple[Room, Outlet]]:
    """A re-image of a1 that is about to make it start from the network."""
    async with open_room(path, S1, *(nodes or (A1,)), A2) as room:
        outlet = Outlet()
        plug(room, outlet)
        room.controller.reimages.request("a1", by="anna")
        await room.rounds(State.REBOOT_TO_INSTALLER)
        yield room, outlet


def plug(room: Room, outlet: Outlet) -> None:
    async def at_once(_seconds: float) -> None:
        await asyncio.sleep(0)

    room.controller.power.pace = Pace(sleep=at_once)
    room.controller.power.open_driver = outlet.open


def report(room: Room, *, boot: str = "boot-old", problems: tuple[Problem, ...] = ()) -> int:
    """The agent of the old system speaks; the number of the order that it is told."""
    room.sequence += 1
    status = status_report(hardware_of(A1), room.sequence, k3s=K3sState.RUNNING, boot_id=boot)
    answer = room.controller.joins.status(room.certificates["a1"], replace(status, problems=problems))
    return answer.reboot


async def drive(room: Room, seconds: float = 1.0) -> str:
    room.fleet.clock.advance(seconds)
    await room.controller.reimages.drive()
    return room.order().reason


async def carry_out_power(room: Room) -> None:
    task = asyncio.create_task(room.controller.power.run())
    async with asyncio.timeout(20):
        while room.controller.power.is_busy("a1"):  # noqa: ASYNC110  (it has no event)
            await asyncio.sleep(0.002)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def fetch(room: Room) -> RebootOrder:
    node = room.controller.joins.caller(room.certificates["a1"])
    order = room.controller.reboots.order_for(node)
    assert room.controller.pki.sign_order(REBOOT, node.name, order).kind == REBOOT
    return order


async def test_living_node_is_told_once_with_its_intent_and_boots_into_the_installer(tmp_path: Path) -> None:
    async with entering(tmp_path) as (room, _outlet):
        assert report(room) == 0
        assert "told to restart" in await drive(room)
        number = report(room)
        assert number == 1
        assert fetch(room) == RebootOrder(number=1, intent=room.order().number, boot_order="0xf62")
        for _ in range(5):
            assert "is awaited on the network" in await drive(room, 20.0)
        assert report(room) == number, "it is told of one order, not of more and more"
        room.netboot()
        assert (await room.until_closed()).outcome == "done"
        assert sum("told to restart into the installer" in text for text in texts(room.fleet, "a1")) == 1


async def test_order_of_an_earlier_installation_is_not_carried_out_by_the_next_one(tmp_path: Path) -> None:
    """It is new to an agent that begins to count."""
    async with entering(tmp_path) as (room, _outlet):
        report(room)
        await drive(room)
        assert report(room) == 1
        room.netboot()
        assert (await room.until_closed()).outcome == "done"
        room.controller.reimages.request("a1", by="anna")
        await room.rounds(State.REBOOT_TO_INSTALLER)
        assert report(room, boot="boot-new") == 0
        with pytest.raises(RefusedError, match="not to be restarted"):
            fetch(room)
        await drive(room)
        assert report(room, boot="boot-new") == 2
        assert fetch(room).intent == room.order().number


async def test_node_that_comes_up_in_its_old_system_is_told_again_over_a_restart_of_the_server(
    tmp_path: Path,
) -> None:
    async with entering(tmp_path, PLUGGED) as (room, outlet):
        told = []
        for attempt in range(1, MAX_REBOOTS + 1):
            report(room, boot=f"boot-{attempt}")
            await drive(room)
            told.append(report(room, boot=f"boot-{attempt}"))
            room.restart()
            plug(room, outlet)
            room.fleet.clock.advance(40)
        assert told == [1, 2, 3]
        report(room, boot="boot-last")
        assert "again and again" in await drive(room)
        await carry_out_power(room)
        assert outlet.cuts == 1


async def test_order_is_named_to_no_other_start_than_the_one_that_it_was_given_to(tmp_path: Path) -> None:
    """A disk that takes nothing any more forgets that it was carried out."""
    async with entering(tmp_path) as (room, _outlet):
        report(room)
        await drive(room)
        assert report(room) == 1
        room.fleet.clock.advance(40)
        assert report(room, boot="boot-next") == 0
        with pytest.raises(RefusedError, match="not to be restarted"):
            fetch(room)
        assert "is told to restart" in await drive(room)
        assert report(room, boot="boot-next") == 2


async def test_hung_node_is_power_cycled_and_what_comes_up_is_told(tmp_path: Path) -> None:
    async with entering(tmp_path, PLUGGED) as (room, outlet):
        room.fleet.clock.advance(100)
        assert "power-cycled: it does not answer" in await drive(room)
        assert "is being power-cycled" in await drive(room)
        await carry_out_power(room)
        assert outlet.cuts == 1
        assert "is awaited on the network" in await drive(room, 5)
        report(room, boot="boot-after-the-cut")
        assert "told to restart" in await drive(room)
        assert report(room, boot="boot-after-the-cut") == 1
        room.netboot()
        assert (await room.until_closed()).outcome == "done"


async def test_board_that_stays_dark_is_cut_so_often_and_then_a_person_is_told_what_to_do(
    tmp_path: Path,
) -> None:
    async with entering(tmp_path, PLUGGED) as (room, outlet):
        room.fleet.clock.advance(100)
        for _ in range(8):
            await drive(room)
            await carry_out_power(room)
            room.restart()
            plug(room, outlet)
            room.fleet.clock.advance(PATIENCE_S)
        assert outlet.cuts == MAX_CYCLES
        reason = await drive(room)
        assert "was power-cycled 2 times and does not answer: pull its plug for five seconds" in reason
        assert any("pull its plug for five seconds" in text for text in texts(room.fleet, "a1"))
        room.netboot()  # the person does
        assert (await room.until_closed()).outcome == "done"


async def test_server_that_was_away_for_long_hears_the_agent_before_it_cuts_any_power(tmp_path: Path) -> None:
    async with entering(tmp_path, PLUGGED) as (room, outlet):
        room.fleet.clock.advance(7200)
        room.restart()
        plug(room, outlet)
        for _ in range(3):
            assert "is given 5 min to report" in await drive(room, 60)
        report(room)
        assert "told to restart" in await drive(room)
        assert report(room) == 1
        assert outlet.cuts == 0


@pytest.mark.parametrize(("node", "warned"), [(A1, True), (PLUGGED, False)], ids=["by hand", "plug"])
async def test_person_is_warned_before_that_a_silent_board_needs_a_hand(
    tmp_path: Path, node: NodeSpec, warned: bool
) -> None:
    async with open_room(tmp_path, S1, node, A2) as room:
        alive = await room.controller.reimages.preview("a1")
        assert "way-in" not in {problem.code for problem in alive.warnings}
        room.fleet.clock.advance(600)
        for other in (S1, A2):
            room.report(other)
        room.kube.join("a1", ready=False)
        silent = await room.controller.reimages.preview("a1")
        assert ("way-in" in {problem.code for problem in silent.warnings}) == warned


async def test_without_a_switch_a_person_is_told_at_once(tmp_path: Path) -> None:
    async with entering(tmp_path) as (room, _outlet):
        room.fleet.clock.advance(100)
        assert "has no switch that Bramble could use and does not answer" in await drive(room)


async def test_plug_that_fails_is_named_to_the_person(tmp_path: Path) -> None:
    async with entering(tmp_path, PLUGGED) as (room, outlet):
        outlet.fault = "the Tasmota device did not answer within 6 s"
        room.fleet.clock.advance(100)
        await drive(room)
        await carry_out_power(room)
        reason = await drive(room)
        assert "could not be power-cycled" in reason
        assert "did not answer within 6 s" in reason
        outlet.fault = ""  # it is back on the network
        assert "power-cycled: it does not answer" in await drive(room, PATIENCE_S)
        await carry_out_power(room)
        assert outlet.cuts == 1


async def test_agent_that_refuses_says_why_to_the_person_and_is_not_cut(tmp_path: Path) -> None:
    async with entering(tmp_path, PLUGGED) as (room, outlet):
        report(room)
        await drive(room)
        assert report(room) == 1
        refused = Problem(
            "reboot_refused",
            "order 1: its boot order 0xf41 does not begin with the network",
            "'bramble eeprom apply NODE' puts the network first.",
        )
        report(room, problems=(refused,))
        room.restart()
        plug(room, outlet)
        reason = await drive(room)
        assert "its boot order 0xf41 does not begin with the network" in reason
        assert "'bramble eeprom apply a1'" in reason
        assert outlet.cuts == 0


async def test_node_back_from_the_grave_is_not_told_when_nobody_wants_it_any_more(tmp_path: Path) -> None:
    async with entering(tmp_path) as (room, _outlet):
        report(room)
        await drive(room)
        old = room.certificates["a1"]
        room.netboot()
        await room.until_closed()
        with pytest.raises(Exception, match="certificate"):
            fetch_with(room.fleet, old)
        assert report(room, boot="boot-new") == 0


def fetch_with(fleet: Fleet, certificate: str) -> None:
    fleet.controller.joins.caller(certificate)


async def test_new_board_of_a_replacement_is_waited_for_and_the_old_one_is_left_alone(tmp_path: Path) -> None:
    async with open_room(tmp_path, S1, PLUGGED, A2) as room:
        outlet = Outlet()
        plug(room, outlet)
        new = node_spec("a1", 77)
        assert new.serial is not None
        room.fleet.clock.advance(3600)
        room.report(S1)
        room.controller.watch.tick()
        room.controller.reimages.replace("a1", new.serial.text, by="anna")
        await room.rounds(State.REBOOT_TO_INSTALLER)
        assert "waits for the new board of a1" in await drive(room)
        assert outlet.cuts == 0
