"""A server's way out over a real controller and store, with Kubernetes and etcd in memory: every step, every
fallback, and random lives in which the controller ends at any call.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from fakes_etcd import PREFIX
from fakes_fleet import cluster_spec
from fleet_story import texts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers_room import MAX_ROUNDS, S1, S2, S3, SERVERS, ServersRoom, drive, servers_room, with_vip

from fleet.attention import findings
from fleet.join.state import JoinState
from fleet.kube.vip import LEASE
from fleet.lifecycle import State
from fleet.refusal import RefusedError
from fleet.reimage import progress
from fleet.reimage.kinds import Outcome
from fleet.reimage.server_steps import K3S_TIME_S
from fleet.views import fleet_view

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


async def test_a_leader_takes_the_whole_road_and_comes_back_as_another_member(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        old = room.etcd.of("s1")
        assert room.etcd.leader == old.name
        room.controller.reimages.request("s1", by="socket")
        await drive(room, "s1", State.REBOOT_TO_INSTALLER)
        assert room.etcd.moves == ["s2"]
        assert room.etcd.removed == [old.id]
        assert "s1" not in room.kube.seen
        order = room.order(S1)
        info = room.controller.snapshots.files.info(order.progress["snapshot"])
        assert info.by == f"reimage {order.number} of s1"
        assert (info.node, info.cluster_id) != ("s1", "")
        room.netboot(S1)
        order = await room.until_closed(S1)
        assert order.outcome is Outcome.DONE
        assert room.etcd.of("s1").id != old.id
        said = texts(room.fleet, "s1")
        assert "s2 leads etcd" in said
        assert any("is gone: 2 member(s) say so" in text for text in said)


async def test_without_its_node_object_the_member_is_removed_by_etcd(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        room.controller.reimages.request("s2", by="socket")
        await drive(room, "s2", State.MEMBER_REMOVED)
        del room.kube.seen["s2"]
        await drive(room, "s2", State.REBOOT_TO_INSTALLER)
        assert room.etcd.removed == [2]


async def test_where_k3s_does_not_remove_it_etcd_does_after_a_while(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        room.cluster.k3s_works = False
        room.controller.reimages.request("s3", by="socket")
        await drive(room, "s3", State.MEMBER_REMOVED)
        began = room.fleet.clock()
        await drive(room, "s3", State.NODE_DELETED)
        assert room.etcd.removed == [3]
        assert room.fleet.clock() - began > K3S_TIME_S


async def test_a_removal_counts_when_the_members_remember_it(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        room.etcd.forgetful = True
        room.controller.reimages.request("s2", by="socket")
        await drive(room, "s2", State.MEMBER_REMOVED)
        for _ in range(4):
            await room.round()
        assert room.etcd.removed == [2]
        assert room.state_of(S2) is State.MEMBER_REMOVED
        room.etcd.forgetful = False
        await drive(room, "s2", State.REBOOT_TO_INSTALLER)


async def test_a_peer_that_dies_before_the_removal_holds_it_and_the_node_stays(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        room.controller.reimages.request("s1", by="socket")
        await drive(room, "s1", State.SNAPSHOTTED)
        room.etcd.set_health("s3", False)
        await drive(room, "s1", State.READY)
        order = room.order(S1)
        assert order.outcome is Outcome.FAILED
        assert "s3" in order.reason
        assert room.etcd.removed == []
        assert not room.kube.seen["s1"].unschedulable


async def test_what_stands_against_it_at_the_last_look_undoes_the_order(tmp_path: Path) -> None:
    """Nobody was asked to remove the member: the node must not stand in the way of the peer's re-image."""
    async with servers_room(tmp_path) as room:
        room.controller.reimages.request("s1", by="socket")
        await drive(room, "s1", State.MEMBER_REMOVED)
        room.etcd.set_health("s3", False)
        await drive(room, "s1", State.READY)
        order = await room.until_closed(S1)
        assert order.outcome is Outcome.FAILED
        assert "s3" in order.reason
        assert room.etcd.removed == []
        assert f"{PREFIX}/remove" not in room.kube.seen["s1"].annotations
        assert not room.kube.seen["s1"].unschedulable
        assert not (await room.controller.reimages.preview("s3")).problems


