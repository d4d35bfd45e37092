"""From one server to three while the cluster's API is asked ten times a second: real TLS, a real etcd, the
store, the controller, and `bramble apply` as a person types it. k3s is the simulator.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fakes_fleet import hardware_of, status_report
from fakes_fleet_server import Running, running
from fleet_story import ask_to_install, enrol, install, see, state_of
from k3s_sim_etcd import PACE, PORT, EtcdCluster, etcd_directory, running_cluster
from k3s_sim_material import finish, put
from k3s_sim_processes import Simulated

from agent.protocol import JoinMaterial, K3sState
from fleet.boots import BootStage
from fleet.cli_apply import apply
from fleet.lifecycle import State
from fleet.refusal import RefusedError
from fleet.spec import load_cluster
from fleet.spec.model import NodeSpec, Role
from lab.k3s_sim.release import build_release

pytestmark = pytest.mark.integration

STORY_S = 240.0
ASK_EVERY_S = 0.1

CLUSTER = """
version: 1
cluster: {{name: attic, domain: attic.internal, k3s: {{version: v1.33.5+k3s1}}}}
image: {{base: raspios-lite-trixie}}
network: {{interface: lo, dhcp: full, subnet: {net}.0/24, server_address: {net}.250}}
nodes:
  - {{name: s1, board: pi5, role: server, serial: 10000000abcd0001, address: {net}.1, disk: nvme}}
  - {{name: a1, board: pi5, role: agent, serial: 10000000abcd0009, address: {net}.9, disk: nvme,
     labels: {{tier: small}}}}
"""
MORE = """\
  - {{name: s2, board: pi5, role: server, serial: 10000000abcd0002, address: {net}.2, disk: nvme}}
  - {{name: s3, board: pi5, role: server, serial: 10000000abcd0003, address: {net}.3, disk: nvme}}
