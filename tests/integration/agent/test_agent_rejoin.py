"""A node that has joined: settings that follow the cluster, and a join that has to be done again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from agent_nodes import FakeSystem
from agent_services import make_service, serving
from fakes_agent import ControlServer, Refusal

from agent.actions import write_files
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


def let_join(control: ControlServer, system: FakeSystem) -> None:
    """The node is to join, and its k3s runs as soon as it is started."""
    control.desired, control.material = Desired(generation=2, join=True, material=2), MATERIAL
    system.active, system.sub = "active", "running"


def wait_joined(control: ControlServer) -> None:
    control.wait_for(lambda: bool(control.statuses) and control.statuses[-1].generation == 2)


def order(control: ControlServer, desired: Desired) -> None:
    with control.changed:
        control.desired = desired


def test_settings_follow_without_a_restart_and_reach_one_that_does_not_come_up(
    control: ControlServer, root: Path, system: FakeSystem
) -> None:
    let_join(control, system)
    with serving(make_service(root, system)):
        wait_joined(control)
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


KUBELET = "/var/lib/rancher/k3s/agent/client-kubelet"


def test_joined_node_that_lost_its_state_settles_without_material(
    control: ControlServer, root: Path, system: FakeSystem
) -> None:
    let_join(control, system)
    with serving(make_service(root, system)):
        wait_joined(control)
    write_files(root, (NodeFile(f"{KUBELET}.crt", "0600", "c"), NodeFile(f"{KUBELET}.key", "0600", "k")))
    for path in (root / "var/lib/bramble").glob("state.json*"):
        path.unlink()
    units, seen = system.units(), len(control.statuses)
    # It is Ready, and gets no more material: what was read before it was is read again.
    control.refuse["/v1/node/join-material"] = Refusal(409, "not-joining", "pi-1 is ready, it does not join")
    with serving(make_service(root, system)):
        control.wait_for(lambda: any(status.problems for status in control.statuses[seen:]))
        order(control, Desired(generation=2, join=True, material=2, files=(MOVED,)))
        control.wait_for(lambda: control.statuses[-1].generation == 2)
        settled = len(control.statuses)
        control.wait_for(lambda: len(control.statuses) >= settled + 3)
    assert [(status.material, status.problems) for status in control.statuses[settled:]] == [(2, ())] * (
        len(control.statuses) - settled
    )
    assert (root / DROP_IN[1:]).read_text() == MOVED.content
    assert (system.units(), control.material_requests) == (units, 1)
    told = {problem.code for status in control.statuses[seen:] for problem in status.problems}
    assert told == {"join"}


def test_newer_material_is_fetched_and_old_data_set_aside(
    control: ControlServer, root: Path, system: FakeSystem
) -> None:
    let_join(control, system)
    with serving(make_service(root, system)):
        wait_joined(control)
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
