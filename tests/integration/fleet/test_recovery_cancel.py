"""A recovery that is called off: everything is what it was, as long as its first server was not told to
restore.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from fleet_story import see, texts
from servers_room import S1, S2, S3, ServersRoom, drive, install_blank, lose, servers_room

from fleet.boots import BootStage
from fleet.join.founding import FOUNDED, FOUNDED_AT, FOUNDER
from fleet.kube.client import KubeError
from fleet.lifecycle import State
from fleet.recovery.state import BEFORE
from fleet.refusal import RefusedError
from fleet.reimage.kinds import Outcome
from fleet.restored import mark_restored

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


async def begin(room: ServersRoom, founder: str = "s2") -> str:
    taken = await room.controller.snapshots.take("anna")
    lose(room)
    await room.controller.recovery.begin(taken.id, by="anna", founder=founder)
    return taken.id


def values(room: ServersRoom) -> list[str | None]:
    with room.fleet.store.read() as reader:
        return [reader.value(key) for key in (FOUNDER, FOUNDED, FOUNDED_AT)]


async def test_what_was_made_void_is_put_back_and_the_old_cluster_goes_on(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        joins = {node.name: room.record(node).generation for node in (S1, S2, S3)}
        before = values(room)
        snapshot = await begin(room)
        with pytest.raises(RefusedError):
            room.controller.joins.desired(room.certificates["s1"])
        room.restart()
        done = room.controller.recovery.cancel(by="bert")
        assert "lost until heard of again: s1, s2, s3" in done
        assert {room.state_of(node) for node in (S1, S2, S3)} == {State.LOST}
        assert values(room) == before
        view = room.controller.recovery.status()
        assert view is not None
        assert (view.phase, view.snapshot, view.waits_for) == ("cancelled", snapshot, ())
        assert any("bert called the recovery off" in text for text in texts(room.fleet, "s1"))
        # The servers were only away: they come up with their old disks and old certificates.
        room.kube.answers = True
        for node in (S1, S2, S3):
            room.etcd.set_health(node.name, True)
            room.report(node)
        room.controller.watch.apply_kubernetes(room.kube.seen)
        assert {room.state_of(node) for node in (S1, S2, S3)} == {State.READY}
        assert {node.name: room.record(node).generation for node in (S1, S2, S3)} == joins
        await room.controller.recovery.round()
        assert not (await room.controller.reimages.preview("s3")).problems


async def test_a_board_whose_installer_asked_is_turned_away_and_its_disk_stays(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        await begin(room)
        see(room.fleet, S1)
        see(room.fleet, S1, BootStage.KERNEL)
        assert room.state_of(S1) is State.NETBOOTING
        room.controller.recovery.cancel(by="bert")
        assert room.state_of(S1) is State.LOST
        with room.fleet.store.read() as reader:
            assert reader.open_intent("s1") is None
        assert [one.install_intent for one in room.controller.boot_states()] == [None, None, None]


async def test_who_was_installed_by_then_goes_on_as_a_blank_server_of_the_old_cluster(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        await begin(room)
        certificate = install_blank(room, S1)
        done = room.controller.recovery.cancel(by="bert")
        assert "lost until heard of again: s2, s3; installed as blank nodes" in done
        assert room.state_of(S1) is State.JOINING
        assert not room.controller.joins.desired(certificate).join  # no server is Ready yet
        room.kube.answers = True
        for node in (S2, S3):
            room.etcd.set_health(node.name, True)
            room.report(node)
        room.controller.watch.apply_kubernetes({name: room.kube.seen[name] for name in ("s2", "s3")})
        assert room.controller.joins.desired(certificate).join
        material = room.controller.joins.join_material(certificate)
        assert material.restore is None
        assert not any("cluster-init" in file.content for file in material.files)


async def test_the_founder_waits_its_turn_when_it_was_not_told_yet(tmp_path: Path) -> None:
    """Its agent was given its turn and has not fetched what to do with it."""
    async with servers_room(tmp_path) as room:
        await begin(room)
        certificate = install_blank(room, S2)
        assert room.controller.joins.desired(certificate).join
        room.controller.recovery.cancel(by="bert")
        assert not room.controller.joins.desired(certificate).join
        with pytest.raises(RefusedError, match="may not join yet"):
            room.controller.joins.join_material(certificate)


async def test_once_the_founder_was_told_there_is_no_way_back(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        snapshot = await begin(room)
        certificate = install_blank(room, S2)
        room.controller.joins.desired(certificate)
        assert room.controller.joins.join_material(certificate).restore is not None
        with pytest.raises(RefusedError, match=r"s2, or a first server.*was told to restore") as refused:
            room.controller.recovery.cancel(by="bert")
        assert "bramble revoke s2" in refused.value.hint
        # Also not by another order: the first founder may be the cluster by now.
        room.controller.people.revoke("s2")
        await room.controller.recovery.begin(snapshot, by="anna", founder="s1")
        with pytest.raises(RefusedError, match="a first server that was chosen before it, was told"):
            room.controller.recovery.cancel(by="bert")
        with room.fleet.store.write() as tx:
            tx.put_value(FOUNDED, "s1")
        with pytest.raises(KubeError):  # after the phase was written: its API does not answer yet
            await room.controller.recovery.round()
        with pytest.raises(RefusedError, match="it is the cluster now"):
            room.controller.recovery.cancel(by="bert")


async def test_after_a_backups_restore_nobody_knows_whether_the_founder_was_told(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        await begin(room)
        with room.fleet.store.write() as tx:
            mark_restored(tx, backup_at=room.fleet.clock() - 3600, now=room.fleet.clock())
        room.restart()
        with pytest.raises(RefusedError, match="was told to restore"):
            room.controller.recovery.cancel(by="bert")


async def test_a_second_order_keeps_what_the_first_made_void(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        before = values(room)
        snapshot = await begin(room)
        await room.controller.recovery.begin(snapshot, by="anna", founder="s3")
        room.controller.recovery.cancel(by="bert")
        assert {room.state_of(node) for node in (S1, S2, S3)} == {State.LOST}
        assert values(room) == before
        with pytest.raises(RefusedError, match="no recovery is under way"):
            room.controller.recovery.cancel(by="bert")
        with room.fleet.store.read() as reader:
            assert reader.value(BEFORE) is None


async def test_a_node_that_had_left_its_cluster_stays_blank(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        taken = await room.controller.snapshots.take("anna")
        room.controller.reimages.request("s3", by="socket")
        await drive(room, "s3", State.REBOOT_TO_INSTALLER)
        for name in ("s1", "s2"):
            room.etcd.set_health(name, False)
        room.kube.answers = False
        await room.controller.recovery.begin(taken.id, by="anna", founder="s2")
        assert room.order(S3).outcome is Outcome.ABANDONED
        done = room.controller.recovery.cancel(by="bert")
        assert room.state_of(S3) is State.DECLARED
        assert "blank nodes, because they were not members or their disks may be written: s3" in done
        assert room.state_of(S1) is State.LOST


async def test_a_cordon_of_an_order_that_the_recovery_ended_is_named(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        taken = await room.controller.snapshots.take("anna")
        room.controller.reimages.request("s3", by="socket")
        await drive(room, "s3", State.SNAPSHOTTED)
        lose(room)
        await room.controller.recovery.begin(taken.id, by="anna", founder="s2")
        room.controller.recovery.cancel(by="bert")
        with room.fleet.store.read() as reader:
            hints = [event.hint for event in reader.timeline(node="s3")]
        assert any("kubectl uncordon s3" in hint for hint in hints)


async def test_another_server_that_looks_at_that_moment_does_not_bring_it_back(tmp_path: Path) -> None:
    """Its look began before: the recovery that it read is called off when it writes."""
    async with servers_room(tmp_path) as room:
        await begin(room)
        desk = room.controller.recovery
        room.controller.recovery.cancel(by="bert")
        assert desk._advance() is None
        view = desk.status()
        assert view is not None
        assert view.phase == "cancelled"


async def test_a_server_that_is_revoked_while_it_joins_keeps_its_node_object(tmp_path: Path) -> None:
    """With the Node object k3s takes its member out, which may be needed for the quorum by then."""
    async with servers_room(tmp_path) as room:
        await begin(room, "s2")
        install_blank(room, S2)
        certificate = install_blank(room, S1)
        with room.fleet.store.write() as tx:
            tx.put_value(FOUNDED, "s2")
            tx._write_node("s2", {"state": State.READY.value, "join_allowed": True})
        room.kube.answers = True
        old = room.kube.seen["s1"].uid
        await room.controller.recovery.round()
        assert set(room.kube.seen) == {"s2"}, "what the snapshot brought back of the others is gone"
        room.controller.watch.apply_kubernetes({"s2": dataclasses.replace(room.kube.seen["s2"])})
        assert room.controller.joins.desired(certificate).join
        room.kube.join("s1", votes=True)
        assert room.kube.seen["s1"].uid != old
        room.controller.people.revoke("s1")
        assert not room.record(S1).join_allowed
        await room.controller.recovery.round()
        assert "s1" in room.kube.seen


async def test_none_is_ordered_over_one_whose_founder_is_told_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking for a living etcd takes seconds, in which the founder may ask."""
    async with servers_room(tmp_path) as room:
        snapshot = await begin(room)
        certificate = install_blank(room, S2)
        desk = room.controller.recovery
        look = desk._who_answers

        async def look_while_the_founder_asks() -> tuple[str, ...]:
            assert room.controller.joins.desired(certificate).join
            assert room.controller.joins.join_material(certificate).restore is not None
            return await look()

        monkeypatch.setattr(desk, "_who_answers", look_while_the_founder_asks)
        with pytest.raises(RefusedError, match="s2 restores snapshot"):
            await desk.begin(snapshot, by="bert", founder="s3")
        view = desk.status()
        assert view is not None
        assert view.founder == "s2"
        assert room.controller.joins.desired(certificate).join  # it goes on
