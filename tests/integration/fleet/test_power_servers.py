"""Several control servers on one PostgreSQL: a board that one power-cycles is no other's business, while the
first one lives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from fakes_fleet import Clock, Fleet, cluster_spec, node_spec, open_fleet
from postgres_server import PostgresServer

from fleet.power import desk as power_desk
from fleet.power.cycle import Pace, PowerAction
from fleet.power.debts import LEASE_S, NOBODY, History
from fleet.power.desk import PowerDesk
from fleet.power.driver import PowerDriver, PowerError, PowerState
from fleet.refusal import RefusedError
from fleet.spec.model import NodeSpec
from fleet.spec.power import TasmotaPower

pytestmark = pytest.mark.integration

WORKER = replace(node_spec("worker", 9), power=TasmotaPower(url="http://127.0.0.1:9", output=1))


@dataclass
class Outlet:
    """One outlet, which both servers can switch."""

    state: PowerState = PowerState.ON
    switched: list[str] = field(default_factory=list)
    refuses: bool = False

    def seen_by(self, server: str) -> Callable[[NodeSpec, Mapping[str, str]], PowerDriver]:
        return lambda _spec, _environ: _Driver(self, server)


@dataclass
class _Driver:
    outlet: Outlet
    server: str

    async def off(self) -> None:
        self._switch(PowerState.OFF)

    async def on(self) -> None:
        self._switch(PowerState.ON)

    async def state(self) -> PowerState:
        return self.outlet.state

    def _switch(self, state: PowerState) -> None:
        if self.outlet.refuses and state is PowerState.ON:
            raise PowerError("its relay is stuck")
        self.outlet.state = state
        self.outlet.switched.append(f"{self.server} {state.value}")


@dataclass
class Two:
    """Two servers; the first one's cycle stands still between off and on until `go_on` is set."""

    first: Fleet
    second: Fleet
    clock: Clock
    outlet: Outlet
    is_off: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    def history(self) -> History:
        with self.first.store.read() as reader:
            return History.load(reader, "worker")

    async def pause(self, _seconds: float) -> None:
        if self.outlet.state is PowerState.OFF:
            self.is_off.set()
            await self.go_on.wait()

    async def look(self, fleet: Fleet) -> None:
        """What that server does every few seconds; its orders are carried out."""
        fleet.controller.power._resume()
        await ended(fleet.controller.power)


async def ended(desk: PowerDesk) -> None:
    async with asyncio.timeout(30):
        while desk.is_busy("worker"):  # noqa: ASYNC110  (what it waits for has no event)
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def working(*fleets: Fleet) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        for fleet in fleets:
            task = asyncio.create_task(fleet.controller.power.run())
            stack.push_async_callback(_end, task)
        yield


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.fixture
def two(postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Two]:
    place = postgres.new_database()
    monkeypatch.setattr("fakes_fleet.store_place", lambda _state: place)
    monkeypatch.setattr(power_desk, "RENEW_S", 3600.0)  # the tests say when a server looks
    spec, clock, outlet = cluster_spec(WORKER), Clock(), Outlet()
    made = Two(open_fleet(tmp_path, spec, clock), open_fleet(tmp_path, spec, clock), clock, outlet)
    for name, fleet in (("first", made.first), ("second", made.second)):
        fleet.controller.power.open_driver = outlet.seen_by(name)
        fleet.controller.power.pace = Pace(sleep=made.pause)
    try:
        yield made
    finally:
        made.first.store.close()
        made.second.store.close()


def test_a_cycle_of_a_server_that_lives_is_left_alone(two: Two) -> None:
    async def scene() -> None:
        async with working(two.first):
            two.first.controller.power.order("worker", PowerAction.CYCLE, by="anna")
            await two.is_off.wait()
            async with working(two.second):  # it starts in the middle
                await two.look(two.second)
                with pytest.raises(RefusedError, match="another control server is power-cycling worker"):
                    two.second.controller.power.order("worker", PowerAction.ON, by="bert")
                for _ in range(4):  # longer than a lease that nobody renews
                    two.clock.advance(LEASE_S / 2)
                    two.first.controller.power._resume()
                    await two.look(two.second)
                assert two.outlet.switched == ["first off"]
                two.go_on.set()
                await ended(two.first.controller.power)
                await two.look(two.second)
        assert two.outlet.switched == ["first off", "first on"]
        assert two.history() == History(cuts=two.history().cuts)

    asyncio.run(scene())


def test_a_board_that_a_dead_server_left_dark_is_switched_on_by_the_other_one(two: Two) -> None:
    async def scene() -> None:
        async with working(two.first, two.second):
            two.first.controller.power.order("worker", PowerAction.CYCLE, by="anna")
            await two.is_off.wait()
            two.clock.advance(LEASE_S - 1)
            await two.look(two.second)
            assert two.outlet.switched == ["first off"]
            two.clock.advance(2)
            two.second.controller.power._resume()
            assert two.history().owner == two.second.controller.power._owner.me
            await ended(two.second.controller.power)
            assert two.outlet.switched == ["first off", "second on"]
            assert not two.history().owed

    asyncio.run(scene())


def test_two_servers_do_not_both_take_a_debt_over(two: Two) -> None:
    with two.first.store.write() as tx:
        History(cuts=(two.clock() - 90.0,)).lend("gone").save(tx, "worker")

    async def scene() -> None:
        for fleet in (two.first, two.second):
            fleet.controller.power._resume()
        busy = [fleet.controller.power.is_busy("worker") for fleet in (two.first, two.second)]
        assert busy == [True, False]
        async with working(two.first):
            await ended(two.first.controller.power)
        assert two.outlet.switched == ["first on"]
        assert not two.history().owed

    asyncio.run(scene())


def test_who_was_taken_for_dead_does_not_settle_anothers_debt(two: Two) -> None:
    two.first.controller.power.order("worker", PowerAction.CYCLE, by="anna")
    two.clock.advance(LEASE_S + 1)
    two.second.controller.power._resume()
    job = two.first.controller.power.job("worker")
    assert job is not None
    two.first.controller.power._end(job, found="it is on")
    assert two.history().owed
    assert two.history().owner == two.second.controller.power._owner.me


def test_a_debt_that_could_not_be_settled_is_tried_again_by_a_start_and_not_for_ever(two: Two) -> None:
    async def scene() -> None:
        two.outlet.refuses = True
        two.go_on.set()
        async with working(two.first):
            two.first.controller.power.order("worker", PowerAction.CYCLE, by="anna")
            await ended(two.first.controller.power)
            assert two.history() == History(cuts=two.history().cuts, owed=True, owner=NOBODY)
            for fleet in (two.first, two.second):
                fleet.controller.power._resume()
                assert not fleet.controller.power.is_busy("worker")
        two.outlet.refuses = False
        async with working(two.second), asyncio.timeout(30):
            while two.history().owed:  # noqa: ASYNC110  (what it waits for is in the record)
                await asyncio.sleep(0.02)
        assert two.outlet.switched[-1] == "second on"

    asyncio.run(scene())
