"""A healthy agent node is installed again while a replicated workload answers throughout.

Everything is the user's own: the command, the server, the board's agent that restarts it into the installer.
What answers in place of containers is the k3s simulator, which says so.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.reimaging import AGENT, MAX_OVERHEAD, reimage_once
from bramble.rehearsal import Rehearsal
from fleet.spec.model import ClusterSpec

pytestmark = pytest.mark.e2e


def test_a_healthy_agent_is_installed_again_while_its_workload_answers(
    rehearse: Callable[[ClusterSpec], Rehearsal],
    cluster_of: Callable[..., ClusterSpec],
    capsys: pytest.CaptureFixture[str],
) -> None:
    lab = rehearse(cluster_of(pi5_server={}, cm5_agent={}))
    done = reimage_once(lab)
    with capsys.disabled():
        print("", *done.lines(), sep="\n")
    assert lab.count_installs(AGENT) == 2
    assert lab.node(AGENT)["state"] == "ready"
    assert done.by_server > 0.8 * done.asked, "the other pod answered all the time"
    assert done.gap_s < 10.0, f"nobody answered for {done.gap_s:.1f} s"
    assert done.overhead <= MAX_OVERHEAD, done.lines()
    assert sum(done.steps.values()) <= done.states["imaging"] + 1.0, done.lines()
