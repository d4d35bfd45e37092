"""The control server ends in the middle of a re-image: at every question to the cluster, at every write.

The process that goes on knows the record and the cluster, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes_cluster import CORDON, pod
from fakes_kube_memory import CutOffError
from fleet_story import intent_of
from reimage_room import A1, S1, Room, open_room

from fleet.lifecycle import State
from fleet.reimage.kinds import Outcome
from fleet.store.database import Store
from fleet.store.errors import StoreError
from fleet.store.transaction import Transaction

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


async def count_calls(state: Path, *, cancel: bool) -> int:
    """How many questions a whole road asks."""
    async with open_room(state) as room:
        start(room)
        room.kube.calls_left = 10_000
        await road(room, cancel=cancel)
        return 10_000 - room.kube.calls_left


def start(room: Room) -> None:
    room.kube.pods["a1"] = [pod("web"), pod("job")]
    room.controller.reimages.request("a1", by="socket")


async def road(room: Room, *, cancel: bool) -> None:
    """To the end of the order, whatever it is."""
    if cancel:
        room.kube.refusals["web"] = (429, "no")
        await room.rounds(State.DRAINING)
        room.controller.reimages.cancel("a1", by="ana")
    else:
        await room.rounds(State.REBOOT_TO_INSTALLER, State.READY)
        if room.state_of() is State.REBOOT_TO_INSTALLER:
            room.netboot()
    await room.until_closed()


@pytest.mark.parametrize("cancel", [False, True], ids=["to-the-end", "called-off"])
async def test_the_process_may_end_at_every_question(tmp_path: Path, cancel: bool) -> None:
    total = await count_calls(tmp_path / "whole", cancel=cancel)
    assert total > 8
    for calls in range(total):
        async with open_room(tmp_path / f"{cancel}-{calls}") as room:
            start(room)
            room.kube.calls_left = calls
            with pytest.raises(CutOffError):
                await road(room, cancel=cancel)
            room.kube.calls_left = None
            room.restart()
            room.report_all()
            await road_again(room, cancel=cancel)
            order = room.order()
            assert order.outcome is (Outcome.CANCELLED if cancel else Outcome.DONE), order.reason
            assert room.state_of() is State.READY
            assert not room.kube.seen["a1"].unschedulable
            assert CORDON not in room.kube.seen["a1"].annotations
            assert room.kube.changes.count("delete node a1") == (0 if cancel else 1)
            assert intent_of(room.fleet, A1) is None
            assert S1.name in room.kube.seen


async def road_again(room: Room, *, cancel: bool) -> None:
    """The rest of the road, from wherever the first process stopped."""
    if not cancel:
        await road(room, cancel=False)
        return
    if room.order().closed_at is None:
        room.controller.reimages.cancel("a1", by="ana")
    await room.until_closed()


async def test_a_mistake_of_ours_ends_neither_the_server_nor_the_other_orders(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        start(room)
        driver = room.controller.reimages.driver

        async def mistaken(_name: str) -> bool:
            raise ZeroDivisionError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(driver, "advance", mistaken)
            work = asyncio.create_task(driver.run())
            async with asyncio.timeout(60):
                while "mistake" not in room.order().reason:  # noqa: ASYNC110 (the record tells nobody)
                    await asyncio.sleep(0.01)
            assert not work.done()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        await road(room, cancel=False)
        assert room.order().outcome is Outcome.DONE


class Cut(BaseException):
    """The process ended right after a transaction became durable, or right before."""


@contextlib.contextmanager
def cut_at_write(number: int, *, after: bool) -> Iterator[list[int]]:
    """End the caller's process at its `number`-th transaction from now on."""
    seen = [0]
    write = Store.write

    @contextlib.contextmanager
    def counted(self: Store) -> Iterator[Transaction]:
        seen[0] += 1
        if seen[0] == number and not after:
            raise Cut
        with write(self) as tx:
            yield tx
        if seen[0] == number and after:
            raise Cut

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "write", counted)
        yield seen


@pytest.mark.parametrize("after", [False, True], ids=["before-it-is-durable", "after-it-is-durable"])
async def test_the_process_may_end_at_every_write(tmp_path: Path, after: bool) -> None:
    async with open_room(tmp_path / "whole") as room:
        start(room)
        with cut_at_write(10**6, after=after) as seen:
            await room.rounds(State.REBOOT_TO_INSTALLER)
    total = seen[0]
    assert total >= 6, "each state of the road is one write"
    for number in range(1, total + 1):
        async with open_room(tmp_path / f"{after}-{number}") as room:
            start(room)
            with cut_at_write(number, after=after), pytest.raises(Cut):
                await room.rounds(State.REBOOT_TO_INSTALLER)
            room.restart()
            room.report_all()
            await road(room, cancel=False)
            assert room.order().outcome is Outcome.DONE
            assert room.kube.changes.count("delete node a1") == 1
            uid = room.order().progress["node_uid"]
            assert uid != room.kube.seen["a1"].uid


@contextlib.contextmanager
def full_from_write(number: int) -> Iterator[None]:
    """The disk is full from the `number`-th transaction on."""
    seen, write = [0], Store.write

    @contextlib.contextmanager
    def full(self: Store) -> Iterator[Transaction]:
        seen[0] += 1
        if seen[0] >= number:
            raise StoreError("database or disk is full", "", self.place)
        with write(self) as tx:
            yield tx

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "write", full)
        yield


DONE_IN = {
    "patch a1": {State.CORDONED, State.DRAINING, State.NODE_DELETED},
    "evict web": {State.DRAINING, State.NODE_DELETED},
    "delete node a1": {State.NODE_DELETED},
    "delete a1.node-password.k3s": {State.NODE_DELETED},
}
"""Every deed, and what the record says at the moment after it."""


async def test_nothing_is_done_before_the_record_of_it_is_durable(tmp_path: Path) -> None:
    for number in range(1, 8):
        async with open_room(tmp_path / str(number)) as room:
            start(room)
            with full_from_write(number):
                for _ in range(12):
                    before = len(room.kube.changes)
                    await room.controller.reimages.drive()
                    for change in room.kube.changes[before:]:
                        assert room.state_of() in DONE_IN.get(change, DONE_IN["evict web"])
                        if change == "delete node a1":
                            assert room.order().progress["node_uid"]
                    room.kube.settle()
                    room.fleet.clock.advance(2.0)
            await road(room, cancel=False)  # there is room again
            assert room.order().outcome is Outcome.DONE