async def test_a_peer_that_dies_after_k3s_was_asked_takes_the_request_back_and_frees_the_lock(
    tmp_path: Path,
) -> None:
    """k3s has not done it yet. Then nobody has to free the fleet lock to have the peer installed again."""
    async with servers_room(tmp_path) as room:
        room.cluster.k3s_works = False
        room.controller.reimages.request("s1", by="socket")
        await drive(room, "s1", State.MEMBER_REMOVED)
        await room.round()
        assert room.kube.seen["s1"].annotations[f"{PREFIX}/remove"] == "true"
        room.etcd.set_health("s3", False)
        await room.round()
        assert f"{PREFIX}/remove" not in room.kube.seen["s1"].annotations
        room.cluster.k3s_works = True
        room.restart()
        with pytest.raises(
            RefusedError, match="only a fresh join"
        ):  # k3s may have begun: it is watched first
            room.controller.reimages.cancel("s1", by="ana")
        await drive(room, "s1", State.READY)
        order = await room.until_closed(S1)
        assert order.outcome is Outcome.FAILED
        assert "s3" in order.reason
        assert room.etcd.removed == []
        assert not room.kube.seen["s1"].unschedulable
        assert room.controller.lock.holds() == ()
        assert not (await room.controller.reimages.preview("s3")).problems


