"""The client of etcd against real ones: of 1, 3 and 5 members, with frozen and dead ones, and a stranger."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from k3s_sim_etcd import etcd_directory
from k3s_sim_processes import wait_until
from real_etcd import RealEtcd, real_etcd

from fleet.etcd import snapshot
from fleet.etcd.client import GRACE_S, EtcdClient
from fleet.etcd.errors import BadSnapshotError, EtcdError, NotThisClusterError
from fleet.etcd.snapshot import check_file, save_snapshot
from fleet.etcd.view import EtcdView

pytestmark = pytest.mark.integration
DEADLINE_S = 90.0
CALM_MS = 5000
"""k3s's own: a busy machine does not make another leader of itself."""
T = TypeVar("T")


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[RealEtcd]:
    with real_etcd(tmp_path / "etcd", 3) as started:
        yield started


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealEtcd]:
    """One that is left as it was."""
    with real_etcd(tmp_path_factory.mktemp("steady") / "etcd", 3, election_ms=CALM_MS) as started:
        yield started


def ask(what: Coroutine[Any, Any, T]) -> T:
    async def story() -> T:
        async with asyncio.timeout(DEADLINE_S):
            return await what

    return asyncio.run(story())


def observe(client: EtcdClient) -> EtcdView:
    return ask(client.observe())


def until(client: EtcdClient, holds: Callable[[EtcdView], bool], what: str) -> EtcdView:
    seen: list[EtcdView] = []

    def look() -> bool:
        seen.append(observe(client))
        return holds(seen[-1])

    wait_until(look, what)
    return seen[-1]


def is_well(view: EtcdView) -> bool:
    return view.leader is not None and all(member.healthy for member in view.members)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_members_are_seen_with_their_nodes_health_and_leader(tmp_path: Path, count: int) -> None:
    with real_etcd(tmp_path / "etcd", count, election_ms=CALM_MS) as etcd:
        view = until(etcd.client(), is_well, "all are well")
        assert sorted(member.node for member in view.members) == [f"s{n}" for n in range(1, count + 1)]
        assert view.is_quorate
        assert not view.strangers
        assert not view.learners
        assert view.leader is not None
        assert all(member.db_bytes > 0 and member.version.startswith("3.") for member in view.members)


def test_the_leader_moves_to_a_healthy_voter_and_moving_again_changes_nothing(tmp_path: Path) -> None:
    with real_etcd(tmp_path / "etcd", 3, election_ms=CALM_MS) as etcd:
        client = etcd.client()
        view = until(client, is_well, "all are well")
        assert view.leader is not None
        frozen = next(member for member in view.voters if member.id != view.leader_id)
        etcd.freeze(frozen.node)
        first = ask(client.move_leader(view.leader.id))
        assert first not in (view.leader.id, frozen.id)
        assert ask(client.move_leader(view.leader.id)) == first
        etcd.thaw(frozen.node)
        assert until(client, is_well, "all are well again").leader_id


def test_a_leader_that_nobody_can_follow_on_stays(tmp_path: Path) -> None:
    with real_etcd(tmp_path / "etcd", 1) as etcd:
        view = observe(etcd.client())
        assert view.leader is not None
        with pytest.raises(EtcdError, match="no other voter is healthy"):
            ask(etcd.client().move_leader(view.leader.id))


def test_a_frozen_member_is_not_healthy_and_does_not_hide_the_others(etcd: RealEtcd) -> None:
    etcd.freeze("s2")
    client = etcd.client()
    others = {"s1": True, "s2": False, "s3": True}

    def go_on(seen: EtcdView) -> bool:
        health = {member.node: member.healthy for member in seen.members}
        return health == others and seen.is_quorate and seen.leader is not None

    view = until(client, go_on, "the others go on")
    (frozen,) = view.of_node("s2")
    assert "no answer in time" in frozen.problem


def test_without_a_quorum_the_recollection_is_marked_as_one(etcd: RealEtcd) -> None:
    etcd.kill("s2")
    etcd.kill("s3")
    client = etcd.client("s1", "s2", "s3")
    view = until(client, lambda seen: seen.leader is None, "the survivor knows no leader")
    assert not view.is_quorate
    assert len(view.members) == 3
    assert not any(member.healthy for member in view.members)
    with pytest.raises(EtcdError, match="no voter of etcd is healthy"):
        ask(save_snapshot(client, view, etcd.directory / "snapshot.db"))
    with pytest.raises(EtcdError, match="no other member of etcd is healthy"):
        ask(client.remove_member(view.members[0].id, view.cluster_id))


