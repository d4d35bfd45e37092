"""A healthy agent node is installed again while a replicated workload answers throughout.

Everything is the user's own: the command, the server, the board's agent that restarts it into the installer.
What answers in place of containers is the k3s simulator, which says so.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from answering_workload import Workload

from bramble.paths import STATE_VARIABLE, StateLayout
from bramble.rehearsal import Rehearsal
from fleet.k3s import open_k3s
from fleet.spec.model import ClusterSpec

pytestmark = pytest.mark.e2e

SERVER, AGENT = "pi5-server", "cm5-agent"
READY_S = 900.0
REIMAGE_S = 600.0
MAX_OVERHEAD = 0.15
PARTS = {
    "draining": "drain",
    "reboot-to-installer": "restart, and netboot",
    "netbooting": "boot of the installer",
    "imaging": "transfer, write and verify",
    "first-boot": "first boot from the new disk",
    "joining": "join",
}
"""The parts that any way of doing it by hand has; what is between them is ours."""


def test_a_healthy_agent_is_installed_again_while_its_workload_answers(
    rehearse: Callable[[ClusterSpec], Rehearsal],
    cluster_of: Callable[..., ClusterSpec],
    capsys: pytest.CaptureFixture[str],
) -> None:
    lab = rehearse(cluster_of(pi5_server={}, cm5_agent={}))
    for node in lab.spec.nodes:
        lab.add_board(node).power_on()
    lab.wait_for_state(SERVER, "pending", timeout_s=READY_S)
    lab.admin.approve(SERVER)
    for name in (SERVER, AGENT):
        lab.wait_for_state(name, "ready", timeout_s=READY_S)

    workload = make_workload(lab)
    workload.deploy(replicas=2)
    workload.watch(tuple(str(node.address) for node in lab.spec.nodes))
    try:
        for name in (SERVER, AGENT):
            workload.wait_for_answers_from(name, timeout_s=120)
        workload.reset()
        reimage(lab, AGENT)
        order = lab.admin.ask("GET", f"/v1/admin/reimages?node={AGENT}")[0]
        assert order["outcome"] == "done", lab.report(AGENT, "the end of its re-image")
        longest, asked, by_server = workload.longest_gap_s, workload.asked, workload.answered[SERVER]
        workload.wait_for_answers_from(AGENT, timeout_s=120)
    finally:
        workload.stop()

    assert lab.count_installs(AGENT) == 2
    assert lab.node(AGENT)["state"] == "ready"
    assert by_server > 0.8 * asked, "the other pod answered all the time"
    assert longest < 10.0, f"nobody answered for {longest:.1f} s"

    parts = durations(order)
    total = order["closed_at"] - order["requested_at"]
    sum_of_parts = sum(parts.get(state, 0.0) for state in PARTS)
    with capsys.disabled():
        print(report(parts, total, sum_of_parts, longest))
    assert total / sum_of_parts - 1 <= MAX_OVERHEAD, report(parts, total, sum_of_parts, longest)


def make_workload(lab: Rehearsal) -> Workload:
    """Talks to the cluster as an administrator, with the control server's own keys."""
    layout = StateLayout(directory=lab.work / "state" / lab.spec.name)
    keys = open_k3s(layout.k3s, lab.spec.name, time.time())
    server = lab.spec.find_node(SERVER)
    assert server is not None
    return Workload(f"https://{server.address}:6443", keys.admin_identity(time.time()))


def reimage(lab: Rehearsal, name: str) -> None:
    """Type the command and wait for its end."""
    argv = [sys.executable, "-m", "bramble.cli", "reimage", name, "--yes", "--wait", "--why", "a rehearsal"]
    environment = {**os.environ, STATE_VARIABLE: str(lab.work / "state")}
    done = subprocess.run(
        [*argv, "-c", str(lab.spec.path)],
        env=environment,
        capture_output=True,
        check=False,
        text=True,
        timeout=REIMAGE_S,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{lab.report(name, 'its re-image')}"


def durations(order: Mapping[str, Any]) -> dict[str, float]:
    """State → seconds in it."""
    entered = sorted(order["steps"].items(), key=lambda step: step[1])
    ends = [at for _state, at in entered[1:]] + [order["closed_at"]]
    return {state: end - at for (state, at), end in zip(entered, ends, strict=True)}


def report(parts: Mapping[str, float], total: float, sum_of_parts: float, gap: float) -> str:
    lines = [f"{PARTS.get(state, f'({state})'):<40} {seconds:7.1f} s" for state, seconds in parts.items()]
    overhead = 100 * (total / sum_of_parts - 1)
    return "\n".join(
        [
            "",
            *lines,
            f"{'request to Ready':<40} {total:7.1f} s, {overhead:.1f} % above the sum of its parts",
            f"longest time without an answer of the workload: {gap:.2f} s (k3s simulator)",
        ]
    )
