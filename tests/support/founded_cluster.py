"""A simulated cluster of one server on loopback, and the control server's own door to it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from fakes_fleet import Clock, Fleet, cluster_spec, node_spec, open_fleet
from fleet_story import enrol, install
from free_ports import free_port
from k3s_sim_material import put
from k3s_sim_processes import WAIT_S, running_lab

from fleet.k3s.manifests import DIRECTORY
from fleet.k3s.material import ClientIdentity, open_k3s
from fleet.kube.client import KubeApi, KubeRefusedError
from fleet.kube.door import KubeDoor
from fleet.spec.model import Role

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
