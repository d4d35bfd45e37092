"""A node that has joined: settings that follow the cluster, and a join that has to be done again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from agent_nodes import FakeSystem
from agent_services import make_service, serving
from fakes_agent import ControlServer

from agent.protocol import Desired, JoinMaterial, K3sState, NodeFile

pytestmark = pytest.mark.integration

DROP_IN = "/etc/rancher/k3s/config.yaml.d/50-bramble.yaml"
ETCD = "/var/lib/rancher/k3s/server/db"
RESTART = ("systemctl", "restart", "--no-block", "k3s-agent.service")
MATERIAL = JoinMaterial(
    generation=2,
    unit="k3s-agent.service",
    files=(NodeFile(DROP_IN, "0600", "server: https://10.0.0.1:6443\n"),),
)
MOVED = NodeFile(DROP_IN, "0600", "server: https://10.0.0.2:6443\n")


def order(control: ControlServer, desired: Desired) -> None:
    with control.changed:
        control.desired = desired


def test_settings_follow_without_a_restart_and_reach_one_that_does_not_come_up(
    control: ControlServer, root: Path, system: FakeSystem
) -> None:
    control.desired, control.material = Desired(generation=2, join=True, material=2), MATERIAL
    system.active, system.sub = "active", "running"
    with serving(make_service(root, system)):
        control.wait_for(lambda: bool(control.statuses) and control.statuses[-1].generation == 2)
        assert control.statuses[-1].material == 2
        order(control, Desired(generation=3, join=True, material=2, files=(MOVED,)))
        control.wait_for(lambda: control.statuses[-1].generation == 3)
        assert (root / DROP_IN[1:]).read_text() == MOVED.content
        assert RESTART not in system.units()
        system.active, system.sub = "activating", "start"
        control.wait_for(lambda: control.statuses[-1].k3s is K3sState.STARTING)
        back = dataclasses.replace(MOVED, content="server: https://10.0.0.3:6443\n")
        order(control, Desired(generation=4, join=True, material=2, files=(back,)))
        control.wait_for(lambda: control.statuses[-1].generation == 4)
    assert (root / DROP_IN[1:]).read_text() == back.content
    assert system.units().count(RESTART) == 1
    assert control.material_requests == 1


def test_newer_material_is_fetched_and_old_data_set_aside(
    control: ControlServer, root: Path, system: FakeSystem
) -> None:
    control.desired, control.material = Desired(generation=2, join=True, material=2), MATERIAL
    system.active, system.sub = "active", "running"
    with serving(make_service(root, system)):
        control.wait_for(lambda: bool(control.statuses) and control.statuses[-1].generation == 2)
        (root / ETCD[1:]).mkdir(parents=True)
        (root / ETCD[1:] / "member").write_text("old")
        system.active, system.sub = "activating", "auto-restart"
        control.material = dataclasses.replace(MATERIAL, generation=3, set_aside=(ETCD,))
        order(control, Desired(generation=3, join=True, material=3))
        control.wait_for(lambda: control.statuses[-1].material == 3)
        assert not (root / ETCD[1:]).exists()
        assert (root / f"{ETCD[1:]}.before-rejoin" / "member").read_text() == "old"
        units = system.units()
        assert units.index(("systemctl", "stop", "k3s-agent.service")) < units.index(RESTART)
        system.active, system.sub = "active", "running"
        control.wait_for(lambda: control.statuses[-1].generation == 3)
    assert control.material_requests == 2
