"""Draining through the API as the control server's own role allows it, against the simulator's rules."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from founded_cluster import Founded, founded, opened

from fleet.kube.client import KubeApi, KubeRefusedError
from fleet.kube.pods import is_on_the_node
from fleet.reimage.drain import leaving, problems
from fleet.reimage.observe import has_password, read_load
from lab.k3s_sim.release import build_release

pytestmark = pytest.mark.integration

PODS = "/api/v1/namespaces/default/pods"
OWNER = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "u", "controller": True}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Founded]:
    release = tmp_path_factory.mktemp("release")
    build_release(release, "v1.33.5+k3s1")
    with founded(tmp_path_factory.mktemp("state"), release / "k3s-arm64", with_role=True) as one:
        yield one


def pod(name: str, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "labels": {"app": name}, "ownerReferences": [OWNER]}
    return {"metadata": metadata, "spec": {"nodeName": "a1", **spec}}


async def fill(cluster: Founded) -> None:
    """A node with two pods: one that a budget keeps, and one whose volume is on the node's disk."""
    keys = cluster.fleet.controller.joins._ground.k3s
    claim = {"persistentVolumeClaim": {"claimName": "data"}, "name": "data"}
    budget = {"minAvailable": 1, "selector": {"matchLabels": {"app": "kept"}}}
    objects: list[tuple[str, dict[str, Any]]] = [
        ("/api/v1/nodes", {"metadata": {"name": "a1"}}),
        ("/api/v1/persistentvolumes", {"metadata": {"name": "v1"}, "spec": {"hostPath": {"path": "/x"}}}),
        (
            "/api/v1/namespaces/default/persistentvolumeclaims",
            {"metadata": {"name": "data"}, "spec": {"volumeName": "v1"}},
        ),
        (
            "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
            {"metadata": {"name": "one"}, "spec": budget},
        ),
        (PODS, pod("kept")),
        (PODS, pod("local", volumes=[claim, {"name": "tmp", "emptyDir": {}}])),
    ]
    url = f"https://127.0.0.1:{cluster.port}"
    async with KubeApi(url, keys.admin_identity(time.time())) as admin:
        for collection, item in objects:
            await admin.put_object(collection, item["metadata"]["name"], item)
        ready = {"type": "Ready", "status": "True"}  # its kubelet ends pods
        await admin.patch_node_status("a1", {"status": {"conditions": [ready]}})


def test_the_own_role_looks_evicts_and_deletes(cluster: Founded) -> None:
    async def story() -> None:
        async with opened(cluster.door()) as api:
            await fill(cluster)
            load = await read_load(api, "a1")
            assert [one.title for one in leaving(load.pods)] == ["default/kept", "default/local"]
            assert load.local == {"default/local": "data"}
            assert load.unknown == ()
            assert [one.code for one in problems(load, force=False, silent=False)] == ["local-volumes"]
            volume = await api.volume_of("default", "data")
            assert volume is not None
            assert is_on_the_node(volume)
            assert await api.volume_of("default", "absent") is None
            kept, local = load.pods
            assert (kept.owner, local.scratch) == ("ReplicaSet", True)

            with pytest.raises(KubeRefusedError, match="disruption budget") as refused:
                await api.evict(kept, "policy/v1")
            assert refused.value.status == 429
            await api.evict(local, "policy/v1")
            await api.delete_pod(kept)
            async with asyncio.timeout(20):
                while await api.pods_on("a1"):  # noqa: ASYNC110 - the API has it
                    await asyncio.sleep(0.1)
            await api.evict(local, "policy/v1")  # gone is as good
            await api.delete_pod(kept)

            assert not await has_password(api, "a1")
            seen = (await api.nodes())["a1"]
            await api.patch_node("a1", {"spec": {"unschedulable": True}})
            assert (await api.nodes())["a1"].unschedulable
            await api.delete_node("a1", seen.uid)
            assert "a1" not in await api.nodes()

    asyncio.run(story())