async def test_a_request_that_was_taken_back_is_made_again_when_the_peer_is_back(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        room.cluster.k3s_works = False
        room.controller.reimages.request("s1", by="socket")
        await drive(room, "s1", State.MEMBER_REMOVED)
        await room.round()
        room.etcd.set_health("s3", False)
        await room.round()
        room.etcd.set_health("s3", True)
        room.cluster.k3s_works = True
        await drive(room, "s1", State.REBOOT_TO_INSTALLER)
        assert room.etcd.removed == [1]


async def test_a_peer_that_dies_with_the_removal_ends_no_order_and_it_goes_on_by_itself(
    tmp_path: Path,
) -> None:
    """The member is out and the quorum is gone with the peer: nothing can be told until that is back, hours
    later, after every try and a restart of the server. The lock is held all that time, and freed by the end.
    """
    async with servers_room(tmp_path) as room:
        room.controller.reimages.request("s1", by="socket")
        await drive(room, "s1", State.MEMBER_REMOVED)
        room.etcd.forgetful = True
        await room.round()
        assert room.etcd.removed == [1]
        room.etcd.set_health("s3", False)
        room.kube.answers = False
        for _ in range(20):
            await room.round()
            room.fleet.clock.advance(600.0)
            assert [hold.node for hold in room.controller.lock.holds()] == ["s1"]
        assert room.state_of(S1) is State.FAILED_MEMBER_REMOVED
        assert "taken up by itself" in room.order(S1).reason
        room.restart()
        room.etcd.forgetful = False
        room.kube.answers = True
        room.etcd.set_health("s3", True)
        await drive(room, "s1", State.REBOOT_TO_INSTALLER)
        room.netboot(S1)
        assert (await room.until_closed(S1)).outcome is Outcome.DONE
        assert room.controller.lock.holds() == ()


async def test_an_etcd_that_comes_and_goes_is_told_of_and_the_order_ends_when_it_stays(
    tmp_path: Path,
) -> None:
    def told() -> list[str]:
        found = findings(fleet_view(room.fleet.store))
        return [one.key for one in found if one.code == "unsteady"]

    async with servers_room(tmp_path) as room:
        room.controller.reimages.request("s1", by="socket")
        await drive(room, "s1", State.MEMBER_REMOVED)
        room.etcd.forgetful = True
        await room.round()
        for _ in range(progress.MANY_TAKE_UPS):
            assert told() == []
            room.etcd.set_health("s3", False)
            room.fleet.clock.advance(150.0)
            await drive(room, "s1", State.FAILED_MEMBER_REMOVED)
            await room.round()
            room.etcd.set_health("s3", True)
            await drive(room, "s1", State.MEMBER_REMOVED)
        assert told() == ["unsteady/s1"]
        room.restart()
        assert told() == ["unsteady/s1"], "it is in the record"
        room.etcd.forgetful = False
        await drive(room, "s1", State.REBOOT_TO_INSTALLER)
        assert told() == []


async def test_an_etcd_that_was_set_up_anew_without_the_member_has_let_it_go(tmp_path: Path) -> None:
    """Somebody followed the runbook for a lost quorum while the order stood."""
    async with servers_room(tmp_path) as room:
        room.controller.reimages.request("s2", by="socket")
        await drive(room, "s2", State.MEMBER_REMOVED)
        with room.fleet.store.write() as tx:
            tx.note_reimage(room.order(S2), cluster_id="78")
        del room.etcd.members[room.etcd.of("s2").name]
        room.etcd.strangers = ("10.77.0.12:2379",)
        await room.round()
        assert room.state_of(S2) is State.MEMBER_REMOVED
        assert "this order was begun in 78" in room.order(S2).reason
        room.etcd.strangers = ()
        await drive(room, "s2", State.NODE_DELETED)
        assert room.etcd.removed == []


async def test_it_is_called_off_until_somebody_is_asked_to_remove_the_member(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        room.controller.reimages.request("s1", by="socket")
        await drive(room, "s1", State.MEMBER_REMOVED)
        room.controller.reimages.cancel("s1", by="ana")
        order = await room.until_closed(S1)
        assert (order.outcome, room.state_of(S1)) == (Outcome.CANCELLED, State.READY)
        assert room.etcd.removed == []
        assert not room.kube.seen["s1"].unschedulable
        room.cluster.k3s_works = False  # it is asked, and does nothing
        room.controller.reimages.request("s1", by="socket")
        await drive(room, "s1", State.MEMBER_REMOVED)
        await room.controller.reimages.drive()
        assert room.kube.seen["s1"].annotations[f"{PREFIX}/remove"] == "true"
        with pytest.raises(RefusedError, match="only a fresh join"):
            room.controller.reimages.cancel("s1", by="ana")


async def test_two_servers_failing_at_once_are_refused_with_the_reason(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        room.etcd.set_health("s2", False)
        room.etcd.set_health("s3", False)
        for node in (S2, S3):
            preview = await room.controller.reimages.preview(node.name)
            (problem,) = [one for one in preview.problems if one.code == "no-leader"]
            assert "docs/recovery.md" in problem.hint
            room.controller.reimages.request(node.name, by="socket")
            await drive(room, node.name, State.READY)
            assert room.order(node).outcome is Outcome.FAILED
        assert room.etcd.removed == []
        assert room.kube.changes == []


async def test_a_cluster_that_was_restored_meanwhile_is_not_touched(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        room.controller.reimages.request("s2", by="socket")
        await drive(room, "s2", State.MEMBER_REMOVED)
        with room.fleet.store.write() as tx:
            tx.note_reimage(room.order(S2), cluster_id="78")
        for _ in range(5):
            await room.round()
        assert room.etcd.removed == []
        assert "this order was begun in 78" in room.order(S2).reason


async def test_what_one_member_recollects_is_no_proof_that_a_member_is_gone(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        room.controller.reimages.request("s2", by="socket")
        await drive(room, "s2", State.MEMBER_REMOVED)
        with room.fleet.store.write() as tx:
            tx.note_reimage(room.order(S2), member_id=None)
        del room.etcd.members[room.etcd.of("s2").name]  # s1's list is an old one
        room.etcd.set_health("s3", False)
        await room.controller.reimages.drive()
        assert room.state_of(S2) is State.MEMBER_REMOVED
        assert "is not known" in room.order(S2).reason
        room.etcd.set_health("s3", True)
        await drive(room, "s2", State.NODE_DELETED)


async def test_another_members_node_object_is_left_alone(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        room.controller.reimages.request("s2", by="socket")
        await drive(room, "s2", State.MEMBER_REMOVED)
        del room.kube.seen["s2"]
        room.kube.join("s2", votes=True)  # it registers anew: another uid
        await room.round()
        assert f"{PREFIX}/remove" not in room.kube.seen["s2"].annotations
        assert room.etcd.removed == [2]  # by its id, which was written down


async def test_the_apis_address_goes_to_another_server_first(tmp_path: Path) -> None:
    spec = with_vip(cluster_spec(S1, S2, S3), "10.77.0.99")
    async with servers_room(tmp_path, spec) as room:
        room.cluster.leases[LEASE] = {"metadata": {"resourceVersion": "7"}, "spec": {"holderIdentity": "s1"}}
        room.controller.reimages.request("s1", by="socket")
        await drive(room, "s1", State.REBOOT_TO_INSTALLER)
        assert f"lease {LEASE} to s2" in room.kube.changes
        handed = room.kube.changes.index(f"lease {LEASE} to s2")
        assert handed < room.kube.changes.index("delete node s1")
        assert room.cluster.leases[LEASE]["spec"]["holderIdentity"] == "s2"


async def test_an_address_that_is_somebody_elses_work_is_refused_on_its_holder(tmp_path: Path) -> None:
    spec = with_vip(cluster_spec(S1, S2, S3), "10.77.0.99", enabled=False)
    async with servers_room(tmp_path, spec) as room:
        room.cluster.leases[LEASE] = {"metadata": {"resourceVersion": "7"}, "spec": {"holderIdentity": "s1"}}
        preview = await room.controller.reimages.preview("s1")
        assert "vip" in [problem.code for problem in preview.problems]
        assert "vip" not in [one.code for one in (await room.controller.reimages.preview("s2")).problems]


async def test_nobody_is_left_who_finds_the_cluster_at_the_one_that_goes(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        room.controller.reimages.request("s1", by="socket")
        await drive(room, "s1", State.SNAPSHOTTED)
        with room.fleet.store.write() as tx:
            JoinState(server=f"https://{S1.address}:6443").save(tx, "s3")
        await room.controller.reimages.drive()
        assert room.state_of(S1) is State.SNAPSHOTTED
        assert "s3 would look for the cluster at s1" in room.order(S1).reason
        room.controller.joins.settings._reconciled = None  # what was told is looked at again
        await drive(room, "s1", State.REBOOT_TO_INSTALLER)


async def test_a_server_whose_lock_was_freed_by_a_person_keeps_back_no_other(tmp_path: Path) -> None:
    """It is out of etcd and waits for a person: its peers must not wait with it."""
    async with servers_room(tmp_path) as room:
        room.controller.reimages.request("s1", by="socket")
        await drive(room, "s1", State.REBOOT_TO_INSTALLER)
        while room.state_of(S1) is State.REBOOT_TO_INSTALLER:  # nobody switches it off and on
            room.fleet.clock.advance(60.0)
            room.report(S2)
            room.report(S3)
            room.controller.watch.tick()
        before = await room.controller.reimages.preview("s2")
        assert {"lock", "server-away"} <= {problem.code for problem in before.problems}
        room.controller.lock.release("s1", by="ana", reason="its board is on its way")
        after = await room.controller.reimages.preview("s2")
        assert not {"lock", "server-away"} & {problem.code for problem in after.problems}
        assert "single" in [warning.code for warning in after.warnings]


async def test_a_founder_whose_old_settings_may_still_found_is_refused(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        room.confirm(S1, 0)
        preview = await room.controller.reimages.preview("s1")
        assert "cluster-init" in [problem.code for problem in preview.problems]
        room.report(S1)
        assert not (await room.controller.reimages.preview("s1")).problems


def heal(room: ServersRoom) -> None:
    """Whoever died and is a member still comes back."""
    for member in tuple(room.etcd.members.values()):
        room.etcd.set_health(member.node, True)


calls = st.none() | st.integers(0, 6)
rounds = st.lists(st.tuples(calls, calls, st.sampled_from(["", "", "", "s1", "s2", "s3"])), max_size=16)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(story=rounds, target=st.sampled_from(sorted(SERVERS)), k3s_works=st.booleans())
async def test_random_lives_never_cost_the_quorum(
    story: list[tuple[int | None, int | None, str]], target: str, k3s_works: bool
) -> None:
    """The controller ends at any call; members die and come back; k3s does its part or does not.

    `EtcdMemory.remove` fails where a removal ends the quorum. What must be durable is looked at there too.
    """
    with tempfile.TemporaryDirectory() as directory:
        async with servers_room(Path(directory) / "state") as room:
            node = SERVERS[target]
            own = room.etcd.of(target).id

            def about_to_go(member: int) -> None:
                order = room.order(node)
                assert member == own
                assert room.state_of(node) is State.MEMBER_REMOVED
                assert int(order.progress["member_id"], 16) == member
                assert room.controller.snapshots.kept(order.progress["snapshot"]) is not None

            room.etcd.on_remove = about_to_go
            room.cluster.k3s_works = k3s_works
            room.controller.reimages.request(target, by="socket")
            for etcd_calls, kube_calls, dies in story:
                heal(room)
                sick = dies if dies and any(one.node == dies for one in room.etcd.members.values()) else ""
                if sick:
                    room.etcd.set_health(sick, False)
                await room.round(etcd_calls=etcd_calls, kube_calls=kube_calls)
                await asyncio.sleep(0)
                assert len(room.etcd.removed) <= 1
                if room.etcd.removed:
                    assert room.state_of(node) not in (State.READY, State.DEGRADED)
            heal(room)
            for _ in range(MAX_ROUNDS):
                order = room.order(node)
                if order.closed_at is not None or room.state_of(node) is State.REBOOT_TO_INSTALLER:
                    break
                await room.round()
            assert order.closed_at is not None or room.state_of(node) is State.REBOOT_TO_INSTALLER, order
            assert room.etcd.has_quorum()
            if order.closed_at is not None:
                assert room.etcd.removed == []
                assert room.state_of(node) is State.READY
                assert not room.kube.seen[target].unschedulable
