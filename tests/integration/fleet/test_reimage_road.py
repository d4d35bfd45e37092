"""The road of a re-image over a real controller and store: every state, in order, and what is left behind."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from fakes_cluster import CORDON, pod
from fleet_story import texts
from reimage_room import open_room

from fleet.lifecycle import State
from fleet.reimage.driver import ReimageDriver
from fleet.reimage.kinds import Outcome

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


async def test_a_healthy_agent_takes_the_whole_road(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        room.kube.pods["a1"] = [pod("web"), pod("metrics", owner="DaemonSet"), pod("done", is_finished=True)]
        before = room.kube.seen["a1"].uid
        room.controller.reimages.request("a1", by="socket", why="its disk is worn")
        passed = [room.state_of()]
        for _ in range(40):
            await room.controller.reimages.drive()
            room.kube.settle()
            if room.state_of() is not passed[-1]:
                passed.append(room.state_of())
            if passed[-1] is State.REBOOT_TO_INSTALLER:
                break
            room.fleet.clock.advance(2.0)
        assert passed == [
            State.REIMAGE_REQUESTED,
            State.PREFLIGHT,
            State.CORDONED,
            State.DRAINING,
            State.NODE_DELETED,
            State.REBOOT_TO_INSTALLER,
        ]
        assert room.kube.changes == [
            "patch a1",
            "evict web",
            "delete node a1",
            "delete a1.node-password.k3s",
        ]
        assert "a1" not in room.kube.seen

        room.netboot()
        assert room.state_of() is State.READY
        order = await room.until_closed()
        assert (order.outcome, order.reason) == (Outcome.DONE, "a1 is Ready again")
        after = room.kube.seen["a1"]
        assert after.uid != before
        assert not after.unschedulable
        assert CORDON not in after.annotations
        said = texts(room.fleet, "a1")
        assert "reimage ordered by socket: its disk is worn" in said
        assert "reimage done: a1 is Ready again" in said


async def test_steps_that_need_no_waiting_follow_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a re-image adds to its parts: not a round for each of its states."""
    monkeypatch.setattr("fleet.reimage.driver.ROUND_S", 0.2)
    begun: list[str] = []
    go_on = ReimageDriver._go_on

    async def counted(driver: ReimageDriver, name: str) -> None:
        begun.append(name)
        await go_on(driver, name)

    monkeypatch.setattr(ReimageDriver, "_go_on", counted)
    async with open_room(tmp_path) as room:
        room.kube.pods["a1"] = [pod("web")]
        room.controller.reimages.request("a1", by="socket")
        task = asyncio.create_task(room.controller.reimages.run())
        try:
            async with asyncio.timeout(60):
                while room.state_of() is not State.REBOOT_TO_INSTALLER:
                    room.kube.settle()
                    await asyncio.sleep(0.01)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        assert begun == ["a1"] * 2, "the drain is the only wait"