"""


@dataclass
class Board:
    """An installed node: what its agent would do, with the simulator in place of k3s."""

    server: Running
    cluster: EtcdCluster
    spec: NodeSpec
    certificate: str
    k3s: Simulated | None = None
    material: JoinMaterial | None = None
    is_up: bool = False
    is_clean: bool = False
    done: int = 0
    sequence: int = 0
    settings: str = ""

    @property
    def k3s_state(self) -> K3sState:
        if self.k3s is None:
            return K3sState.INACTIVE
        return K3sState.RUNNING if self.is_up else K3sState.STARTING

    async def advance(self) -> None:
        """One round: report, fetch the order, carry it out."""
        self._look()
        joins = self.server.fleet.controller.joins
        self.sequence += 1
        report = status_report(hardware_of(self.spec), self.sequence, k3s=self.k3s_state)
        report = dataclasses.replace(report, generation=self.done)
        accepted = joins.status(self.certificate, report)
        if accepted.generation == self.done:
            return
        desired = joins.desired(self.certificate)
        if self.material is None:
            if desired.join:
                await self._join()
            return
        if self.is_up and not self.is_clean:
            finish(self.cluster.lab, self.spec.name, self.material)
            self.is_clean = True
        if self.is_clean:
            put(self.cluster.lab, self.spec.name, desired.files)
            self.settings = "".join(file.content for file in desired.files) or self.settings
            self.done = desired.generation

    async def _join(self) -> None:
        controller = self.server.fleet.controller
        with contextlib.suppress(RefusedError):  # a server that is elected anew does not answer for seconds
            await controller.preparation.prepare(self.certificate)
            self.material = controller.joins.join_material(self.certificate)
            put(self.cluster.lab, self.spec.name, self.material.files)
            self.k3s = self._start()

    def _start(self) -> Simulated:
        name, address = self.spec.name, str(self.spec.address)
        if self.spec.role is Role.AGENT:
            return self.cluster.lab.start(name, "agent", "--node-ip", address)
        environ = {"K3S_SIM_ETCD": str(etcd_directory()), **PACE}
        kubeconfig = str(self.cluster.lab.kubeconfig(name))
        return self.cluster.lab.start(
            name, "server", "--bind-address", address, "--node-ip", address,
            "--write-kubeconfig", kubeconfig, environ=environ,
        )  # fmt: skip

    def _look(self) -> None:
        if self.k3s is not None and not self.is_up:
            self.k3s.notify.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                self.is_up = self.k3s.notify.recv(100) == b"READY=1\n"


@dataclass
class Asker:
    """Asks one API server for the list of nodes, again and again."""

    url: str
    tls: ssl.SSLContext
    answers: int = 0
    failures: list[str] = field(default_factory=list)
    longest_s: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self._stop.wait(ASK_EVERY_S):
            began = time.monotonic()
            try:
                with urllib.request.urlopen(self.url, context=self.tls, timeout=20.0) as answer:
                    answer.read()
                self.answers += 1
            except OSError as error:
                self.failures.append(str(error))
            self.longest_s = max(self.longest_s, time.monotonic() - began)

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(30.0)


def begin(server: Running, cluster: EtcdCluster, name: str) -> Board:
    """Install and enrol a declared node; a person approves servers."""
    fleet = server.fleet
    spec = fleet.controller.spec.find_node(name)
    assert spec is not None

    def story() -> str:
        if spec.role is Role.SERVER:
            see(fleet, spec, BootStage.KERNEL)
            ask_to_install(fleet, spec)
            fleet.controller.people.approve(name, None)
        install(fleet, spec)
        return enrol(fleet, spec)

    return Board(server, cluster, spec, server.in_loop(story))


def until(server: Running, boards: list[Board], done: Any, what: str) -> None:
    """Let every board and the controller go on until `done()`."""

    async def story() -> None:
        async with asyncio.timeout(STORY_S):
            while not done():
                for board in boards:
                    await board.advance()
                await server.fleet.controller.watch.poll()
                await asyncio.sleep(0.1)

    try:
        asyncio.run_coroutine_threadsafe(story(), server.loop).result(STORY_S + 10)
    except TimeoutError:
        states = {board.spec.name: (board.k3s_state, board.k3s and board.k3s.log[-1500:]) for board in boards}
        raise AssertionError(f"not within {STORY_S:.0f} s: {what}; {states}") from None


def are_ready(server: Running, boards: list[Board]) -> bool:
    return all(state_of(server.fleet, board.spec) is State.READY and board.is_clean for board in boards)


def tokens(cluster: EtcdCluster) -> list[str]:
    """Bootstrap tokens that are left in the cluster."""
    _, secrets = cluster.admin("s1").call("GET", "/api/v1/namespaces/kube-system/secrets")
    names = [str(secret["metadata"]["name"]) for secret in secrets["items"]]
    return [name for name in names if name.startswith("bootstrap-token-")]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[EtcdCluster]:
    build_release(tmp_path / "release", "v1.33.5+k3s1")
    with running_cluster(tmp_path, tmp_path / "release" / "k3s-arm64") as started:
        yield started


def test_one_server_becomes_three_and_the_api_never_stops(
    cluster: EtcdCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRAMBLE_STATE_DIR", str(tmp_path / "state"))
    file = tmp_path / "cluster.yaml"
    file.write_text(CLUSTER.format(net=cluster.network))
    with running(tmp_path / "state" / "attic", load_cluster(file)) as server:
        first = [begin(server, cluster, name) for name in ("s1", "a1")]
        until(server, first, lambda: are_ready(server, first), "the server and its agent are Ready")
        identity = server.fleet.controller.joins._ground.k3s.client_identity(time.time())
        tls = ssl.create_default_context(cadata=identity.ca_pem)
        tls.load_cert_chain(identity.certificate_path, identity.key_path)
        asker = Asker(f"https://{cluster.address('s1')}:{PORT}/api/v1/nodes", tls)
        with asker.asking():
            file.write_text((CLUSTER + MORE).format(net=cluster.network))
            done = CliRunner().invoke(apply, [str(file)])
            assert done.exit_code == 0, done.output
            boards = [*first, *(begin(server, cluster, name) for name in ("s2", "s3"))]

            def is_whole() -> bool:
                settled = "server: https://" in boards[0].settings
                return are_ready(server, boards) and settled and not tokens(cluster)

            until(server, boards, is_whole, "all three servers vote")
            assert cluster.members("s3") == {"s1": True, "s2": True, "s3": True}
        assert asker.failures == []
        assert asker.answers > 20
        print(f"API: {asker.answers} answers, no failure, the longest took {asker.longest_s:.2f} s")
        assert "cluster-init" not in boards[0].settings
        founders = [
            board.spec.name
            for board in boards
            if board.material and any("cluster-init" in file.content for file in board.material.files)
        ]
        assert founders == ["s1"]
        _, nodes = cluster.admin("s2").call("GET", "/api/v1/nodes/a1")
        assert nodes["metadata"]["labels"]["tier"] == "small"
        assert nodes["metadata"]["labels"]["bramble.dev/memory"] == "8Gi"
        _, secrets = cluster.admin("s1").call("GET", "/api/v1/namespaces/kube-system/secrets")
        kinds = {secret["metadata"]["name"]: secret.get("type") for secret in secrets["items"]}
        assert "bootstrap.kubernetes.io/token" not in kinds.values()
        assert {f"{board.spec.name}.node-password.k3s" for board in boards} <= kinds.keys()
