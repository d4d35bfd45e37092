"""A node that is not well: its state, timeline, tables, metrics and Kubernetes object say so."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fakes_fleet import Clock, Fleet, cluster_spec, hardware_of, open_fleet, status_report
from fakes_kube import FakeKube
from fleet_story import AGENT, SERVER, enrol, install, kube_ready, state_of, texts

from agent.protocol import Health, K3sState, Status
from bramble.metrics import Metrics
from fleet.controller import Controller
from fleet.health.conditions import BAD_SAMPLES, GOOD_SAMPLES
from fleet.health.desk import find_write_obstacle
from fleet.installs import ControlInfo
from fleet.k3s.material import open_k3s
from fleet.kube.client import KubeApi
from fleet.kube.node_conditions import REPEAT_S
from fleet.lifecycle import State
from fleet.views import fleet_view

pytestmark = pytest.mark.integration

WELL = Health(10.0, 0.1, 1 << 30, 1 << 30, True, temperature_c=48.5, throttled=0)
BROWN_OUT = replace(WELL, throttled=0x50001, under_voltage=True)


class Node:
    """The server's agent, already Ready, which reports what it is told to."""

    def __init__(self, fleet: Fleet) -> None:
        install(fleet, SERVER)
        self.certificate = enrol(fleet, SERVER)
        self.sequence = 0
        self.report(fleet, WELL)
        fleet.controller.joins.join_material(self.certificate)
        fleet.controller.watch.apply_kubernetes(kube_ready(SERVER))
        assert state_of(fleet, SERVER) is State.READY

    def report(
        self, fleet: Fleet, health: Health, times: int = 1, *, k3s: K3sState = K3sState.RUNNING
    ) -> None:
        for _ in range(times):
            self.sequence += 1
            fleet.clock.advance(10)
            status: Status = status_report(hardware_of(SERVER), self.sequence, k3s=k3s)
            fleet.controller.joins.status(self.certificate, replace(status, health=health))


def test_brown_out_degrades_the_node_until_ten_good_reports(fleet: Fleet) -> None:
    node = Node(fleet)
    node.report(fleet, BROWN_OUT, BAD_SAMPLES - 1)
    assert state_of(fleet, SERVER) is State.READY
    node.report(fleet, BROWN_OUT)
    assert state_of(fleet, SERVER) is State.DEGRADED
    view = fleet_view(fleet.store).nodes[1]
    assert view.detail == "under-voltage"
    assert [(held.condition, held.degrades) for held in view.conditions] == [("PiUnderVoltage", True)]
    assert "4.63 V" in view.conditions[0].evidence
    assert texts(fleet, "pi5-1")[-2:] == [
        "under-voltage: the supply is below 4.63 V now (throttled 0x50001)",
        "degraded: under-voltage",
    ]
    fleet.controller.watch.apply_kubernetes(kube_ready(SERVER))
    assert state_of(fleet, SERVER) is State.DEGRADED  # Kubernetes knows nothing of the supply
    node.report(fleet, WELL, GOOD_SAMPLES)
    assert texts(fleet, "pi5-1")[-1] == "no longer so: under-voltage"
    fleet.controller.watch.apply_kubernetes(kube_ready(SERVER))
    assert state_of(fleet, SERVER) is State.READY
    assert fleet_view(fleet.store).nodes[1].conditions == ()


def test_warning_is_shown_and_leaves_the_node_ready(fleet: Fleet) -> None:
    node = Node(fleet)
    node.report(fleet, replace(WELL, pressure_some_avg10={"io": 90.0}), BAD_SAMPLES)
    assert state_of(fleet, SERVER) is State.READY
    assert [held.condition for held in fleet_view(fleet.store).nodes[1].conditions] == ["IoStalled"]


def test_no_image_is_written_under_brown_out(fleet: Fleet) -> None:
    node = Node(fleet)
    with fleet.store.read() as reader:
        assert find_write_obstacle(reader, "pi5-1") is None
    node.report(fleet, BROWN_OUT, BAD_SAMPLES)
    with fleet.store.read() as reader:
        obstacle = find_write_obstacle(reader, "pi5-1")
    assert obstacle is not None
    assert obstacle.startswith("under-voltage (the supply is below")


def test_repeated_report_is_one_sample(fleet: Fleet) -> None:
    node = Node(fleet)
    for _ in range(2 * BAD_SAMPLES):
        node.report(fleet, BROWN_OUT)
        node.sequence -= 1
    assert state_of(fleet, SERVER) is State.READY


