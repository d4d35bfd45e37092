"""A fleet whose nodes join a cluster behind a fake Kubernetes API: real TLS, a real store."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator
from pathlib import Path

from fakes_fleet import Clock, Fleet, hardware_of, node_spec, open_fleet, status_report
from fakes_kube import FakeKube
from fleet_story import enrol, install, kube_ready

from agent.protocol import K3sState, Problem
from fleet.controller import Controller
from fleet.installs import ControlInfo
from fleet.k3s.material import open_k3s
from fleet.kube.client import KubeApi
from fleet.lifecycle import State
from fleet.spec.model import ClusterSpec, NodeSpec, Role

S1, S2, S3 = (node_spec(f"s{number}", number, role=Role.SERVER) for number in (1, 2, 3))
A1 = node_spec("a1", 4)
TIMEOUT_S = 60.0
OLD_RELEASE = "v1.21.3+k3s1"


@dataclasses.dataclass
class Cluster:
    """A fleet whose controller asks the fake API on loopback in place of port 6443 of the servers."""

    fleet: Fleet
    kube: FakeKube
    state: Path
    certificates: dict[str, str] = dataclasses.field(default_factory=dict)
    sequence: int = 0

    @property
    def controller(self) -> Controller:
        return self.fleet.controller

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with self.kube.serve() as port, asyncio.timeout(TIMEOUT_S):
            material = open_k3s(self.state / "k3s", "attic", self.fleet.clock())
            identity = material.client_identity(self.fleet.clock())
            self.fleet.controller = Controller(
                self.fleet.store,
                self.controller.spec,
                self.fleet.pki,
                material,
                self.fleet.images,
                ControlInfo((), ""),
                clock=self.fleet.clock,
                connect=lambda url: KubeApi(f"https://127.0.0.1:{self._reached(url, port)}", identity),
            )
            yield

    def _reached(self, url: str, port: int) -> int:
        """The port that stands for a server's; one where nobody listens for a silent one."""
        return 1 if any(f"//{address}:" in url for address in self.kube.silent) else port

    def begin(self, *nodes: NodeSpec) -> None:
        """Installed, enrolled, and asked for its turn."""
        for node in nodes:
            install(self.fleet, node)
            self.certificates[node.name] = enrol(self.fleet, node)
            self.controller.joins.desired(self.certificates[node.name])

    def ready(self, *nodes: NodeSpec) -> None:
        self.controller.watch.apply_kubernetes(kube_ready(*nodes))

    def report(
        self, node: NodeSpec, k3s: K3sState, *problems: Problem, material: int = 0, done: int = 0
    ) -> None:
        self.sequence += 1
        status = status_report(hardware_of(node), self.sequence, k3s=k3s)
        status = dataclasses.replace(status, problems=problems, material=material, generation=done)
        self.controller.joins.status(self.certificates[node.name], status)

    def found_and_begin_agent(self) -> None:
        """A cluster of one server, and an agent whose turn it is."""
        self.begin(S1)
        self.ready(S1)
        self.begin(A1)

    async def prepare(self, node: NodeSpec) -> None:
        await self.controller.preparation.prepare(self.certificates[node.name])

    def generation(self, node: NodeSpec) -> int:
        return self.controller.joins.desired(self.certificates[node.name]).generation

    def settings(self, node: NodeSpec) -> str:
        return "".join(
            file.content for file in self.controller.joins.desired(self.certificates[node.name]).files
        )

    def tokens(self) -> list[str]:
        return [name for name in self.kube.secrets if name.startswith("bootstrap-token-")]

    def token_file(self, node: NodeSpec) -> str:
        material = self.controller.joins.join_material(self.certificates[node.name])
        return next(file.content for file in material.files if file.path.endswith("bramble-token")).strip()


def open_cluster(tmp_path: Path, spec: ClusterSpec) -> Cluster:
    fleet = open_fleet(tmp_path, spec, Clock(time.time()))
    return Cluster(fleet, FakeKube(tmp_path / "k3s"), tmp_path)


def three_servers(cluster: Cluster) -> None:
    for number, node in enumerate((S1, S2, S3), 1):
        cluster.begin(node)
        cluster.ready(*(S1, S2, S3)[:number])
    cluster.kube.ready = {"s1": True, "s2": True, "s3": True}
    cluster.kube.voters = {"s1": True, "s2": True, "s3": True}


def reinstall(cluster: Cluster, node: NodeSpec) -> None:
    """The record of a server that was installed again: it joins anew, its k3s has not started."""
    with cluster.fleet.store.write() as tx:
        record = tx.require_node(node.name)
        row = dataclasses.replace(record.standing, state=State.JOINING)
        tx._write_node(node.name, {**dataclasses.asdict(row), "join_allowed": False, "boot_id": None})
    cluster.report(node, K3sState.INACTIVE)
