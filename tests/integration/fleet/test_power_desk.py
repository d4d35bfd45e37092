"""Orders for a node's power: taken, refused, carried out, remembered over a restart; over the API too."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from fakes_fleet import Fleet, cluster_spec, node_spec, open_fleet
from power_devices import Tasmota, serving

from fleet.lifecycle import Happening
from fleet.power.cycle import Pace, PowerAction
from fleet.power.desk import PowerDesk, PowerJob
from fleet.power.driver import PowerDriver, PowerState
from fleet.refusal import RefusedError
from fleet.spec.model import NodeSpec, Role
from fleet.spec.power import PowerSpec, TasmotaPower
from fleet.timeline import Entry, Kind

pytestmark = pytest.mark.integration


async def at_once(_seconds: float) -> None:
    await asyncio.sleep(0)


PLUG = TasmotaPower(url="http://127.0.0.1:9", output=1)


def nodes(power: PowerSpec | None = PLUG, *, servers: int = 1) -> tuple[NodeSpec, ...]:
    made = [node_spec(f"server-{number}", number, role=Role.SERVER) for number in range(1, servers + 1)]
    made.append(node_spec("worker", 9))
    return tuple(replace(node, power=power) for node in made)


def open_desk(path: Path, power: PowerSpec | None = PLUG, *, servers: int = 1) -> Fleet:
    fleet = open_fleet(path, cluster_spec(*nodes(power, servers=servers)))
    fleet.controller.power.pace = Pace(sleep=at_once)
    return fleet


@contextlib.asynccontextmanager
async def working(desk: PowerDesk) -> AsyncIterator[None]:
    task = asyncio.create_task(desk.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  (what it waits for has no event)
            await asyncio.sleep(0.005)


async def ended(desk: PowerDesk, name: str) -> PowerJob:
    await until(lambda: not desk.is_busy(name))
    job = desk.job(name)
    assert job is not None
    return job


def make_ready(fleet: Fleet, *names: str) -> None:
    entry = Entry(kind=Kind.STATE, text="test")
    for name in names:
        with fleet.store.write() as tx:
            node = tx.require_node(name)
            for step in (Happening.POWERED_ON, Happening.ENROLLED, Happening.BECAME_READY):
                node = tx.move(node, step, entry, fleet.clock())


def texts(fleet: Fleet, name: str) -> list[str]:
    with fleet.store.read() as reader:
        return [event.text for event in reader.timeline(node=name)]


def test_cycle_is_carried_out_and_stands_in_the_timeline(tmp_path: Path) -> None:
    plug = Tasmota({1: True, 2: True})

    async def scene() -> None:
        async with serving(plug) as url:
            fleet = open_desk(tmp_path, None)
            spec = cluster_spec(
                *nodes()[:1], replace(node_spec("worker", 9), power=TasmotaPower(url=url, output=2))
            )
            fleet.controller.declare(spec)
            desk = fleet.controller.power
            async with working(desk):
                desk.order("worker", PowerAction.CYCLE, by="anna", why="it hangs")
                assert (await ended(desk, "worker")).error == ""
            said = texts(fleet, "worker")
            assert any(
                "a power-cycle was ordered by anna, output 2" in text and "it hangs" in text for text in said
            )
            assert any(text.startswith("power-cycled; ") for text in said)
            fleet.store.close()

    asyncio.run(scene())
    assert plug.switched == [(2, False), (2, True)]


def test_dry_run_says_the_steps_and_sends_nothing(tmp_path: Path) -> None:
    fleet = open_desk(tmp_path)
    before = texts(fleet, "worker")
    steps = fleet.controller.power.preview("worker", PowerAction.CYCLE)
    assert steps[0] == "switch worker off: output 1 of the Tasmota device at http://127.0.0.1:9"
    assert steps[-1].startswith("switch worker on")
    assert texts(fleet, "worker") == before
    fleet.store.close()


@pytest.mark.parametrize("power", [None])
def test_node_without_a_driver_says_what_a_hand_does(tmp_path: Path, power: PowerSpec | None) -> None:
    fleet = open_desk(tmp_path, power)
    with pytest.raises(RefusedError, match="nothing switches worker but a person: pull its plug"):
        fleet.controller.power.order("worker", PowerAction.CYCLE, by="anna")
    fleet.store.close()


def test_limit_holds_over_a_restart_and_never_for_on(tmp_path: Path) -> None:
    fleet = open_desk(tmp_path)
    fleet.controller.power.order("worker", PowerAction.OFF, by="anna")
    fleet.store.close()
    again = open_fleet(tmp_path, cluster_spec(*nodes()), fleet.clock)
    again.clock.advance(30)
    with pytest.raises(RefusedError) as caught:
        again.controller.power.order("worker", PowerAction.CYCLE, by="policy")
    assert (caught.value.status, caught.value.code) == (429, "too-often")
    again.controller.power.order("worker", PowerAction.ON, by="anna")
    again.store.close()


def test_order_under_way_is_not_joined_by_another(tmp_path: Path) -> None:
    fleet = open_desk(tmp_path)
    fleet.controller.power.order("worker", PowerAction.ON, by="anna")
    with pytest.raises(RefusedError, match="under way"):
        fleet.controller.power.order("worker", PowerAction.CYCLE, by="bert")
    fleet.store.close()


def test_cut_that_would_cost_the_quorum_needs_force(tmp_path: Path) -> None:
    fleet = open_desk(tmp_path, servers=3)
    make_ready(fleet, "server-1", "server-2", "server-3", "worker")
    desk = fleet.controller.power
    desk.preview("server-1", PowerAction.OFF)
    with fleet.store.write() as tx:
        lost = Entry(kind=Kind.STATE, text="silent")
        tx.move(tx.require_node("server-2"), Happening.FELL_SILENT, lost, fleet.clock())
    with pytest.raises(RefusedError, match="1 of 3 servers are ready, 2 are needed"):
        desk.preview("server-1", PowerAction.OFF)
    desk.preview("server-1", PowerAction.OFF, force=True)
    desk.preview("server-2", PowerAction.CYCLE)  # it is the dead one
    fleet.store.close()


def test_two_servers_can_not_spare_one(tmp_path: Path) -> None:
    fleet = open_desk(tmp_path, servers=2)
    make_ready(fleet, "server-1", "server-2")
    with pytest.raises(RefusedError, match="stand still"):
        fleet.controller.power.preview("server-1", PowerAction.CYCLE)
    fleet.store.close()


def test_board_that_a_killed_server_left_dark_is_switched_on_at_the_next_start(tmp_path: Path) -> None:
    plug = Tasmota({1: True})

    async def scene() -> None:
        async with serving(plug) as url:
            power = TasmotaPower(url=url, output=1)
            first = open_desk(tmp_path, power)
            reached = asyncio.Event()

            async def die(_seconds: float) -> None:
                reached.set()
                await asyncio.Event().wait()

            first.controller.power.pace = Pace(sleep=die)
            gone: dict[str, PowerDriver] = {}

            def open_once(spec: NodeSpec, environ: Mapping[str, str]) -> PowerDriver:
                gone["driver"] = OffOnly(url)
                return gone["driver"]

            first.controller.power.open_driver = open_once
            task = asyncio.create_task(first.controller.power.run())
            first.controller.power.order("worker", PowerAction.CYCLE, by="anna")
            await reached.wait()
            assert plug.outputs == {1: False}
            task.cancel()  # what it still tries to switch on, as it ends, gets nowhere: as with kill -9
            with contextlib.suppress(asyncio.CancelledError, BaseExceptionGroup):
                await task
            first.store.close()
            assert plug.outputs == {1: False}
            second = open_fleet(tmp_path, cluster_spec(*nodes(power)), first.clock)
            async with working(second.controller.power):
                await until(lambda: plug.outputs[1])
                await ended(second.controller.power, "worker")
            assert any("ended is not on record" in text for text in texts(second, "worker"))
            second.store.close()
            third = open_fleet(tmp_path, cluster_spec(*nodes(power)), first.clock)
            async with working(third.controller.power):
                await asyncio.sleep(0)
                assert third.controller.power.job("worker") is None
            third.store.close()

    asyncio.run(scene())


class OffOnly:
    """A real plug to which nothing gets through any more once it is off."""

    def __init__(self, url: str) -> None:
        from fleet.power.tasmota import TasmotaDriver

        self._driver = TasmotaDriver(TasmotaPower(url=url, output=1), {})

    async def off(self) -> None:
        await self._driver.off()

    async def on(self) -> None:
        raise asyncio.CancelledError

    async def state(self) -> PowerState:
        return await self._driver.state()


def test_failure_is_an_alarm_with_its_mend(tmp_path: Path) -> None:
    fleet = open_desk(tmp_path)  # nothing listens at the plug's address

    async def scene() -> PowerJob:
        desk = fleet.controller.power
        async with working(desk):
            desk.order("worker", PowerAction.CYCLE, by="anna")
            return await ended(desk, "worker")

    job = asyncio.run(scene())
    assert "can not be switched on" in job.error
    with fleet.store.read() as reader:
        alarm = reader.timeline(node="worker")[-1]
    assert alarm.kind == "alarm"
    assert alarm.text.startswith("a power-cycle failed: ")
    assert alarm.hint
    fleet.store.close()
