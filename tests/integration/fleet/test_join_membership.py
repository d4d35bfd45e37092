"""Servers of the cluster: who votes, who is removed, who comes back, and which of them nodes are told."""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes_fleet import cluster_spec
from fleet_story import state_of, texts
from join_cluster import A1, S1, S2, S3, Cluster, open_cluster, reinstall, three_servers

from agent.protocol import K3sState, Problem
from fleet.kube.objects import ETCD_ROLE
from fleet.lifecycle import State
from fleet.refusal import RefusedError

pytestmark = pytest.mark.integration


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    opened = open_cluster(tmp_path, cluster_spec(S1, S2, S3, A1))
    yield opened
    opened.fleet.store.close()


def test_server_whose_member_was_removed_sets_its_old_data_aside(cluster: Cluster) -> None:
    async def story() -> None:
        async with cluster.running():
            cluster.begin(S1)
            cluster.ready(S1)
            cluster.begin(S2)
            assert cluster.controller.joins.join_material(cluster.certificates["s2"]).set_aside == ()
            removed = Problem("removed_member", "was removed", "h")
            cluster.report(S2, K3sState.FAILED, removed, material=cluster.generation(S2))
            material = cluster.controller.joins.join_material(cluster.certificates["s2"])
            assert material.set_aside == ("/var/lib/rancher/k3s/server/db",)

    asyncio.run(story())


def test_old_member_of_a_reinstalled_server_goes_first(cluster: Cluster) -> None:
    async def story() -> None:
        async with cluster.running():
            three_servers(cluster)
            cluster.kube.ready["s3"] = False
            reinstall(cluster, S3)
            with pytest.raises(RefusedError, match="is being removed"):
                await cluster.prepare(S3)
            assert "s3" not in cluster.kube.ready
            await cluster.prepare(S3)
            material = cluster.controller.joins.join_material(cluster.certificates["s3"])
            assert material.set_aside
            assert not any("cluster-init" in file.content for file in material.files)

    asyncio.run(story())


def test_old_member_stays_where_the_others_could_not_bear_it(cluster: Cluster) -> None:
    async def story() -> None:
        async with cluster.running():
            three_servers(cluster)
            cluster.kube.ready |= {"s2": False, "s3": False}
            reinstall(cluster, S3)
            with pytest.raises(RefusedError, match="only 1 of 3 servers are healthy"):
                await cluster.prepare(S3)
            assert not [change for change in cluster.kube.changes if change.startswith("DELETE")]

    asyncio.run(story())


def test_old_member_stays_where_nobody_tells_whether_another_server_votes(cluster: Cluster) -> None:
    """An old k3s beside newer ones, and dead: not counted, a removal would leave one of two voters alive."""

    async def story() -> None:
        async with cluster.running():
            three_servers(cluster)
            cluster.kube.ready["s2"] = False
            del cluster.kube.voters["s2"]
            cluster.kube.metadata["s2"] = {"labels": {ETCD_ROLE: "true"}}
            reinstall(cluster, S3)
            with pytest.raises(RefusedError, match="does not tell whether s2 vote") as refused:
                await cluster.prepare(S3)
            assert "v1.25.16" in refused.value.hint
            assert not [change for change in cluster.kube.changes if change.startswith("DELETE")]

    asyncio.run(story())


def test_node_object_of_a_server_that_runs_is_never_deleted(cluster: Cluster) -> None:
    async def story() -> None:
        async with cluster.running():
            three_servers(cluster)
            reinstall(cluster, S3)
            cluster.report(S3, K3sState.STARTING)
            await cluster.prepare(S3)
            assert cluster.kube.ready["s3"]

    asyncio.run(story())


def test_learner_is_not_ready_and_the_next_server_waits(cluster: Cluster) -> None:
    async def story() -> None:
        async with cluster.running():
            cluster.begin(S1)
            cluster.kube.ready["s1"] = True
            cluster.kube.voters["s1"] = True
            await cluster.controller.watch.poll()
            cluster.begin(S2, S3)
            cluster.kube.ready["s2"] = True
            for votes in (None, False):
                if votes is not None:
                    cluster.kube.voters["s2"] = votes
                await cluster.controller.watch.poll()
                assert state_of(cluster.fleet, S2) is State.JOINING
                waiting = cluster.controller.joins.desired(cluster.certificates["s3"])
                assert waiting.reason == "server s2 is joining, one at a time"
            cluster.kube.voters["s2"] = True
            await cluster.controller.watch.poll()
            assert state_of(cluster.fleet, S2) is State.READY
            assert cluster.controller.joins.desired(cluster.certificates["s3"]).join

    asyncio.run(story())


def test_founder_is_told_of_a_peer_once_there_is_one_and_never_to_found_again(cluster: Cluster) -> None:
    async def story() -> None:
        async with cluster.running():
            cluster.begin(S1)
            cluster.ready(S1)
            cluster.controller.joins.settings.reconcile()
            generation = cluster.generation(S1)
            assert "server:" not in cluster.settings(S1)
            cluster.begin(S2)
            cluster.ready(S1, S2)
            cluster.controller.joins.settings.reconcile()
            assert cluster.generation(S1) == generation + 1
            assert "server: https://10.77.0.12:6443" in cluster.settings(S1)
            assert "cluster-init" not in cluster.settings(S1)
            assert "token-file: /etc/rancher/k3s/bramble-token" not in cluster.settings(S1)
            cluster.controller.joins.settings.reconcile()
            assert cluster.generation(S1) == generation + 1

    asyncio.run(story())


