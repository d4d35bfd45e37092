"""Emptying a node, and what keeps it full: budgets, finalizers, other people's cordons, silence."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from fakes_cluster import CORDON, ClusterMemory, pod
from reimage_room import A1, Room, open_room

from fleet.lifecycle import State
from fleet.reimage.drain import POLITE_S
from fleet.reimage.kinds import Outcome

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

LIMIT_S = 15 * 60.0


async def past_the_limit(room: Room) -> None:
    room.fleet.clock.advance(LIMIT_S + 1)
    room.report_all()
    room.controller.watch.tick()


def cordoned(kube: ClusterMemory) -> bool:
    return kube.seen["a1"].unschedulable


async def test_a_budget_that_never_lets_go_ends_in_what_the_node_was(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        room.kube.pods["a1"] = [pod("web"), pod("other")]
        room.kube.refusals["web"] = (429, "needs 2 healthy pods and has 2")
        room.controller.reimages.request("a1", by="socket")
        await room.rounds(State.DRAINING)
        for _ in range(20):
            await room.controller.reimages.drive()
            room.kube.settle()
            room.fleet.clock.advance(2.0)
        asked = room.kube.changes.count("evict web")
        assert 5 <= asked <= 9, "every five seconds, in forty"
        assert room.kube.changes.count("evict other") == 1, "a refusal keeps no other pod waiting"
        assert "a disruption budget keeps it" in room.order().reason
        assert "default/web" in room.record().detail

        await past_the_limit(room)
        assert room.state_of() is State.FAILED_DRAINING
        order = await room.until_closed()
        assert order.outcome is Outcome.FAILED
        assert "default/web: a disruption budget keeps it" in order.reason
        assert room.state_of() is State.READY
        assert not cordoned(room.kube)
        assert CORDON not in room.kube.seen["a1"].annotations
        assert "delete node a1" not in room.kube.changes


async def test_a_forced_drain_deletes_what_stays_and_goes_on(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        room.kube.pods["a1"] = [pod("web"), pod("lone", owner="")]
        room.kube.refusals["web"] = (429, "needs 2 healthy pods and has 2")
        room.controller.reimages.request("a1", by="socket", force_drain=True)
        await room.rounds(State.DRAINING)
        await room.controller.reimages.drive()
        room.kube.settle()
        assert "delete web" not in room.kube.changes, "asked politely first"
        room.fleet.clock.advance(POLITE_S)
        room.report_all()
        await room.rounds(State.REBOOT_TO_INSTALLER)
        assert "delete web" in room.kube.changes


async def test_several_budgets_for_one_pod_are_told_as_what_they_are(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        room.kube.pods["a1"] = [pod("web")]
        room.kube.refusals["web"] = (500, "This pod has more than one PodDisruptionBudget")
        room.controller.reimages.request("a1", by="socket")
        await room.rounds(State.DRAINING)
        await room.controller.reimages.drive()
        await room.controller.reimages.drive()
        assert "several disruption budgets select it" in room.order().reason


@pytest.mark.parametrize("force", [False, True], ids=["politely", "by-force"])
async def test_a_pod_that_a_finalizer_keeps_is_named(tmp_path: Path, force: bool) -> None:
    async with open_room(tmp_path) as room:
        room.kube.pods["a1"] = [pod("held", finalizers=("example.com/backup",))]
        room.controller.reimages.request("a1", by="socket", force_drain=force)
        await room.rounds(State.DRAINING)
        for _ in range(3):
            await room.controller.reimages.drive()
        assert "default/held ends only when example.com/backup let it" in room.order().reason
        if force:  # its containers have ended: the object does not keep a node for ever
            room.fleet.clock.advance(POLITE_S)
            room.report_all()
            await room.rounds(State.REBOOT_TO_INSTALLER)
        else:
            await past_the_limit(room)
            assert (await room.until_closed()).outcome is Outcome.FAILED
            assert room.state_of() is State.READY


async def test_a_node_object_that_goes_in_the_middle_is_drained(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        room.kube.pods["a1"] = [pod("web")]
        room.kube.refusals["web"] = (429, "no")
        room.controller.reimages.request("a1", by="socket")
        await room.rounds(State.DRAINING)
        await room.kube.delete_node("a1", room.kube.seen["a1"].uid)
        await room.rounds(State.REBOOT_TO_INSTALLER)


async def test_a_node_that_registered_anew_goes_under_its_new_uid(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        room.controller.reimages.request("a1", by="socket")
        await room.rounds(State.NODE_DELETED)
        first = room.kube.seen["a1"].uid
        await room.kube.delete_node("a1", first)
        room.kube.join("a1")  # its old kubelet started again
        assert room.kube.seen["a1"].uid != first
        await room.rounds(State.REBOOT_TO_INSTALLER)
        assert "a1" not in room.kube.seen


async def test_the_cordon_of_another_is_left_when_it_is_called_off(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        await room.kube.patch_node("a1", {"spec": {"unschedulable": True}})
        room.kube.pods["a1"] = [pod("web")]
        room.kube.refusals["web"] = (429, "no")
        room.controller.reimages.request("a1", by="socket")
        await room.rounds(State.DRAINING)
        assert CORDON not in room.kube.seen["a1"].annotations
        room.controller.reimages.cancel("a1", by="ana")
        order = await room.until_closed()
        assert (order.outcome, order.reason) == (Outcome.CANCELLED, "called off by ana")
        assert cordoned(room.kube)


async def test_the_cordon_of_another_is_there_again_after_the_installation(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        await room.kube.patch_node("a1", {"spec": {"unschedulable": True}})
        room.controller.reimages.request("a1", by="socket")
        await room.rounds(State.REBOOT_TO_INSTALLER)
        room.netboot()
        assert not cordoned(room.kube)
        assert (await room.until_closed()).outcome is Outcome.DONE
        assert cordoned(room.kube)
        assert CORDON not in room.kube.seen["a1"].annotations


async def test_a_cordon_that_comes_in_between_stays_its_owners(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        room.controller.reimages.request("a1", by="socket")
        await room.rounds(State.CORDONED)
        asked = room.kube.patch_node

        async def slower(name: str, patch: dict[str, object]) -> None:
            room.kube.patch_node = asked  # type: ignore[method-assign]
            await asked(name, {"spec": {"unschedulable": True}})  # a person, in this very moment
            await asked(name, patch)

        room.kube.patch_node = slower  # type: ignore[assignment,method-assign]
        await room.controller.reimages.drive()
        assert CORDON not in room.kube.seen["a1"].annotations
        await room.rounds(State.DRAINING, State.NODE_DELETED)
        assert room.order().progress["cordon"] == "theirs"


async def test_a_silent_node_is_not_waited_for(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        room.kube.pods["a1"] = [pod("web")]
        room.kube.refusals["web"] = (429, "no")
        room.fleet.clock.advance(120.0)
        room.report_all(A1)
        room.controller.watch.tick()
        assert room.state_of() is State.LOST
        room.kube.join("a1", ready=False)
        room.controller.reimages.request("a1", by="policy")
        await room.rounds(State.REBOOT_TO_INSTALLER)
        assert "evict web" not in room.kube.changes
        assert "a1" not in room.kube.seen


@pytest.mark.parametrize(
    ("load", "code"),
    [
        ([pod("lone", owner="")], "pods-unmanaged"),
        ([pod("db", owner="StatefulSet", claims=("data",))], "local-volumes"),
    ],
    ids=["unmanaged", "local-volume"],
)
async def test_what_would_be_lost_for_good_stands_against_it(
    tmp_path: Path, load: list[object], code: str
) -> None:
    async with open_room(tmp_path) as room:
        room.kube.volumes["default/data"] = {"spec": {"hostPath": {"path": "/var/lib/rancher/k3s/storage/x"}}}
        room.kube.pods["a1"] = load  # type: ignore[assignment]
        shown = await room.controller.reimages.preview("a1", by="socket")
        assert [problem.code for problem in shown.problems] == [code]
        room.controller.reimages.request("a1", by="policy")  # who does not look first is told by the order
        order = await room.until_closed()
        assert order.outcome is Outcome.FAILED
        assert shown.problems[0].text in order.reason
        assert room.kube.changes == []
        assert room.state_of() is State.READY
        forced = await room.controller.reimages.preview("a1", by="socket", force_drain=True)
        assert forced.problems == ()
        assert code in [warning.code for warning in forced.warnings]


async def test_a_volume_elsewhere_and_scratch_data_are_no_obstacles(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        room.kube.volumes["default/data"] = {"spec": {"nfs": {"server": "10.0.0.9"}}}
        room.kube.pods["a1"] = [pod("web", claims=("data",), scratch=True)]
        shown = await room.controller.reimages.preview("a1", by="socket")
        assert shown.problems == ()
        assert [warning.code for warning in shown.warnings] == ["empty-dir"]


async def test_with_nowhere_to_go_nothing_is_begun(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        room.kube.pods["a1"] = [pod("web")]
        for name in ("s1", "a2"):
            room.kube.seen[name] = dataclasses.replace(room.kube.seen[name], unschedulable=True)
        shown = await room.controller.reimages.preview("a1", by="socket")
        assert [problem.code for problem in shown.problems] == ["nowhere"]


async def test_a_silent_api_stands_against_it(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        room.kube.answers = False
        shown = await room.controller.reimages.preview("a1", by="socket")
        assert [problem.code for problem in shown.problems] == ["api"]
        room.controller.reimages.request("a1", by="socket")
        assert (await room.until_closed()).outcome is Outcome.FAILED
        assert room.state_of() is State.READY


async def test_an_api_that_falls_silent_in_the_middle_is_waited_for(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        room.kube.pods["a1"] = [pod("web")]
        room.kube.refusals["web"] = (429, "no")
        room.controller.reimages.request("a1", by="socket")
        await room.rounds(State.DRAINING)
        room.kube.answers = False
        room.controller.reimages.cancel("a1", by="ana")
        for _ in range(3):
            await room.controller.reimages.drive()
        assert room.order().closed_at is None, "our cordon is still there"
        assert "when the cluster's API answers" in room.order().reason
        room.kube.answers = True
        assert (await room.until_closed()).outcome is Outcome.CANCELLED
        assert not cordoned(room.kube)


async def test_a_node_that_falls_silent_with_what_must_not_run_twice_is_waited_for(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        room.kube.pods["a1"] = [pod("db", owner="StatefulSet")]
        room.kube.refusals["db"] = (429, "needs 1")
        room.controller.reimages.request("a1", by="ana")
        await room.rounds(State.DRAINING)
        room.fleet.clock.advance(120.0)
        room.report_all(A1)
        room.kube.join("a1", ready=False)
        for _ in range(3):
            await room.controller.reimages.drive()
        assert room.state_of() is State.DRAINING
        assert "must not run twice: default/db" in room.order().reason


async def test_a_cluster_that_gave_fewer_rights_is_given_this_releases_role(tmp_path: Path) -> None:
    """It was founded by an older Bramble, whose role knew of no volumes and deleted no pods."""
    async with open_room(tmp_path) as room:
        room.kube.pods["a1"] = [pod("web")]
        room.kube.refusals["web"] = (403, 'cannot create resource "pods/eviction"')
        put: list[str] = []

        class Administrator(ClusterMemory):
            async def put_object(self, _collection: str, name: str, item: dict[str, object]) -> None:
                put.append(f"{item['kind']} {name}")
                room.kube.refusals.clear()

        door = room.controller.reimages.driver._door
        door._connect_as = lambda _url, _identity: Administrator().connect("")
        room.controller.reimages.request("a1", by="ana")
        await room.rounds(State.REBOOT_TO_INSTALLER)
        assert "ClusterRole bramble-control" in put


async def test_pods_of_a_kubelet_that_does_not_answer_are_asked_and_not_waited_for(tmp_path: Path) -> None:
    """The agent reports, k3s is broken: what a node is installed again for."""
    async with open_room(tmp_path) as room:
        room.kube.pods["a1"] = [pod("web"), pod("job")]
        room.kube.join("a1", ready=False)
        room.controller.reimages.request("a1", by="ana")
        for _ in range(30):
            room.report_all()
            await room.controller.reimages.drive()  # and nobody ends a pod
            room.fleet.clock.advance(2.0)
            if room.state_of() is State.REBOOT_TO_INSTALLER:
                break
        assert room.state_of() is State.REBOOT_TO_INSTALLER
        assert {"evict web", "evict job"} <= set(room.kube.changes), "so that others are made elsewhere"
