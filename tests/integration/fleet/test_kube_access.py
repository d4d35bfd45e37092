"""The control server's rights in the cluster, against the simulator's role-based access control."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from fakes_fleet import Clock, Fleet, cluster_spec, node_spec, open_fleet
from fleet_story import enrol, install
from k3s_sim_material import put
from k3s_sim_processes import WAIT_S, free_port, running_lab

from fleet.k3s import ClientIdentity, open_k3s
from fleet.k3s_manifests import DIRECTORY
from fleet.kube import KubeApi, KubeError, KubeRefusedError
from fleet.kube_door import ROLE_GRACE_S, KubeDoor
from fleet.spec.model import Role
from lab.k3s_sim.release import build_release

pytestmark = pytest.mark.integration

SERVER = node_spec("s1", 1, role=Role.SERVER)


@dataclasses.dataclass
class Founded:
    """A simulated cluster of one server, and the door that its control server has to it."""

    fleet: Fleet
    state: Path
    port: int
    admins: list[str] = dataclasses.field(default_factory=list)

    @property
    def identity(self) -> ClientIdentity:
        return open_k3s(self.state / "k3s", "attic", self.fleet.clock()).client_identity(self.fleet.clock())

    def door(self) -> KubeDoor:
        url = f"https://127.0.0.1:{self.port}"

        def as_admin(_url: str, identity: ClientIdentity) -> KubeApi:
            self.admins.append(identity.certificate_path.name)
            return KubeApi(url, identity)

        ground = self.fleet.controller.joins._ground
        return KubeDoor(ground, lambda _url: KubeApi(url, self.identity), connect_as=as_admin)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("release")
    build_release(directory, "v1.33.5+k3s1")
    return directory / "k3s-arm64"


@contextlib.contextmanager
def founded(tmp_path: Path, program: Path, *, with_role: bool) -> Iterator[Founded]:
    fleet = open_fleet(tmp_path, cluster_spec(SERVER), Clock(time.time()))
    try:
        install(fleet, SERVER)
        certificate = enrol(fleet, SERVER)
        assert fleet.controller.joins.desired(certificate).join
        files = fleet.controller.joins.join_material(certificate).files
        wanted = tuple(file for file in files if with_role or not file.path.startswith(DIRECTORY))
        assert len(wanted) == len(files) - (not with_role)
        (tmp_path / "lab").mkdir()
        with running_lab(tmp_path / "lab", program) as lab:
            port = free_port()
            put(lab, SERVER.name, wanted)
            lab.server(SERVER.name, port).wait_ready()
            yield Founded(fleet, tmp_path, port)
    finally:
        fleet.store.close()


@contextlib.asynccontextmanager
async def opened(door: KubeDoor) -> AsyncIterator[KubeApi]:
    """Through the door as soon as the server has applied its manifests."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                async with door.open() as (api, _listing):
                    yield api
                    return
            except KubeRefusedError:
                await asyncio.sleep(0.1)


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
