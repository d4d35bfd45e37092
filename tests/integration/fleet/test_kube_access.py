"""The control server's rights in the cluster, against the simulator's role-based access control."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from founded_cluster import Founded, founded, opened
from k3s_sim_processes import WAIT_S

from fleet.kube.client import KubeError, KubeRefusedError
from fleet.kube.door import ROLE_GRACE_S
from lab.k3s_sim.release import build_release

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("release")
    build_release(directory, "v1.33.5+k3s1")
    return directory / "k3s-arm64"


def test_role_comes_with_the_first_server_and_is_enough_and_no_more(tmp_path: Path, program: Path) -> None:
    async def story(cluster: Founded) -> None:
        async with opened(cluster.door()) as api:
            async with asyncio.timeout(WAIT_S):
                while "s1" not in await api.nodes():  # noqa: ASYNC110 - the server registers by itself
                    await asyncio.sleep(0.1)
            await api.patch_node("s1", {"metadata": {"labels": {"tier": "small"}}})
            assert await api.secret("absent") is None
            for path in ("/api/v1/namespaces/default/secrets", "/api/v1/secrets", "/api/v1/configmaps"):
                with pytest.raises(KubeRefusedError, match="forbidden") as refused:
                    await api._get(path)
                assert refused.value.status == 403
            version = "rbac.authorization.k8s.io/v1"
            role = {"apiVersion": version, "kind": "ClusterRole", "metadata": {"name": "x"}}
            with pytest.raises(KubeRefusedError, match="forbidden"):
                await api.put_object(f"/apis/{version}/clusterroles", "x", role)
        assert cluster.admins == []

    with founded(tmp_path, program, with_role=True) as cluster:
        asyncio.run(story(cluster))


def test_cluster_without_the_role_is_given_it_after_a_while(tmp_path: Path, program: Path) -> None:
    async def story(cluster: Founded) -> None:
        door = cluster.door()
        for _ in range(2):
            with pytest.raises(KubeError, match="403"):
                async with door.open():
                    pass
        assert cluster.admins == []
        cluster.fleet.clock.advance(ROLE_GRACE_S + 1)
        async with door.open() as (api, _listing):
            assert await api.secret("absent") is None
        assert cluster.admins == ["admin.crt"]
        assert not list((cluster.state / "k3s").glob("admin.*"))
        async with door.open():
            pass
        assert cluster.admins == ["admin.crt"]

    with founded(tmp_path, program, with_role=False) as cluster:
        asyncio.run(story(cluster))
