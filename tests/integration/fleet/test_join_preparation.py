"""What exists in the cluster while a node joins, and what is gone afterwards: real TLS, a real store."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes_fleet import cluster_spec
from fleet_story import state_of, texts
from join_cluster import A1, OLD_RELEASE, S1, S2, S3, Cluster, open_cluster, three_servers

from agent.membership import describe_loss
from agent.protocol import K3sState, Problem
from fleet.join.secrets import accepts_password, node_password_object
from fleet.k3s.material import open_k3s
from fleet.lifecycle import State
from fleet.refusal import RefusedError
from fleet.secret import Secret
from fleet.timeline import Kind
from fleet.views import timeline_view

pytestmark = pytest.mark.integration


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
            cluster.found_and_begin_agent()
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
            cluster.found_and_begin_agent()
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
            cluster.found_and_begin_agent()
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
            cluster.found_and_begin_agent()
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
            cluster.found_and_begin_agent()
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
            cluster.found_and_begin_agent()
        with pytest.raises(RefusedError, match="can not be told of a1 yet") as refused:
            await cluster.prepare(A1)
        assert refused.value.status == 503

    asyncio.run(story())


def test_rejected_token_is_answered_with_new_material_once(cluster: Cluster) -> None:
    rejected = Problem("token_rejected", "the cluster rejected the join token", "h")

    async def story() -> None:
        async with cluster.running():
            cluster.found_and_begin_agent()
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


def test_labels_are_set_after_registration_and_not_again(cluster: Cluster) -> None:
    async def story() -> None:
        async with cluster.running():
            cluster.found_and_begin_agent()
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


def test_token_of_a_node_that_never_confirms_ends_all_the_same(cluster: Cluster) -> None:
    async def story() -> None:
        async with cluster.running():
            cluster.found_and_begin_agent()
            await cluster.prepare(A1)
            cluster.kube.ready |= {"s1": True, "a1": True}
            cluster.report(A1, K3sState.RUNNING)
            await cluster.controller.watch.poll()
            assert len(cluster.tokens()) == 1
            cluster.fleet.clock.advance(601)
            await cluster.controller.watch.poll()
            assert cluster.tokens() == []

    asyncio.run(story())


async def ready_agent(cluster: Cluster) -> tuple[str, int]:
    """An agent that has joined, and said that it can do without its token; that, and its generation."""
    cluster.found_and_begin_agent()
    await cluster.prepare(A1)
    token, generation = cluster.token_file(A1), cluster.generation(A1)
    cluster.kube.ready |= {"s1": True, "a1": True}
    cluster.report(A1, K3sState.RUNNING, material=generation, done=generation)
    await cluster.controller.watch.poll()
    return token, generation


def test_agent_that_lost_its_certificate_to_a_power_cut_joins_anew(cluster: Cluster) -> None:
    rejected = Problem("token_rejected", "401", "h")

    async def story() -> None:
        async with cluster.running():
            first, generation = await ready_agent(cluster)
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


def test_agent_whose_card_was_written_without_an_order_joins_anew(cluster: Cluster) -> None:
    lost = describe_loss("a1", "agent")

    async def story() -> None:
        async with cluster.running():
            first, generation = await ready_agent(cluster)
            cluster.report(A1, K3sState.INACTIVE, lost)
            assert state_of(cluster.fleet, A1) is State.JOINING
            # The Node object is Ready for a while after its kubelet ended: it may count as joined too soon.
            cluster.ready(S1, A1)
            assert state_of(cluster.fleet, A1) is State.READY
            cluster.report(A1, K3sState.INACTIVE, lost)
            assert state_of(cluster.fleet, A1) is State.JOINING
            cluster.report(A1, K3sState.INACTIVE, lost)
            desired = cluster.controller.joins.desired(cluster.certificates["a1"])
            assert (desired.join, desired.files) == (True, ())
            assert desired.material > generation
            await cluster.prepare(A1)
            assert cluster.token_file(A1) != first
            said = [text for text in texts(cluster.fleet, "a1") if "nothing" in text]
            assert sum("it joins anew" in text for text in said) == 2

    asyncio.run(story())


def test_server_whose_card_was_written_without_an_order_is_an_alarm_and_keeps_its_place(
    cluster: Cluster,
) -> None:
    """Its member is in etcd: it leaves that by an order, and no card gets a server's token for its word."""

    async def story() -> None:
        async with cluster.running():
            three_servers(cluster)
            for _ in range(2):
                cluster.report(S2, K3sState.INACTIVE, describe_loss("s2", "server"))
            assert state_of(cluster.fleet, S2) is State.READY
            with pytest.raises(RefusedError, match="s2 is ready, it does not join"):
                await cluster.prepare(S2)
            timeline = timeline_view(cluster.fleet.store, "s2")
            assert timeline is not None
            (said,) = [event for event in timeline.events if "membership_lost" in event.text]
            assert said.kind == Kind.ALARM
            assert "'bramble reimage s2'" in said.hint

    asyncio.run(story())


def test_running_agent_is_not_joined_anew_for_an_old_line_of_its_journal(cluster: Cluster) -> None:
    async def story() -> None:
        async with cluster.running():
            cluster.found_and_begin_agent()
            cluster.ready(S1, A1)
            cluster.report(A1, K3sState.RUNNING, Problem("token_rejected", "401", "h"))
            assert state_of(cluster.fleet, A1) is State.READY

    asyncio.run(story())


def test_token_of_an_agent_that_is_revoked_is_deleted(cluster: Cluster) -> None:
    async def story() -> None:
        async with cluster.running():
            cluster.found_and_begin_agent()
            cluster.kube.ready |= {"s1": True}
            await cluster.prepare(A1)
            await cluster.controller.watch.poll()
            assert len(cluster.tokens()) == 1
            cluster.controller.people.revoke("a1")
            await cluster.controller.watch.poll()
            assert cluster.tokens() == []

    asyncio.run(story())
