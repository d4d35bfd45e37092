"""The join material, carried out: k3s (the simulator) starts from exactly the files that a node is handed.

The material's absolute paths are laid below each node's own directory; everything else is as on a node.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest
from fakes_fleet import cluster_spec, node_spec
from free_ports import free_port
from k3s_sim_material import finish, put
from k3s_sim_processes import Lab, Simulated, running_lab

from agent.k3s import classify
from agent.protocol import JoinMaterial
from fleet.join.secrets import bootstrap_token, bootstrap_token_object, node_password_object
from fleet.k3s.config import InitialiseCluster, JoinServer, Way, render_join_material
from fleet.k3s.material import K3sMaterial, open_k3s
from fleet.k3s.versions import K3sVersion
from fleet.kube.client import KubeApi, KubeRefusedError
from fleet.secret import Secret
from fleet.spec.model import NodeSpec, Role
from lab.k3s_sim.release import build_release

pytestmark = pytest.mark.integration

SERVER = node_spec("pi5-1", 1, role=Role.SERVER)
SECOND = node_spec("pi5-2", 2, role=Role.SERVER)
AGENT = node_spec("pi4-1", 3)
SPEC = cluster_spec(SERVER, SECOND, AGENT)
RELEASE = "v1.33.5+k3s1"
VERSION = K3sVersion.find(RELEASE)
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("release")
    build_release(directory, RELEASE)
    return directory / "k3s-arm64"


@pytest.fixture
def lab(tmp_path: Path, program: Path) -> Iterator[Lab]:
    with running_lab(tmp_path, program) as started:
        yield started


@pytest.fixture
def keys(tmp_path: Path) -> K3sMaterial:
    return open_k3s(tmp_path / "keys", "attic", time.time())


def material_for(node: NodeSpec, keys: K3sMaterial, way: Way) -> JoinMaterial:
    password = Secret(f"password of {node.name}")
    return render_join_material(
        SPEC, node, keys, way, address=None, node_password=password, generation=1, version=VERSION
    )


async def ready_nodes(port: int, keys: K3sMaterial, wanted: set[str]) -> None:
    async with (
        asyncio.timeout(DEADLINE_S),
        KubeApi(f"https://127.0.0.1:{port}", keys.client_identity(time.time())) as api,
    ):
        while {name for name, node in (await api.nodes()).items() if node.ready} != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def role_in_force(port: int, keys: K3sMaterial) -> None:
    """k3s applies the manifest with our role some time after the server is ready."""
    identity = keys.client_identity(time.time())
    async with asyncio.timeout(DEADLINE_S), KubeApi(f"https://127.0.0.1:{port}", identity) as api:
        while True:
            try:
                await api.nodes()
                await api.bootstrap_tokens()
                return
            except KubeRefusedError as error:
                if error.status != HTTPStatus.FORBIDDEN:
                    raise
                await asyncio.sleep(0.1)


def start_server(lab: Lab, port: int, keys: K3sMaterial) -> Simulated:
    server = lab.server(SERVER.name, port)
    server.wait_ready()
    asyncio.run(role_in_force(port, keys))
    return server


def test_first_server_and_agent_become_ready_and_live_on_without_token(lab: Lab, keys: K3sMaterial) -> None:
    port = free_port()
    founder = material_for(SERVER, keys, InitialiseCluster())
    put(lab, SERVER.name, founder.files)
    server = start_server(lab, port, keys)
    joining = material_for(AGENT, keys, JoinServer(f"https://127.0.0.1:{port}"))
    put(lab, AGENT.name, joining.files)
    agent = lab.start(AGENT.name, "agent")
    agent.wait_ready()
    asyncio.run(ready_nodes(port, keys, {"pi5-1", "pi4-1"}))
    finish(lab, SERVER.name, founder)
    finish(lab, AGENT.name, joining)
    for process in (agent, server):
        lab.stop(process)
    server = start_server(lab, port, keys)
    agent = lab.start(AGENT.name, "agent")
    agent.wait_ready()
    asyncio.run(ready_nodes(port, keys, {"pi5-1", "pi4-1"}))


def test_agent_joins_with_its_bootstrap_token_and_lives_on_when_that_is_deleted(
    lab: Lab, keys: K3sMaterial
) -> None:
    port = free_port()
    put(lab, SERVER.name, material_for(SERVER, keys, InitialiseCluster()).files)
    start_server(lab, port, keys)
    token = bootstrap_token(keys.server_token, "uuid of pi4-1", 3)
    way, password = JoinServer(f"https://127.0.0.1:{port}"), Secret("password of pi4-1")
    joining = render_join_material(
        SPEC,
        AGENT,
        keys,
        way,
        address=None,
        node_password=password,
        generation=3,
        version=VERSION,
        bootstrap=token,
    )
    put(lab, AGENT.name, joining.files)
    rejected = lab.start(AGENT.name, "agent")
    rejected.wait_for_log("server is not ready")
    assert {problem.code for problem in [classify(rejected.log.splitlines())] if problem} == {
        "token_rejected"
    }
    lab.stop(rejected)

    async def in_the_cluster(agent: Simulated | None) -> Simulated:
        identity = keys.client_identity(time.time())
        async with KubeApi(f"https://127.0.0.1:{port}", identity) as api:
            if agent is None:
                secret = node_password_object("pi4-1", password, b"\1" * 8, None)
                await api.create_secret(secret)
                await api.create_secret(bootstrap_token_object(token, "pi4-1", time.time() + 600))
                return lab.start(AGENT.name, "agent")
            (made,) = await api.bootstrap_tokens()
            await api.delete_secret(made)
            assert await api.bootstrap_tokens() == []
            assert await api.secret(token.object_name) is None
        return agent

    agent = asyncio.run(in_the_cluster(None))
    agent.wait_ready()
    asyncio.run(in_the_cluster(agent))
    finish(lab, AGENT.name, joining)
    lab.stop(agent)
    lab.start(AGENT.name, "agent").wait_ready()
    asyncio.run(ready_nodes(port, keys, {"pi5-1", "pi4-1"}))


def test_server_of_another_cluster_gets_no_credentials_and_is_named(lab: Lab, tmp_path: Path) -> None:
    """Somebody answers at the join address in the server's place."""
    port = free_port()
    theirs = open_k3s(tmp_path / "theirs", "attic", time.time())
    put(lab, SERVER.name, material_for(SERVER, theirs, InitialiseCluster()).files)
    server = start_server(lab, port, theirs)
    ours = open_k3s(tmp_path / "ours", "attic", time.time())
    put(lab, AGENT.name, material_for(AGENT, ours, JoinServer(f"https://127.0.0.1:{port}")).files)
    agent = lab.start(AGENT.name, "agent")
    agent.wait_for_log("token CA hash does not match")
    problem = classify(agent.log.splitlines())
    assert problem is not None
    assert problem.code == "ca_mismatch"
    assert AGENT.name not in server.log


def test_second_server_joins_the_first_ones_cluster(lab: Lab, keys: K3sMaterial) -> None:
    port = free_port()
    put(lab, SERVER.name, material_for(SERVER, keys, InitialiseCluster()).files)
    start_server(lab, port, keys)
    put(lab, SECOND.name, material_for(SECOND, keys, JoinServer(f"https://127.0.0.1:{port}")).files)
    lab.server(SECOND.name, free_port()).wait_ready()
    asyncio.run(ready_nodes(port, keys, {"pi5-1", "pi5-2"}))


def test_reinstalled_node_is_accepted_with_the_password_that_the_store_kept(
    lab: Lab, keys: K3sMaterial
) -> None:
    port = free_port()
    put(lab, SERVER.name, material_for(SERVER, keys, InitialiseCluster()).files)
    start_server(lab, port, keys)
    joining = material_for(AGENT, keys, JoinServer(f"https://127.0.0.1:{port}"))
    put(lab, AGENT.name, joining.files)
    first = lab.start(AGENT.name, "agent")
    first.wait_ready()
    lab.stop(first)
    lab.data(AGENT.name).rename(lab.directory / "the disk that was wiped")
    put(lab, AGENT.name, joining.files)
    lab.start(AGENT.name, "agent").wait_ready()
