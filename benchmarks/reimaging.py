"""One healthy agent node is installed again in the lab: how that is ordered, and what each part of it took.

The benchmark prints it, the end-to-end test holds it to its limit. The boards are emulated, so the seconds
are those of this machine; what they are set against is measured in the same run.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.errors import BenchmarkError
from benchmarks.workload import Workload
from bramble.paths import STATE_VARIABLE, StateLayout
from bramble.rehearsal import Rehearsal
from fleet.k3s.material import open_k3s

SERVER: Final = "pi5-server"
AGENT: Final = "cm5-agent"
READY_S: Final = 900.0
REIMAGE_S: Final = 600.0
ANSWER_S: Final = 120.0
MAX_OVERHEAD: Final = 0.15
PARTS: Final = {
    "draining": "drain",
    "reboot-to-installer": "restart, and netboot",
    "netbooting": "boot of the installer",
    "imaging": "transfer, write and verify",
    "first-boot": "first boot from the new disk",
    "joining": "join",
}
"""The parts that any way of doing it by hand has; what is between them is ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reimage:
    """What one re-image took.

    Attributes:
        states: state → seconds in it, in their order.
        steps: step of the installer → seconds; they lie within `imaging`.
        total_s: from the order to Ready.
        gap_s: longest time without an answer of the workload, from the order on.
        asked: how often the workload was asked in that time.
        by_server: how often the other node's pod answered.
    """

    states: Mapping[str, float]
    steps: Mapping[str, float]
    total_s: float
    gap_s: float
    asked: int
    by_server: int

    @property
    def parts_s(self) -> float:
        return sum(seconds for state, seconds in self.states.items() if state in PARTS)

    @property
    def overhead(self) -> float:
        """0.02: two percent more than the sum of the parts."""
        return self.total_s / self.parts_s - 1

    def lines(self) -> list[str]:
        """For people."""
        return [
            *(f"{name:<40} {seconds:7.1f} s" for name, seconds in self.rows()),
            f"{'request to Ready':<40} {self.total_s:7.1f} s, {self.overhead:.1%} above the sum of its parts",
            f"longest time without an answer of the workload: {self.gap_s:.2f} s (k3s simulator)",
        ]

    def rows(self) -> Iterable[tuple[str, float]]:
        """Each state, and below `imaging` the installer's steps."""
        for state, seconds in self.states.items():
            yield PARTS.get(state, f"({state})"), seconds
            if state == "imaging":
                yield from ((f"– of it {step}", step_s) for step, step_s in self.steps.items())


def reimage_once(lab: Rehearsal, *, tell: Callable[[str], None] = lambda _: None) -> Reimage:
    """Bring both boards from blank disks to Ready, put a replicated workload on them, and install one again.

    Raises:
        WaitTimeoutError: a board did not get there.
        BenchmarkError: the command failed, or its order ended otherwise than well.
    """
    install_both(lab, tell=tell)
    return reimage_installed(lab, tell=tell)


def install_both(lab: Rehearsal, *, tell: Callable[[str], None] = lambda _: None) -> None:
    """Bring both boards from blank disks to Ready.

    Raises:
        WaitTimeoutError: a board did not get there.
    """
    for node in lab.spec.nodes:
        lab.add_board(node).power_on()
    lab.wait_for_state(SERVER, "pending", timeout_s=READY_S)
    lab.admin.approve(SERVER)
    for name in (SERVER, AGENT):
        lab.wait_for_state(name, "ready", timeout_s=READY_S)
        tell(f"{name} is Ready")


def reimage_installed(lab: Rehearsal, *, tell: Callable[[str], None] = lambda _: None) -> Reimage:
    """Put a replicated workload on two nodes that are Ready, and install one again.

    Raises:
        WaitTimeoutError: a board did not get there.
        BenchmarkError: the command failed, or its order ended otherwise than well.
    """
    workload = _make_workload(lab)
    workload.deploy(replicas=2)
    workload.watch(tuple(str(node.address) for node in lab.spec.nodes))
    try:
        for name in (SERVER, AGENT):
            workload.wait_for_answers_from(name, timeout_s=ANSWER_S)
        tell("the workload answers from both")
        workload.reset()
        _type_the_command(lab)
        order = lab.admin.ask("GET", f"/v1/admin/reimages?node={AGENT}")[0]
        if order["outcome"] != "done":
            raise BenchmarkError(lab.report(AGENT, "the end of its re-image"))
        gap_s, asked = workload.longest_gap_s, workload.asked
        by_server = workload.answered.get(SERVER, 0)
        workload.wait_for_answers_from(AGENT, timeout_s=ANSWER_S)
    finally:
        workload.stop()
    events = lab.admin.timeline(AGENT)["events"]
    return Reimage(
        states=seconds_in_states(order),
        steps=seconds_in_steps(events, since=order["requested_at"]),
        total_s=order["closed_at"] - order["requested_at"],
        gap_s=gap_s,
        asked=asked,
        by_server=by_server,
    )


def seconds_in_states(order: Mapping[str, Any]) -> dict[str, float]:
    """State → seconds in it, of an order that is closed."""
    entered = sorted(order["steps"].items(), key=lambda step: float(step[1]))
    ends = [at for _state, at in entered[1:]] + [order["closed_at"]]
    return {state: end - at for (state, at), end in zip(entered, ends, strict=True)}


def seconds_in_steps(events: Iterable[Mapping[str, Any]], *, since: float) -> dict[str, float]:
    """Step of the installer → seconds, from the lines that it left in the node's timeline.

    A step lasts to the next line of the installer. The line that all is written ends the last one.
    """
    lines = [event for event in events if event["kind"] == "install" and event["at"] >= since]
    found: dict[str, float] = {}
    for line, following in itertools.pairwise(lines):
        step = line["detail"].get("step")
        if step is not None:
            found[step] = found.get(step, 0.0) + following["at"] - line["at"]
    return found


def _make_workload(lab: Rehearsal) -> Workload:
    """Talks to the cluster as an administrator, with the control server's own keys."""
    layout = StateLayout(directory=lab.work / "state" / lab.spec.name)
    keys = open_k3s(layout.k3s, lab.spec.name, time.time())
    server = lab.spec.find_node(SERVER)
    if server is None:
        raise BenchmarkError(f"the cluster has no {SERVER}")
    return Workload(f"https://{server.address}:6443", keys.admin_identity(time.time()))


def _type_the_command(lab: Rehearsal) -> None:
    """`bramble reimage --wait`, and wait for its end."""
    argv = [sys.executable, "-m", "bramble.cli", "reimage", AGENT, "--yes", "--wait", "--why", "a rehearsal"]
    environment = {**os.environ, STATE_VARIABLE: str(lab.work / "state")}
    done = subprocess.run(
        [*argv, "-c", str(lab.spec.path)],
        env=environment,
        capture_output=True,
        check=False,
        text=True,
        timeout=REIMAGE_S,
    )
    if done.returncode:
        raise BenchmarkError(f"{done.stdout}\n{done.stderr}\n{lab.report(AGENT, 'its re-image')}")