def test_conditions_outlive_the_server(tmp_path: Path) -> None:
    clock = Clock()
    fleet = open_fleet(tmp_path, cluster_spec(SERVER, AGENT), clock)
    node = Node(fleet)
    node.report(fleet, BROWN_OUT, BAD_SAMPLES)
    since = fleet_view(fleet.store).nodes[1].conditions[0].since
    fleet.store.close()
    fleet = open_fleet(tmp_path, cluster_spec(SERVER, AGENT), clock)
    try:
        node.report(fleet, WELL, GOOD_SAMPLES - 1)
        assert fleet_view(fleet.store).nodes[1].conditions[0].since == since
        node.report(fleet, WELL)
        assert fleet_view(fleet.store).nodes[1].conditions == ()
    finally:
        fleet.store.close()


def test_metrics_name_the_condition_the_node_and_its_readings(fleet: Fleet) -> None:
    node = Node(fleet)
    node.report(fleet, replace(BROWN_OUT, agent_rss_bytes=20 << 20), BAD_SAMPLES)
    text = Metrics(fleet.store).render().decode()
    assert 'bramble_nodes_with_condition{condition="PiUnderVoltage"} 1.0' in text
    assert 'bramble_nodes_with_condition{condition="StorageWear"} 0.0' in text
    assert 'bramble_node_condition{condition="PiUnderVoltage",node="pi5-1"}' in text
    assert 'bramble_node_temperature_celsius{node="pi5-1"} 48.5' in text
    assert f'bramble_node_agent_resident_bytes{{node="pi5-1"}} {float(20 << 20):.7e}'.split("e")[0] in text
    assert 'bramble_node_condition{condition="StorageWear"' not in text


def test_kubernetes_node_gets_the_condition_and_its_end(tmp_path: Path) -> None:
    fleet = open_fleet(tmp_path, cluster_spec(SERVER, AGENT), Clock(time.time()))
    node = Node(fleet)
    kube = FakeKube(tmp_path / "k3s", {"pi5-1": True})
    material = open_k3s(tmp_path / "k3s", "attic", fleet.clock())

    async def story() -> None:
        async with kube.serve() as port, asyncio.timeout(30):
            identity = material.client_identity(fleet.clock())
            controller = Controller(
                *(fleet.store, fleet.controller.spec, fleet.pki, material, fleet.images, ControlInfo((), "")),
                clock=fleet.clock,
                connect=lambda _url: KubeApi(f"https://127.0.0.1:{port}", identity),
            )
            await controller.watch.poll()
            assert kube.patches == []
            node.report(fleet, BROWN_OUT, BAD_SAMPLES)
            await controller.watch.poll()
            told = kube.conditions["pi5-1"]["PiUnderVoltage"]
            assert (told["status"], told["reason"]) == ("True", "ReportedByNode")
            assert "4.63 V" in told["message"]
            assert told["lastTransitionTime"].endswith("Z")
            await controller.watch.poll()
            assert len(kube.patches) == 1
            fleet.clock.advance(REPEAT_S)
            await controller.watch.poll()
            assert len(kube.patches) == 2
            node.report(fleet, WELL, GOOD_SAMPLES)
            await controller.watch.poll()
            assert kube.conditions["pi5-1"]["PiUnderVoltage"]["status"] == "False"
            assert state_of(fleet, SERVER) is State.READY
            await controller.watch.poll()
            assert len(kube.patches) == 3

    try:
        asyncio.run(story())
    finally:
        fleet.store.close()


def test_node_object_that_is_gone_does_not_keep_others_from_being_seen(tmp_path: Path) -> None:
    fleet = open_fleet(tmp_path, cluster_spec(SERVER, AGENT), Clock(time.time()))
    node = Node(fleet)
    node.report(fleet, BROWN_OUT, BAD_SAMPLES)
    kube = FakeKube(tmp_path / "k3s", {"pi5-1": True})
    material = open_k3s(tmp_path / "k3s", "attic", fleet.clock())

    class Refusing(KubeApi):
        async def patch_node_status(self, name: str, patch: object) -> None:
            await super().patch_node_status("nobody", {"status": {"conditions": []}})

    async def story() -> None:
        async with kube.serve() as port, asyncio.timeout(30):
            identity = material.client_identity(fleet.clock())
            controller = Controller(
                *(fleet.store, fleet.controller.spec, fleet.pki, material, fleet.images, ControlInfo((), "")),
                clock=fleet.clock,
                connect=lambda _url: Refusing(f"https://127.0.0.1:{port}", identity),
            )
            kube.ready["pi5-1"] = False
            for _ in range(3):
                await controller.watch.poll()

    try:
        asyncio.run(story())
        assert state_of(fleet, SERVER) is State.DEGRADED
    finally:
        fleet.store.close()