def test_nodes_are_told_another_server_when_theirs_goes_away(cluster: Cluster) -> None:
    async def story() -> None:
        async with cluster.running():
            cluster.found_and_begin_agent()
            cluster.ready(S1, A1)
            cluster.begin(S2)
            cluster.ready(S1, S2, A1)
            cluster.controller.joins.settings.reconcile()
            assert "server: https://10.77.0.11:6443" in cluster.settings(A1)
            generation = cluster.generation(A1)
            cluster.fleet.clock.advance(60)
            for node in (S2, A1):
                cluster.report(node, K3sState.RUNNING)
            cluster.controller.tick()
            assert state_of(cluster.fleet, S1) is State.LOST
            cluster.controller.joins.settings.reconcile()
            assert "server: https://10.77.0.12:6443" in cluster.settings(A1)
            assert cluster.generation(A1) == generation + 1
            assert "finds the cluster at https://10.77.0.12:6443 from now on" in texts(cluster.fleet, "a1")

    asyncio.run(story())


def test_nodes_are_told_the_apis_own_address_while_it_answers(tmp_path: Path) -> None:
    spec = cluster_spec(S1, A1)
    spec = dataclasses.replace(
        spec, k3s=dataclasses.replace(spec.k3s, api_vip=ipaddress.IPv4Address("10.77.0.200"))
    )
    cluster = open_cluster(tmp_path, spec)

    async def story() -> None:
        async with cluster.running():
            cluster.found_and_begin_agent()
            cluster.kube.ready = {"s1": True, "a1": True}
            cluster.kube.silent = {"10.77.0.200"}
            await cluster.controller.watch.poll()
            assert "server: https://10.77.0.11:6443" in cluster.settings(A1)
            cluster.kube.silent = set()
            await cluster.controller.watch.poll()
            assert "server: https://10.77.0.200:6443" in cluster.settings(A1)
            assert "\nserver:" not in cluster.settings(S1)
            cluster.kube.silent = {"10.77.0.200"}
            for _ in range(2):
                await cluster.controller.watch.poll()
                assert "server: https://10.77.0.200:6443" in cluster.settings(A1)
            await cluster.controller.watch.poll()
            assert "server: https://10.77.0.11:6443" in cluster.settings(A1)

    try:
        asyncio.run(story())
    finally:
        cluster.fleet.store.close()


def test_server_that_comes_back_from_the_grave_joins_anew_without_its_old_data(cluster: Cluster) -> None:
    removed = Problem("removed_member", "was removed", "h")

    async def story() -> None:
        async with cluster.running():
            three_servers(cluster)
            cluster.fleet.clock.advance(60)
            for node in (S1, S2):
                cluster.report(node, K3sState.RUNNING)
            cluster.controller.tick()
            assert state_of(cluster.fleet, S3) is State.LOST
            del cluster.kube.ready["s3"]
            cluster.report(S3, K3sState.FAILED, removed)
            assert state_of(cluster.fleet, S3) is State.JOINING
            await cluster.prepare(S3)
            material = cluster.controller.joins.join_material(cluster.certificates["s3"])
            assert material.set_aside == ("/var/lib/rancher/k3s/server/db",)
            assert not any("cluster-init" in file.content for file in material.files)
            cluster.kube.ready["s3"] = True
            await cluster.controller.watch.poll()
            assert state_of(cluster.fleet, S3) is State.READY

    asyncio.run(story())


def test_running_server_is_not_expelled_by_an_old_line_of_its_journal(cluster: Cluster) -> None:
    async def story() -> None:
        async with cluster.running():
            three_servers(cluster)
            cluster.report(S3, K3sState.RUNNING, Problem("removed_member", "was removed", "h"))
            assert state_of(cluster.fleet, S3) is State.READY

    asyncio.run(story())


def test_first_server_that_is_installed_again_joins_and_founds_nothing(cluster: Cluster) -> None:
    async def story() -> None:
        async with cluster.running():
            three_servers(cluster)
            cluster.kube.ready["s1"] = False
            reinstall(cluster, S1)
            with pytest.raises(RefusedError, match="is being removed"):
                await cluster.prepare(S1)
            await cluster.prepare(S1)
            material = cluster.controller.joins.join_material(cluster.certificates["s1"])
            contents = "".join(file.content for file in material.files)
            assert "cluster-init" not in contents
            assert "server: https://10.77.0.1" in contents
            assert not any("/server/tls/" in file.path for file in material.files)

    asyncio.run(story())


def test_slow_join_that_ends_after_its_limit_is_left_alone_and_counts(cluster: Cluster) -> None:
    async def story() -> None:
        async with cluster.running():
            cluster.begin(S1)
            cluster.ready(S1)
            cluster.begin(S2)
            await cluster.prepare(S2)
            cluster.kube.ready = {"s1": True}
            cluster.fleet.clock.advance(20 * 60 + 1)
            cluster.report(S1, K3sState.RUNNING)
            cluster.report(S2, K3sState.STARTING)
            cluster.controller.tick()
            assert state_of(cluster.fleet, S2) is State.FAILED_JOINING
            changes = list(cluster.kube.changes)
            cluster.kube.ready["s2"] = True
            cluster.kube.voters = {"s1": True, "s2": True}
            await cluster.controller.watch.poll()
            assert state_of(cluster.fleet, S2) is State.READY
            assert not [change for change in cluster.kube.changes[len(changes) :] if "DELETE" in change]

    asyncio.run(story())
