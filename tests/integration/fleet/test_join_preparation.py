"""What exists in the cluster while a node joins, and what is gone afterwards: real TLS, a real store."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import ipaddress
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from fakes_fleet import Clock, Fleet, cluster_spec, hardware_of, node_spec, open_fleet, status_report
from fakes_kube import FakeKube
from fleet_story import enrol, install, kube_ready, state_of, texts

from agent.protocol import K3sState, Problem
from fleet.controller import Controller
from fleet.installs import ControlInfo
from fleet.join_secrets import accepts_password, node_password_object
from fleet.k3s import open_k3s
from fleet.kube import KubeApi
from fleet.lifecycle import State
from fleet.refusal import RefusedError
from fleet.secret import Secret
from fleet.spec.model import ClusterSpec, NodeSpec, Role

pytestmark = pytest.mark.integration

S1, S2, S3 = (node_spec(f"s{number}", number, role=Role.SERVER) for number in (1, 2, 3))
A1 = node_spec("a1", 4)
TIMEOUT_S = 20.0
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


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    opened = open_cluster(tmp_path, cluster_spec(S1, S2, S3, A1))
    yield opened
    opened.fleet.store.close()


def data(secret: object, key: str) -> str:
    assert isinstance(secret, dict)
    return base64.b64decode(secret["data"][key]).decode()


def test_agent_joins_with_a_token_that_lives_from_its_turn_to_ready(cluster: Cluster) -> None:
    async def story() -> None:
        async with cluster.running():
            cluster.begin(S1)
            cluster.ready(S1)
            cluster.begin(A1)
            assert cluster.tokens() == []
            await cluster.prepare(A1)
            (name,) = cluster.tokens()
            secret = cluster.kube.secrets[name]
            token = f"{data(secret, 'token-id')}.{data(secret, 'token-secret')}"
            assert cluster.token_file(A1).endswith(f"::{token}")
            assert cluster.token_file(A1).startswith("K10")
            changes = list(cluster.kube.changes)
            await cluster.prepare(A1)
            assert cluster.kube.changes == changes
            generation = cluster.generation(A1)
            cluster.kube.ready |= {"s1": True, "a1": True}
            cluster.report(A1, K3sState.RUNNING, material=generation)
            await cluster.controller.watch.poll()
            assert state_of(cluster.fleet, A1) is State.READY
            assert cluster.tokens() == [name]  # until the node has flushed what stands in for it
            cluster.report(A1, K3sState.RUNNING, material=generation, done=generation)
            await cluster.controller.watch.poll()
            assert cluster.tokens() == []
            assert texts(cluster.fleet, "a1")[-1] == "its join token was deleted from the cluster"

    asyncio.run(story())


def test_agent_never_gets_a_credential_of_a_server(cluster: Cluster) -> None:
    async def story() -> None:
        async with cluster.running():
            cluster.begin(S1)
            cluster.ready(S1)
            cluster.begin(A1)
            await cluster.prepare(A1)
            material = cluster.controller.joins.join_material(cluster.certificates["a1"])
            handed = "".join(file.content for file in material.files)
            keys = open_k3s(cluster.state / "k3s", "attic", cluster.fleet.clock())
            admin = keys.server_token.reveal().rpartition(":")[2]
            shared = keys.agent_token.reveal().rpartition(":")[2]
            assert admin not in handed
            assert shared not in handed

    asyncio.run(story())


def test_token_that_runs_out_gets_more_time_while_the_node_still_joins(cluster: Cluster) -> None:
    async def story() -> None:
        async with cluster.running():
            cluster.begin(S1)
            cluster.ready(S1)
            cluster.begin(A1)
            await cluster.prepare(A1)
            (name,) = cluster.tokens()
            first = data(cluster.kube.secrets[name], "expiration")
            cluster.fleet.clock.advance(400)
            await cluster.prepare(A1)
            assert cluster.tokens() == [name]
            assert data(cluster.kube.secrets[name], "expiration") > first

    asyncio.run(story())


def test_release_without_such_tokens_uses_the_agent_token(tmp_path: Path) -> None:
    spec = cluster_spec(S1, A1)
    spec = dataclasses.replace(spec, k3s=dataclasses.replace(spec.k3s, version=OLD_RELEASE))
    cluster = open_cluster(tmp_path, spec)

    async def story() -> None:
        async with cluster.running():
            cluster.begin(S1)
            cluster.ready(S1)
            cluster.begin(A1)
            await cluster.prepare(A1)
            assert cluster.tokens() == []
            assert list(cluster.kube.secrets) == ["a1.node-password.k3s"]
            assert "::node:" in cluster.token_file(A1)

    try:
        asyncio.run(story())
    finally:
        cluster.fleet.store.close()


def test_name_is_the_nodes_own_before_it_joins(cluster: Cluster) -> None:
    async def story() -> None:
        async with cluster.running():
            cluster.begin(S1)
            cluster.ready(S1)
            cluster.begin(A1)
            squatter = node_password_object("a1", Secret("a squatter's"), b"12345678", None)
            squatter["metadata"]["uid"] = "uid-of-squatter"
            cluster.kube.secrets["a1.node-password.k3s"] = squatter
            await cluster.prepare(A1)
            with cluster.fleet.store.read() as reader:
                password = reader.require_node("a1").node_password
            made = cluster.kube.secrets["a1.node-password.k3s"]
            assert accepts_password(made, password)
            await cluster.prepare(A1)
            assert cluster.kube.secrets["a1.node-password.k3s"] is made

    asyncio.run(story())


def test_material_is_not_handed_out_while_the_cluster_can_not_be_told(cluster: Cluster) -> None:
    async def story() -> None:
        async with cluster.running():
            cluster.begin(S1)
            cluster.ready(S1)
            cluster.begin(A1)
        with pytest.raises(RefusedError, match="can not be told of a1 yet") as refused:
            await cluster.prepare(A1)
        assert refused.value.status == 503

    asyncio.run(story())


def test_rejected_token_is_answered_with_new_material_once(cluster: Cluster) -> None:
    rejected = Problem("token_rejected", "the cluster rejected the join token", "h")

    async def story() -> None:
        async with cluster.running():
            cluster.begin(S1)
            cluster.ready(S1)
            cluster.begin(A1)
            await cluster.prepare(A1)
            first, generation = cluster.token_file(A1), cluster.generation(A1)
            cluster.report(A1, K3sState.STARTING, rejected, material=generation)
            desired = cluster.controller.joins.desired(cluster.certificates["a1"])
            assert desired.material == desired.generation == generation + 1
            await cluster.prepare(A1)
            assert cluster.token_file(A1) != first
            cluster.report(A1, K3sState.STARTING, rejected, material=generation)
            cluster.report(A1, K3sState.STARTING, rejected, material=generation + 1)
            assert cluster.generation(A1) == generation + 1
            cluster.kube.ready["s1"] = True
            await cluster.controller.watch.poll()
            assert len(cluster.tokens()) == 1

    asyncio.run(story())


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
            cluster.controller.joins.reconcile()
            generation = cluster.generation(S1)
            assert "server:" not in cluster.settings(S1)
            cluster.begin(S2)
            cluster.ready(S1, S2)
            cluster.controller.joins.reconcile()
            assert cluster.generation(S1) == generation + 1
            assert "server: https://10.77.0.12:6443" in cluster.settings(S1)
            assert "cluster-init" not in cluster.settings(S1)
            assert "token-file: /etc/rancher/k3s/bramble-token" not in cluster.settings(S1)
            cluster.controller.joins.reconcile()
            assert cluster.generation(S1) == generation + 1

    asyncio.run(story())


def test_nodes_are_told_another_server_when_theirs_goes_away(cluster: Cluster) -> None:
    async def story() -> None:
        async with cluster.running():
            cluster.begin(S1)
            cluster.ready(S1)
            cluster.begin(A1)
            cluster.ready(S1, A1)
            cluster.begin(S2)
            cluster.ready(S1, S2, A1)
            cluster.controller.joins.reconcile()
            assert "server: https://10.77.0.11:6443" in cluster.settings(A1)
            generation = cluster.generation(A1)
            cluster.fleet.clock.advance(60)
            for node in (S2, A1):
                cluster.report(node, K3sState.RUNNING)
            cluster.controller.tick()
            assert state_of(cluster.fleet, S1) is State.LOST
            cluster.controller.joins.reconcile()
            assert "server: https://10.77.0.12:6443" in cluster.settings(A1)
            assert cluster.generation(A1) == generation + 1
            assert "finds the cluster at https://10.77.0.12:6443 from now on" in texts(cluster.fleet, "a1")

    asyncio.run(story())


def test_labels_are_set_after_registration_and_not_again(cluster: Cluster) -> None:
    async def story() -> None:
        async with cluster.running():
            cluster.begin(S1)
            cluster.ready(S1)
            cluster.begin(A1)
            cluster.report(A1, K3sState.RUNNING)
            cluster.kube.ready = {"s1": True, "a1": True, "stranger": True}
            await cluster.controller.watch.poll()
            labels = cluster.kube.metadata["a1"]["labels"]
            assert labels == {
                "bramble.dev/board": "pi5",
                "bramble.dev/disk": "nvme",
                "bramble.dev/memory": "8Gi",
                "tier": "small",
            }
            assert "stranger" not in cluster.kube.metadata
            changes = list(cluster.kube.changes)
            await cluster.controller.watch.poll()
            assert cluster.kube.changes == changes

    asyncio.run(story())


def test_nodes_are_told_the_apis_own_address_while_it_answers(tmp_path: Path) -> None:
    spec = cluster_spec(S1, A1)
    spec = dataclasses.replace(
        spec, k3s=dataclasses.replace(spec.k3s, api_vip=ipaddress.IPv4Address("10.77.0.200"))
    )
    cluster = open_cluster(tmp_path, spec)

    async def story() -> None:
        async with cluster.running():
            cluster.begin(S1)
            cluster.ready(S1)
            cluster.begin(A1)
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


def test_token_of_a_node_that_never_confirms_ends_all_the_same(cluster: Cluster) -> None:
    async def story() -> None:
        async with cluster.running():
            cluster.begin(S1)
            cluster.ready(S1)
            cluster.begin(A1)
            await cluster.prepare(A1)
            cluster.kube.ready |= {"s1": True, "a1": True}
            cluster.report(A1, K3sState.RUNNING)
            await cluster.controller.watch.poll()
            assert len(cluster.tokens()) == 1
            cluster.fleet.clock.advance(601)
            await cluster.controller.watch.poll()
            assert cluster.tokens() == []

    asyncio.run(story())


def test_agent_that_lost_its_certificate_to_a_power_cut_joins_anew(cluster: Cluster) -> None:
    rejected = Problem("token_rejected", "401", "h")

    async def story() -> None:
        async with cluster.running():
            cluster.begin(S1)
            cluster.ready(S1)
            cluster.begin(A1)
            await cluster.prepare(A1)
            first, generation = cluster.token_file(A1), cluster.generation(A1)
            cluster.kube.ready |= {"s1": True, "a1": True}
            cluster.report(A1, K3sState.RUNNING, material=generation, done=generation)
            await cluster.controller.watch.poll()
            cluster.kube.ready["a1"] = False
            cluster.report(A1, K3sState.STARTING, rejected, material=generation, done=generation)
            assert state_of(cluster.fleet, A1) is State.JOINING
            desired = cluster.controller.joins.desired(cluster.certificates["a1"])
            assert desired.join
            assert desired.material == desired.generation > generation
            await cluster.prepare(A1)
            assert cluster.token_file(A1) != first
            assert len(cluster.tokens()) == 1

    asyncio.run(story())


def test_running_agent_is_not_joined_anew_for_an_old_line_of_its_journal(cluster: Cluster) -> None:
    async def story() -> None:
        async with cluster.running():
            cluster.begin(S1)
            cluster.ready(S1)
            cluster.begin(A1)
            cluster.ready(S1, A1)
            cluster.report(A1, K3sState.RUNNING, Problem("token_rejected", "401", "h"))
            assert state_of(cluster.fleet, A1) is State.READY

    asyncio.run(story())
