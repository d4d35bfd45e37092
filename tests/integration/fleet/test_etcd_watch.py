"""A server looks after etcd beside everything else, and believes what it saw twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from servers_room import ServersRoom, servers_room

from fleet.etcd.watch import EtcdWatch
from fleet.overview import overview

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


def with_k3s(room: ServersRoom, version: str = "k3s version v1.33.5+k3s1") -> EtcdWatch:
    """The servers' agents report this k3s; what the room reports by itself is the simulator's."""
    with room.fleet.store.write() as tx:
        for node in tx.nodes():
            tx.update_node(node, status={**(node.status or {}), "k3s_version": version})
    return room.controller.etcd_watch


def told(room: ServersRoom) -> list[str]:
    """Keys of what is said of etcd, where people look."""
    watch = room.controller.etcd_watch
    assert overview(room.fleet.store, None, watch.faults).findings == overview_of(room)
    return [one.key for one in room.controller.findings() if one.code == "etcd"]


def overview_of(room: ServersRoom) -> object:
    found = room.controller.findings()
    return tuple(one for one in found if one.code != "snapshots")


async def test_a_member_that_is_ill_is_told_when_it_was_seen_twice_and_until_it_is_well(
    tmp_path: Path,
) -> None:
    async with servers_room(tmp_path) as room:
        watch = with_k3s(room)
        await watch.look()
        assert told(room) == []
        room.etcd.set_health("s3", False)
        await watch.look()
        assert told(room) == []
        await watch.look()
        assert told(room) == ["etcd/s3"]
        room.etcd.set_health("s3", True)
        await watch.look()
        assert told(room) == []


async def test_an_etcd_that_does_not_answer_is_told(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        watch = with_k3s(room)
        for name in ("s1", "s2", "s3"):
            room.etcd.set_health(name, False)
        await watch.look()
        await watch.look()
        assert told(room) == ["etcd/"]
        (fault,) = watch.faults
        assert "2379" in fault.hint


async def test_a_simulated_k3s_is_asked_for_no_etcd(tmp_path: Path) -> None:
    async with servers_room(tmp_path) as room:
        watch = with_k3s(room, "k3s version v1.33.5+k3s1 (simulator)")
        room.etcd.calls_left = 0  # a question would end the test
        await watch.look()
        await watch.look()
        assert told(room) == []