def test_nobody_there_says_which_addresses_were_asked(etcd: RealEtcd) -> None:
    for node in ("s1", "s2", "s3"):
        etcd.kill(node)
    with pytest.raises(EtcdError, match=rf"{etcd.address('s2')}:2379") as caught:
        observe(etcd.client("s1", "s2", "s3"))
    assert "2379" in caught.value.hint


def test_a_learner_that_never_started_is_known_by_its_address_and_can_be_removed(steady: RealEtcd) -> None:
    steady.add("s4", start=False)
    client = steady.client("s1", "s2", "s3", "s4")
    view = observe(client)
    (learner,) = view.learners
    assert (learner.node, learner.name, learner.healthy) == ("s4", "", False)
    with pytest.raises(NotThisClusterError, match="was seen in"):
        ask(client.remove_member(learner.id, view.cluster_id + 1))
    assert observe(client).learners
    ask(client.remove_member(learner.id, view.cluster_id))
    assert not observe(client).learners
    ask(client.remove_member(learner.id, view.cluster_id))


@pytest.mark.parametrize("grace_s", [0.0, GRACE_S], ids=["its list came too late", "its list came"])
def test_another_cluster_at_a_servers_address_is_told_and_never_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grace_s: float
) -> None:
    monkeypatch.setattr("fleet.etcd.client.GRACE_S", grace_s)
    with real_etcd(tmp_path / "etcd", 3) as etcd:
        etcd.kill("s3")
        stranger = dataclasses.replace(etcd, directory=tmp_path / "stranger", running={})
        stranger.directory.mkdir()
        try:
            stranger.start("s3", f"{etcd.member_name('s3')}=https://{etcd.address('s3')}:2380", "new")
            stranger.wait_healthy("s3")
            client = etcd.client("s1", "s2", "s3")
            # A look bounds what one member may take; on a busy machine the first may be over before.
            view = until(client, lambda view: bool(view.strangers), "the stranger is told")
            assert view.strangers == (f"{etcd.address('s3')}:2379",)
            (away,) = view.of_node("s3")
            assert not away.healthy
            assert "another" in away.problem
        finally:
            stranger.close()


def test_an_etcd_of_another_ca_is_not_believed(tmp_path: Path) -> None:
    with real_etcd(tmp_path / "one", 1) as etcd, real_etcd(tmp_path / "two") as other:
        nodes = {"s1": etcd.address("s1")}
        client = EtcdClient(nodes, other.keys.etcd_identity(0.0 + etcd.directory.stat().st_mtime))
        with pytest.raises(EtcdError, match="certificate"):
            observe(client)


def test_a_snapshot_is_whole_and_etcds_own_tool_reads_it(steady: RealEtcd) -> None:
    steady.ctl("s1", "put", "/registry/kept", "yes")
    client = steady.client()
    view = until(client, is_well, "all are well")
    target = steady.directory / "snapshot.db"
    told: list[tuple[int, int]] = []
    saved = ask(save_snapshot(client, view, target, besides="s1", tell=lambda *at: told.append(at)))
    assert saved.member.node != "s1"
    assert saved.member.id != view.leader_id
    assert check_file(target) == (saved.size_bytes, saved.sha256)
    assert target.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in target.parent.glob("*.part")] == []
    tool = [str(etcd_directory() / "etcdutl"), "snapshot", "status", str(target)]
    done = subprocess.run(tool, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr


def test_a_damaged_snapshot_is_known(steady: RealEtcd) -> None:
    client = steady.client()
    target = steady.directory / "snapshot.db"
    ask(save_snapshot(client, until(client, is_well, "all are well"), target))
    sound = target.read_bytes()
    half = len(sound) // 2
    damaged = {
        "cut by a byte": sound[:-1],
        "cut by a page": sound[:-512],
        "a bit": sound[:half] + bytes([sound[half] ^ 1]) + sound[half + 1 :],
        "another kind of file": bytes(16) + bytes([sound[16] ^ 1]) + sound[17:],
        "empty": b"",
    }
    for content in damaged.values():
        target.write_bytes(content)
        with pytest.raises(BadSnapshotError):
            check_file(target)


def test_a_full_disk_leaves_nothing_behind(steady: RealEtcd, monkeypatch: pytest.MonkeyPatch) -> None:
    client = steady.client()
    target = steady.directory / "full.db"
    view = until(client, is_well, "all are well")
    monkeypatch.setattr(snapshot, "SPARE_BYTES", 1 << 60)
    with pytest.raises(EtcdError, match="MiB free"):
        ask(save_snapshot(client, view, target))
    monkeypatch.undo()

    def full(_stream: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(snapshot, "_flush", full)
    with pytest.raises(OSError, match="No space"):
        ask(save_snapshot(client, view, target))
    assert not target.exists()
    assert not list(target.parent.glob(".full*"))
