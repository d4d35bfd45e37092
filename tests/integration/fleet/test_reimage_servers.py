"""How the driver takes a server's steps: in order, looked at again before the removal, never back after it.

What the steps do to etcd is tested with a real one elsewhere; here they answer as a test says.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from fakes_fleet import node_spec
from reimage_room import Room, open_room

from fleet.etcd.errors import EtcdError
from fleet.lifecycle import State
from fleet.refusal import RefusedError
from fleet.reimage import progress
from fleet.reimage.kinds import Outcome
from fleet.reimage.problems import Problem
from fleet.reimage.seams import Done, Findings, NotYet, Situation
from fleet.spec.model import Role
from fleet.store.records import NodeRecord, ReimageRecord

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

S1, S2, S3 = (node_spec(f"s{number}", number, role=Role.SERVER) for number in (1, 2, 3))


@dataclass
class Steps:
    """Answers of a server's steps, in the order in which they are asked; the last one stays."""

    leader: list[Done | NotYet] = field(default_factory=lambda: [Done("s1 leads etcd")])
    kept: list[Done | NotYet] = field(
        default_factory=lambda: [Done("kept", {"snapshot": "n1", "member_id": "a"})]
    )
    removed: list[Done | NotYet | EtcdError] = field(default_factory=lambda: [Done("gone")])
    asked: list[str] = field(default_factory=list)
    kept_back: str = ""

    async def move_leader(self, order: ReimageRecord, node: NodeRecord) -> Done | NotYet:
        self.asked.append("leader")
        return self.leader[0] if len(self.leader) == 1 else self.leader.pop(0)

    async def snapshot(self, order: ReimageRecord, node: NodeRecord) -> Done | NotYet:
        self.asked.append("snapshot")
        return self.kept[0] if len(self.kept) == 1 else self.kept.pop(0)

    async def remove_member(self, order: ReimageRecord, node: NodeRecord) -> Done | NotYet:
        self.asked.append("remove")
        assert order.progress["member_id"] == "a", "what the removal needs is on record before it"
        answer = self.removed[0] if len(self.removed) == 1 else self.removed.pop(0)
        if isinstance(answer, EtcdError):
            raise answer
        return answer

    async def obstacle(self, order: ReimageRecord, node: NodeRecord) -> str:
        return self.kept_back


@pytest_asyncio.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    async with open_room(tmp_path, S1, S2, S3) as opened:
        desk = opened.controller.reimages
        desk.checks[:] = desk.checks[:1]  # there is no etcd to ask
        desk.driver.servers = Steps()
        yield opened


def steps_of(room: Room) -> Steps:
    servers = room.controller.reimages.driver.servers
    assert isinstance(servers, Steps)
    return servers


async def test_a_server_passes_its_steps_in_their_order(room: Room) -> None:
    steps_of(room).leader.insert(0, NotYet("etcd has no other leader yet"))
    room.controller.reimages.request("s2", by="ana")
    passed = [State.REIMAGE_REQUESTED]
    for _ in range(30):
        await room.controller.reimages.drive()
        if room.state_of(S2) is not passed[-1]:
            passed.append(room.state_of(S2))
        if passed[-1] is State.LEADER_MOVED and steps_of(room).asked == ["leader"]:
            assert room.order(S2).reason == "etcd has no other leader yet"
        room.fleet.clock.advance(2.0)
    assert passed[3:] == [
        State.DRAINING,
        State.LEADER_MOVED,
        State.SNAPSHOTTED,
        State.MEMBER_REMOVED,
        State.NODE_DELETED,
        State.REBOOT_TO_INSTALLER,
    ]
    assert steps_of(room).asked == ["leader", "leader", "snapshot", "remove"]
    assert "s2" not in room.kube.seen


async def test_what_is_found_after_the_snapshot_calls_it_off(room: Room) -> None:
    """Another server died while the snapshot was taken."""

    async def check(situation: Situation) -> Findings:
        is_late = bool(steps_of(room).asked)
        return Findings((Problem("quorum", "s3 is not well"),) if is_late else ())

    room.controller.reimages.checks.append(check)
    room.controller.reimages.request("s2", by="ana")
    order = await room.until_closed(S2)
    assert (order.outcome, order.progress["snapshot"]) == (Outcome.FAILED, "n1")
    assert "s3 is not well" in order.reason
    assert "remove" not in steps_of(room).asked
    assert room.state_of(S2) is State.READY
    assert not room.kube.seen["s2"].unschedulable


async def test_a_removal_that_does_not_end_never_leads_back(room: Room) -> None:
    steps_of(room).removed[:] = [EtcdError("etcd has no leader", "Bring servers back.")]
    room.controller.reimages.request("s2", by="ana")
    await room.rounds(State.MEMBER_REMOVED, node=S2)
    with room.fleet.store.write() as tx:  # as the real step does before k3s or etcd is asked
        tx.note_reimage(room.order(S2), **{progress.ASKED: room.fleet.clock()})
    for _ in range(24):
        await room.controller.reimages.drive()
        room.fleet.clock.advance(61.0)
        room.report_all()
        room.controller.watch.tick()
        assert room.state_of(S2) in (State.MEMBER_REMOVED, State.FAILED_MEMBER_REMOVED)
    assert "member-removed was tried 4 times (etcd has no leader)" in room.order(S2).reason
    with pytest.raises(RefusedError, match="only a fresh join brings it back"):
        room.controller.reimages.cancel("s2", by="ana")
    with pytest.raises(RefusedError, match="s3 stays as it is: s2 holds the fleet lock"):
        room.controller.reimages.request("s3", by="ana")
    steps_of(room).removed[:] = [Done("gone")]
    room.controller.reimages.request("s2", by="ana")
    await room.rounds(State.REBOOT_TO_INSTALLER, node=S2)


async def test_two_servers_are_never_down_at_once(room: Room) -> None:
    room.controller.reimages.request("s2", by="ana")
    with pytest.raises(RefusedError, match="s3 stays as it is: s2 holds the fleet lock"):
        room.controller.reimages.request("s3", by="policy")
    assert room.state_of(S3) is State.READY
