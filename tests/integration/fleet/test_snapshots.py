"""Snapshots as they are taken, kept, scheduled, pruned and verified; with a full disk and a crash."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fakes_fleet import cluster_spec
from servers_room import S1, S2, S3, ServersRoom, servers_room

from fleet.cli.snapshot import snapshot as command
from fleet.errors import FleetError
from fleet.etcd import snapshot
from fleet.etcd.errors import BadSnapshotError, EtcdError
from fleet.join.founding import FOUNDED_AT
from fleet.lifecycle import State
from fleet.snapshots.desk import FIRST_S, RETRY_S, TOO_OLD_FACTOR, SnapshotDesk, Taking
from fleet.snapshots.manifest import DATA, KEYS, MANIFEST, Damaged, SnapshotInfo, verify
from fleet.spec.model import SnapshotPolicy

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]
PREFIX = "etcd.k3s.cattle.io"


async def ended(desk: SnapshotDesk, number: int) -> Taking:
    async with asyncio.timeout(60):
        while True:
            found = desk.ordered(number)
            if found is not None and found.state in ("done", "failed"):
                return found
            await asyncio.sleep(0.01)


def with_k3s(
    room: ServersRoom, version: str = "k3s version v1.33.5+k3s1", *, founded_at: float = 0.0
) -> None:
    """The servers' agents report this k3s; what the room reports by itself is the simulator's."""
    with room.fleet.store.write() as tx:
        for node in tx.nodes():
            tx.update_node(node, status={**(node.status or {}), "k3s_version": version})
        tx.put_value(FOUNDED_AT, str(founded_at))


def kept(room: ServersRoom) -> list[str]:
    return [one.id for one in room.controller.snapshots.everything()]


async def test_a_snapshot_holds_what_a_restore_needs_for_its_owners_eyes(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        desk = room.controller.snapshots
        room.kube.seen["s3"] = dataclasses.replace(
            room.kube.seen["s3"], annotations={f"{PREFIX}/remove": "true"}
        )
        info = await desk.take("a person", besides="s2")
        place = desk.files.place(info.id)
        assert verify(place) == info
        assert info.node == "s3"  # neither the leader nor the one that is about to go
        assert (info.cluster_id, info.servers, info.removing) == ("4d", ("s1", "s2", "s3"), ("s3",))
        keys = json.loads((place / KEYS).read_text())
        assert keys["server_token"].startswith(f"K10{info.ca_hash}::server:")
        assert sum(path.endswith(".key") for path in keys["files"]) == 6
        assert place.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in place.iterdir()} == {0o600}
        newest = desk.newest(77)
        assert newest is not None
        assert (newest.id, newest.has_keys) == (info.id, True)
        assert desk.newest(78) is None


@pytest.mark.parametrize("wrong", ["leader", "strangers", "silence"])
async def test_no_snapshot_is_taken_of_a_cluster_that_nobody_can_vouch_for(
    tmp_path: Path, wrong: str
) -> None:
    async with servers_room(tmp_path) as room:
        if wrong == "strangers":
            room.etcd.strangers = ("10.77.0.13:2379",)
        for name in {"leader": ("s1", "s2"), "silence": ("s1", "s2", "s3")}.get(wrong, ()):
            room.etcd.set_health(name, False)
        with pytest.raises(EtcdError):
            await room.controller.snapshots.take("a person")
        with_k3s(room)
        assert kept(room) == []
        assert room.controller.snapshots.health().problem


async def test_the_schedule_takes_prunes_and_tries_again(tmp_path: Path) -> None:
    policy = dataclasses.replace(cluster_spec().policy, snapshots=SnapshotPolicy(every_s=3600, keep=2))
    spec = dataclasses.replace(cluster_spec(S1, S2, S3), policy=policy)
    async with servers_room(tmp_path, spec) as room:
        desk, clock = room.controller.snapshots, room.fleet.clock
        with_k3s(room)
        assert desk.health().problem == "no snapshot of etcd is kept yet"
        assert await desk.round() is not None
        assert await desk.round() is None
        assert desk.health().problem == ""
        clock.advance(3601)
        assert await desk.round() is not None
        clock.advance(3601)
        newest = await desk.round()
        assert newest is not None
        assert len(kept(room)) == 2
        assert kept(room)[0] == newest.id

        room.etcd.set_health("s1", False)
        room.etcd.set_health("s2", False)
        clock.advance(3601)
        with pytest.raises(EtcdError):
            await desk.round()
        assert await desk.round() is None  # not at once
        room.etcd.set_health("s1", True)
        clock.advance(RETRY_S + 1)
        assert await desk.round() is not None
        clock.advance(3600 * TOO_OLD_FACTOR + 1)
        assert "2 h old" in desk.health().problem
        clock.advance(-10 * 3600.0)  # a clock that was set back must not stop it
        assert await desk.round() is not None


async def test_without_a_cluster_or_a_schedule_nothing_is_taken(tmp_path: Path) -> None:
    policy = dataclasses.replace(cluster_spec().policy, snapshots=SnapshotPolicy(is_on=False))
    spec = dataclasses.replace(cluster_spec(S1, S2, S3), policy=policy)
    async with servers_room(tmp_path, spec) as room:
        assert await room.controller.snapshots.round() is None
        assert room.controller.snapshots.health().problem == ""


async def test_a_new_cluster_may_be_without_a_snapshot_for_its_first_hours(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        desk, clock = room.controller.snapshots, room.fleet.clock
        with_k3s(room, founded_at=clock())
        room.etcd.set_health("s1", False)
        room.etcd.set_health("s2", False)
        with pytest.raises(EtcdError):
            await desk.round()
        assert desk.health().problem == ""
        clock.advance(FIRST_S + 1)
        assert "leader" in desk.health().problem


async def test_a_simulated_k3s_that_has_no_etcd_is_no_reason_for_alarm(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        desk = room.controller.snapshots
        with_k3s(room)
        assert desk.health().problem == "no snapshot of etcd is kept yet"
        with_k3s(room, "k3s version v1.33.5+k3s1 (simulator)")
        assert desk.health().problem == ""
        # Of one that stands on an etcd, snapshots were taken: those may not grow old.
        await desk.take("a person")
        room.fleet.clock.advance(3 * 86400.0)
        assert "h old" in desk.health().problem


async def test_what_an_order_needs_is_never_pruned(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        desk = room.controller.snapshots
        room.controller.reimages.request("s1", by="socket")
        for _ in range(30):
            if room.state_of(S1) is State.MEMBER_REMOVED:
                break
            await room.controller.reimages.drive()
            room.kube.settle()
        needed = room.order(S1).progress["snapshot"]
        for _ in range(3):
            room.fleet.clock.advance(60.0)
            await desk.take("a person")
        gone = desk.prune(1)
        assert len(gone) == 2
        assert needed in kept(room)
        assert len(kept(room)) == 2


async def test_what_a_recovery_restores_is_never_pruned(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        desk = room.controller.snapshots
        needed = await desk.take("a person")
        for _ in range(2):
            room.fleet.clock.advance(60.0)
            await desk.take("a person")
        for name in ("s1", "s2", "s3"):
            room.etcd.set_health(name, False)
        await room.controller.recovery.begin(needed.id, by="socket")
        assert len(desk.prune(1)) == 1
        assert needed.id in kept(room)


async def test_a_directory_that_cannot_be_read_ends_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with servers_room(tmp_path) as room:
        desk = room.controller.snapshots
        looked = asyncio.Event()

        async def refuses() -> None:
            looked.set()
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(desk, "round", refuses)
        desk.order("a person")
        running = asyncio.create_task(desk.run())
        async with asyncio.timeout(60):
            await looked.wait()
        await asyncio.sleep(0)
        assert not running.done()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_damage_is_told_and_a_damaged_one_counts_for_nothing(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        desk = room.controller.snapshots
        infos = []
        for _ in range(4):
            room.fleet.clock.advance(60.0)
            infos.append(await desk.take("a person"))
        places = [desk.files.place(info.id) for info in infos]
        (places[3] / MANIFEST).write_text('{"format": 1}')
        (places[2] / KEYS).write_text("{}")
        data = bytearray((places[1] / DATA).read_bytes())
        data[5000] ^= 1
        (places[1] / DATA).write_bytes(data)
        for place in places[1:]:
            with pytest.raises(BadSnapshotError):
                verify(place)
        newest = desk.everything()[0]
        assert isinstance(newest, Damaged)
        assert "unsound" in newest.reason
        assert desk.files.surplus(1) == (infos[1].id, infos[0].id)  # the damaged newest is not the one kept
        for odd in ("../k3s", "x", ""):
            with pytest.raises(FleetError, match="there is no snapshot"):
                desk.files.place(odd)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 2}', '{"format": 1, "id": 5}', "\xff"])
async def test_any_manifest_is_read_or_called_damaged(tmp_path: Path, text: str) -> None:
    async with servers_room(tmp_path) as room:
        info = await room.controller.snapshots.take("a person")
        (room.controller.snapshots.files.place(info.id) / MANIFEST).write_text(text)
        (found,) = room.controller.snapshots.everything()
        assert isinstance(found, Damaged)


async def test_a_full_disk_and_a_crash_leave_nothing_under_a_snapshots_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with servers_room(tmp_path) as room:
        desk = room.controller.snapshots

        def full(_stream: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(snapshot, "_flush", full)
        with pytest.raises(FleetError, match="No space left") as refused:
            await desk.take("a person")
        assert "half-written" in refused.value.hint
        monkeypatch.undo()
        assert list(desk.files.directory.iterdir()) == []
        left = desk.files.directory / ".new-left"  # by a process that was killed
        left.mkdir()
        (left / DATA).write_bytes(b"half")
        assert kept(room) == []
        info = await desk.take("a person")
        assert [path.name for path in desk.files.directory.iterdir()] == [info.id]


async def test_what_a_person_orders_is_taken_at_once_and_told(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        desk = room.controller.snapshots
        order = desk.order("anna")
        assert desk.order("bert") == order  # one that waits is everybody's
        running = asyncio.create_task(desk.run())
        try:
            assert (await ended(desk, order.number)).snapshot == kept(room)[0]
            room.etcd.set_health("s1", False)
            room.etcd.set_health("s2", False)
            failed = await ended(desk, desk.order("anna").number)
            assert failed.state == "failed"
            assert "no leader" in failed.message
            assert desk.ordered(order.number) is None
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_the_command_lists_verifies_and_prunes_without_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with servers_room(tmp_path / "attic") as room:
        taken = []
        for _ in range(3):
            room.fleet.clock.advance(60.0)
            taken.append((await room.controller.snapshots.take("schedule")).id)
    monkeypatch.setenv("BRAMBLE_STATE_DIR", str(tmp_path))
    file = tmp_path / "cluster.yaml"
    file.write_text(
        "version: 1\ncluster: {name: attic, domain: attic.internal, k3s: {version: v1.33.5+k3s1}}\n"
        "image: {base: debian-trixie}\nnetwork: {interface: lo, dhcp: full, subnet: 10.77.0.0/24}\n"
        "nodes:\n"
        "  - {name: s1, board: pi5, role: server, serial: 10000000abcd0001, address: 10.77.0.11}\n"
        "defaults: {disk: nvme}\n"
    )

    def run(*argv: str) -> Any:
        return CliRunner().invoke(command, [*argv, "-c", str(file)], catch_exceptions=False)

    listed = json.loads(run("list", "--json").output)["snapshots"]
    assert [one["id"] for one in listed] == taken[::-1]
    assert taken[0] in run("list").output
    assert run("verify", "--all").exit_code == 0
    damaged = tmp_path / "attic" / "snapshots" / taken[1] / KEYS
    damaged.write_text("{}")
    done = run("verify", taken[1])
    assert done.exit_code == 1
    assert "another file than its manifest says" in done.output
    assert json.loads(run("prune", "--keep", "1", "--dry-run", "--json").output)["deleted"] == taken[1::-1]
    assert len(json.loads(run("list", "--json").output)["snapshots"]) == 3
    unanswered = run("prune", "--keep", "1")
    assert unanswered.exit_code == 2, "nobody is there to say yes"
    assert len(json.loads(run("list", "--json").output)["snapshots"]) == 3
    assert run("prune", "--keep", "1", "--yes").exit_code == 0
    assert "nothing to delete" in run("prune", "--keep", "1").output, "and so nothing to ask"
    (left,) = json.loads(run("list", "--json").output)["snapshots"]
    assert left["id"] == taken[2]
    assert isinstance(SnapshotInfo(**{**left, "servers": tuple(left["servers"])}), SnapshotInfo)
