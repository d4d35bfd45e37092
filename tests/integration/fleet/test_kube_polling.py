"""Ready is what the Kubernetes API says: real TLS against a small API server with the cluster's own CAs."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from fakes_fleet import Clock, Fleet, cluster_spec, node_spec, open_fleet
from fakes_kube import FakeKube

from fleet.controller import Controller
from fleet.installs import ControlInfo
from fleet.k3s.material import open_k3s
from fleet.kube.client import KubeApi, KubeError
from fleet.lifecycle import Happening, State
from fleet.spec.model import Role
from fleet.store.database import StoreError
from fleet.timeline import Entry, Kind

pytestmark = pytest.mark.integration

SERVER = node_spec("pi5-1", 1, role=Role.SERVER)
TIMEOUT_S = 60.0


def join(fleet: Fleet) -> None:
    """Take the server to JOINING with its material allowed, without the way there."""
    entry = Entry(kind=Kind.JOIN, text="test")
    with fleet.store.write() as tx:
        node = tx.require_node("pi5-1")
        for happening in (Happening.POWERED_ON, Happening.ADMITTED, Happening.INSTALLED, Happening.ENROLLED):
            node = tx.move(node, happening, entry, fleet.clock())
        tx.update_node(node, join_allowed=True)


def state_of(fleet: Fleet) -> State:
    with fleet.store.read() as reader:
        return reader.require_node("pi5-1").state


def with_port(fleet: Fleet, state: Path, port: int) -> Controller:
    """The fleet's controller, asking `port` of loopback in place of 6443 of the node."""
    material = open_k3s(state / "k3s", "attic", fleet.clock())
    return Controller(
        fleet.store,
        fleet.controller.spec,
        fleet.pki,
        material,
        fleet.images,
        ControlInfo((), ""),
        clock=fleet.clock,
        connect=lambda _url: KubeApi(f"https://127.0.0.1:{port}", material.client_identity(fleet.clock())),
    )


def test_running_controller_sees_the_node_become_ready(tmp_path: Path) -> None:
    fleet = open_fleet(tmp_path, cluster_spec(SERVER), Clock(time.time()))
    kube = FakeKube(tmp_path / "k3s", {"pi5-1": False})

    async def story() -> None:
        async with kube.serve() as port, asyncio.timeout(TIMEOUT_S):
            controller = with_port(fleet, tmp_path, port)
            await controller.watch.poll()
            assert state_of(fleet) is State.JOINING
            kube.ready["pi5-1"] = True
            keeping_time = asyncio.create_task(controller.run())
            while state_of(fleet) is not State.READY:  # noqa: ASYNC110 - the condition is in the store
                await asyncio.sleep(0.02)
            keeping_time.cancel()
            with pytest.raises(asyncio.CancelledError):
                await keeping_time

    try:
        join(fleet)
        asyncio.run(story())
    finally:
        fleet.store.close()
    assert ((("organizationName", "bramble"),), (("commonName", "bramble-control"),)) in kube.asked_by


def test_server_of_another_cluster_is_not_believed(tmp_path: Path) -> None:
    fleet = open_fleet(tmp_path, cluster_spec(SERVER), Clock(time.time()))
    open_k3s(tmp_path / "other" / "k3s", "other", time.time())
    kube = FakeKube(tmp_path / "other" / "k3s", {"pi5-1": True})

    async def story() -> None:
        async with kube.serve() as port, asyncio.timeout(TIMEOUT_S):
            await with_port(fleet, tmp_path, port).watch.poll()

    try:
        join(fleet)
        asyncio.run(story())
        assert state_of(fleet) is State.JOINING
        assert kube.asked_by == []
    finally:
        fleet.store.close()


def test_silence_is_an_error_with_the_address(tmp_path: Path) -> None:
    identity = open_k3s(tmp_path / "k3s", "attic", time.time()).client_identity(time.time())

    async def ask() -> None:
        async with KubeApi("https://127.0.0.1:1", identity) as api:
            await api.nodes()

    with pytest.raises(KubeError, match=r"127\.0\.0\.1:1 does not answer"):
        asyncio.run(ask())


@pytest.mark.parametrize(
    "answer",
    [[], None, {}, {"items": ["x"]}, {"items": [{"status": "x"}]}, {"items": [{"metadata": []}]}],
    ids=["list", "null", "empty", "text-item", "text-status", "list-metadata"],
)
def test_answer_that_is_no_list_of_nodes_is_an_error_of_kubernetes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: object
) -> None:
    api = KubeApi(
        "https://k.invalid", open_k3s(tmp_path / "k3s", "attic", time.time()).client_identity(time.time())
    )

    async def get(_path: str) -> object:
        return answer

    monkeypatch.setattr(api, "_get", get)
    with pytest.raises(KubeError, match="did not answer with a list of nodes"):
        asyncio.run(api.nodes())


def test_controller_goes_on_after_a_round_that_the_store_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = open_fleet(tmp_path, cluster_spec(SERVER))
    rounds: list[int] = []

    async def run() -> None:
        done = asyncio.Event()

        def tick() -> None:
            rounds.append(len(rounds))
            if len(rounds) == 1:
                raise StoreError("cannot be written", "", tmp_path)
            done.set()

        monkeypatch.setattr(fleet.controller, "tick", tick)
        monkeypatch.setattr("fleet.controller.TICK_S", 0.0)
        task = asyncio.create_task(fleet.controller.run())
        async with asyncio.timeout(TIMEOUT_S):
            await done.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    try:
        asyncio.run(run())
    finally:
        fleet.store.close()
    assert len(rounds) >= 2
