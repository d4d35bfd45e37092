"""A node that has joined: settings that follow the cluster, and a join that has to be done again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from agent_nodes import FakeSystem
from agent_services import make_service, serving
from fakes_agent import ControlServer, Refusal, make_pair

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


def put_pair(root: Path, certificate: bytes, key: bytes) -> None:
    files = {f"{KUBELET}.crt": certificate, f"{KUBELET}.key": key}
    write_files(root, [NodeFile(path, "0600", data.decode()) for path, data in files.items()])


@pytest.mark.parametrize("kubelet_key", [None, b""], ids=["card-written-by-hand", "damaged-certificate"])
def test_member_whose_disk_knows_nothing_of_it_says_so_and_asks_for_nothing_until_it_may_join(
    control: ControlServer, root: Path, system: FakeSystem, kubelet_key: bytes | None
) -> None:
    control.material = dataclasses.replace(MATERIAL, generation=3)
    control.refuse["/v1/node/join-material"] = Refusal(409, "not-joining", "pi-1 is ready, it does not join")
    if kubelet_key is not None:
        put_pair(root, make_pair()[0], kubelet_key)
        system.active, system.sub = "activating", "auto-restart"
    order(control, Desired(generation=2, join=True, material=2, files=(MOVED,)))
    state_file = root / "var/lib/bramble/state.json"
    with serving(make_service(root, system)):
        control.wait_for(lambda: len(control.statuses) >= 2)
        kept = state_file.stat().st_ino
        seen = len(control.statuses)
        control.wait_for(lambda: len(control.statuses) >= seen + 5)
        told = [[problem.code for problem in status.problems] for status in control.statuses[seen:]]
        assert told == [["membership_lost"]] * len(told)
        assert state_file.stat().st_ino == kept, "nothing is written from round to round"
        assert control.requests.count("GET /v1/node/desired") <= 2
        assert "POST /v1/node/join-material" not in control.requests
        assert system.units() == []
        del control.refuse["/v1/node/join-material"]
        order(control, Desired(generation=3, join=True, material=3))
        control.wait_for(lambda: control.statuses[-1].material == 3)
        assert control.statuses[-1].problems == ()
        system.active, system.sub = "active", "running"
        control.wait_for(lambda: control.statuses[-1].generation == 3)
    assert control.material_requests == 1
    left = sorted(path.name for path in (root / KUBELET[1:]).parent.glob("client-kubelet.*"))
    assert left == (
        [] if kubelet_key is None else ["client-kubelet.crt.damaged", "client-kubelet.key.damaged"]
    )


def test_running_member_that_lost_its_state_settles_whatever_became_of_its_certificate(
    control: ControlServer, root: Path, system: FakeSystem
) -> None:
    system.active, system.sub = "active", "running"
    put_pair(root, b"", b"")
    order(control, Desired(generation=2, join=True, material=2, files=(MOVED,)))
    with serving(make_service(root, system)):
        control.wait_for(lambda: bool(control.statuses) and control.statuses[-1].generation == 2)
    assert (control.statuses[-1].material, control.statuses[-1].problems) == (2, ())
    assert system.units() == []


def test_joined_node_that_lost_its_state_settles_without_material(
    control: ControlServer, root: Path, system: FakeSystem
) -> None:
    let_join(control, system)
    with serving(make_service(root, system)):
        wait_joined(control)
    put_pair(root, *make_pair())
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
