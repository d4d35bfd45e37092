"""What a recovery asks, refuses and changes, over a real controller and store, with etcd in memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from fakes_etcd import PREFIX
from fleet_story import texts
from servers_room import S1, S2, S3, ServersRoom, install_blank, lose, servers_room

from fleet.join.founding import FOUNDED, FOUNDER
from fleet.kube.client import KubeError
from fleet.lifecycle import State
from fleet.recovery.desk import PIECE_BYTES
from fleet.recovery.state import RESET_DROP_IN, Recovery
from fleet.recovery.undo import note_restorer_told
from fleet.refusal import RefusedError
from fleet.reimage.kinds import Outcome
from fleet.restored import mark_restored, unobserved
from fleet.snapshots.manifest import DATA
from fleet.spec.model import NodeSpec
from fleet.store.records import HoldRecord

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


async def test_a_living_cluster_is_not_recovered(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        taken = await room.controller.snapshots.take("anna")
        plan = await room.controller.recovery.plan(taken.id)
        assert [one.code for one in plan.problems] == ["alive"]
        with pytest.raises(RefusedError, match="s1, s2, s3"):
            await room.controller.recovery.begin(taken.id, by="anna")
        assert {room.state_of(node) for node in (S1, S2, S3)} == {State.READY}
        for name in ("s2", "s3"):  # one survivor is newer than any snapshot, too
            room.etcd.set_health(name, False)
        assert "alive" in [one.code for one in (await room.controller.recovery.plan(taken.id)).problems]


async def test_a_damaged_snapshot_and_none_at_all_are_refused(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        taken = await room.controller.snapshots.take("anna")
        lose(room)
        with pytest.raises(RefusedError) as missing:
            await room.controller.recovery.plan("20200101T000000Z-000000")
        assert missing.value.status == 404
        data = room.controller.snapshots.files.place(taken.id) / DATA
        data.write_bytes(data.read_bytes()[:-1])
        with pytest.raises(RefusedError, match="cut off") as damaged:
            await room.controller.recovery.begin(taken.id, by="anna")
        assert damaged.value.status == 409
        assert room.state_of(S1) is State.READY


async def test_everything_of_before_is_void_once_it_begins(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        room.kube.seen["s1"] = dataclasses.replace(
            room.kube.seen["s1"], annotations={f"{PREFIX}/remove": "true"}
        )
        taken = await room.controller.snapshots.take("anna")
        room.controller.reimages.request("s3", by="socket")
        number = room.order(S3).number
        with room.fleet.store.write() as tx:
            tx.put_hold(HoldRecord(node="s3", number=number, taken_at=1.0))
            mark_restored(tx, backup_at=1.0, now=room.fleet.clock())
        lose(room)
        with pytest.raises(RefusedError, match="marked for removal"):
            await room.controller.recovery.begin(taken.id, by="anna", founder="s1")
        view = await room.controller.recovery.begin(taken.id, by="anna")
        assert (view.founder, view.phase) == ("s2", "founding")  # s1 would take itself out again
        assert {room.state_of(node) for node in (S1, S2, S3)} == {State.DECLARED}
        assert room.order(S3).outcome is Outcome.ABANDONED
        with room.fleet.store.read() as reader:
            assert reader.holds() == []
            assert all(unobserved(reader, name) is None for name in ("s1", "s2", "s3"))
            assert (reader.value(FOUNDED), reader.value(FOUNDER)) == (None, "s2")
        with pytest.raises(RefusedError):
            room.controller.joins.desired(room.certificates["s1"])
        assert any("the cluster is recovered from a snapshot" in text for text in texts(room.fleet, "s1"))


async def test_a_server_that_was_decommissioned_is_not_the_one_to_begin_with(tmp_path: Path) -> None:
    """It is declared yet, and in the snapshot; its board is not answered any more."""
    async with servers_room(tmp_path) as room:
        taken = await room.controller.snapshots.take("anna")
        lose(room)
        with room.fleet.store.write() as tx:
            tx._write_node("s1", {"state": State.DECOMMISSIONED.value})
        with pytest.raises(RefusedError, match="s1 is no declared server that could begin"):
            await room.controller.recovery.begin(taken.id, by="anna", founder="s1")
        plan = await room.controller.recovery.plan(taken.id)
        assert (plan.founder, plan.servers) == ("s2", ("s2", "s3"))
        await room.controller.recovery.begin(taken.id, by="anna")
        assert room.state_of(S1) is State.DECOMMISSIONED


async def test_only_the_first_server_is_told_to_restore_and_handed_the_snapshot(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        taken = await room.controller.snapshots.take("anna")
        whole = (room.controller.snapshots.files.place(taken.id) / DATA).read_bytes()
        lose(room)
        await room.controller.recovery.begin(taken.id, by="anna", founder="s2")
        first, other = install_blank(room, S2), install_blank(room, S1)
        joins, recovery = room.controller.joins, room.controller.recovery
        assert not joins.desired(other).join
        with pytest.raises(RefusedError, match="s2's turn"):
            _piece(room, S2, 0)
        assert joins.desired(first).join
        material = joins.join_material(first)
        assert material.restore is not None
        assert RESET_DROP_IN in [file.path for file in material.files]
        assert not any("cluster-init" in file.content for file in material.files)
        assert (material.restore.sha256, material.restore.size_bytes) == (taken.sha256, len(whole))
        assert _piece(room, S2, 0) == whole[:PIECE_BYTES]
        assert _piece(room, S2, 1000) == whole[1000 : 1000 + PIECE_BYTES]
        assert _piece(room, S2, len(whole)) == b""
        with pytest.raises(RefusedError, match="restores nothing"):
            _piece(room, S1, 0)
        with pytest.raises(RefusedError, match="restores nothing"):
            recovery.read_piece(room.record(S2), "ff" * 8, 0)
        again = await recovery.plan(taken.id)
        assert [one.code for one in again.problems] == ["under-way"]
        # A Node object out of the snapshot says Ready; its agent has not said that k3s runs.
        room.controller.watch.apply_kubernetes({"s2": room.kube.seen["s2"]})
        assert room.state_of(S2) is State.JOINING


def _piece(room: ServersRoom, node: NodeSpec, offset: int) -> bytes:
    with room.fleet.store.read() as reader:
        recovery = Recovery.load(reader)
    assert recovery is not None
    return room.controller.recovery.read_piece(room.record(node), recovery.id, offset)


async def test_a_first_server_that_dies_before_the_others_joined_is_recovered_from_as_well(
    tmp_path: Path,
) -> None:
    """It was the cluster, alone: its disk is gone, and with it everything again."""
    async with servers_room(tmp_path) as room:
        taken = await room.controller.snapshots.take("anna")
        lose(room)
        recovery = room.controller.recovery
        await recovery.begin(taken.id, by="anna", founder="s2")
        with room.fleet.store.write() as tx:
            tx.update_node(tx.require_node("s2"), join_allowed=True)
            assert note_restorer_told(tx, Recovery.load(tx))
        assert [one.code for one in (await recovery.plan(taken.id)).problems] == ["under-way"]
        with room.fleet.store.write() as tx:
            tx.put_value(FOUNDED, "s2")
            tx._write_node("s2", {"state": State.LOST.value})
        with pytest.raises(KubeError):
            await recovery.round()
        assert [one.code for one in (await recovery.plan(taken.id)).problems] == []
        view = await recovery.begin(taken.id, by="anna", founder="s1")
        assert (view.phase, view.founder, view.can_be_cancelled) == ("founding", "s1", False)
        assert room.state_of(S2) is State.DECLARED
        assert not room.record(S2).join_allowed


async def test_no_server_joins_while_an_old_disk_runs(tmp_path: Path) -> None:
    """A board that somebody switches on after the first server has restored, with its old disk."""
    async with servers_room(tmp_path) as room:
        taken = await room.controller.snapshots.take("anna")
        lose(room)
        recovery = room.controller.recovery
        await recovery.begin(taken.id, by="anna", founder="s2")
        install_blank(room, S2)
        other = install_blank(room, S1)
        with room.fleet.store.write() as tx:
            tx.put_value(FOUNDED, "s2")
            tx.update_node(tx.require_node("s1"), join_allowed=True)
        room.kube.answers = True
        room.etcd.set_health("s3", True)
        await recovery.round()
        view = recovery.status()
        assert view is not None
        assert view.phase == "joining"
        assert view.waits_for[0].startswith("etcd of the old cluster answers at s3: switch it off")
        with pytest.raises(RefusedError, match=r"old cluster answers at s3\."):
            await room.controller.preparation.prepare(other)
        room.etcd.set_health("s3", False)
        await recovery.round()
        view = recovery.status()
        assert view is not None
        assert not any("old cluster" in text for text in view.waits_for)
        await room.controller.preparation.prepare(other)


async def test_a_server_that_is_gone_for_good_keeps_no_recovery_open(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        taken = await room.controller.snapshots.take("anna")
        lose(room)
        recovery = room.controller.recovery
        await recovery.begin(taken.id, by="anna", founder="s2")
        with room.fleet.store.write() as tx:
            tx.put_value(FOUNDED, "s2")
            for name, state in (("s1", State.DEGRADED), ("s2", State.READY)):
                tx._write_node(name, {"state": state.value})
        with pytest.raises(KubeError):  # the record was written by hand: no server has an address
            await recovery.round()
        view = recovery.status()
        assert view is not None
        assert (view.phase, view.waits_for) == (
            "joining",
            ("s3 is declared: switch its board on, from the network",),
        )
        room.controller.reimages.decommission("s3", by="anna")
        await recovery.round()
        assert (view := recovery.status()) is not None
        assert view.phase == "done"
