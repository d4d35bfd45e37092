"""An installed agent node is installed again: by an order while a replicated workload answers throughout, and
by policy and power driver when it fails while nobody looks.

Both on one cluster, which is installed once. Everything is the user's own: the command, the server, the
board's agent that restarts it into the installer. What answers in place of containers is the k3s simulator,
which says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import yaml
from virtual_outlets import Outlets, declare_power, serving

from benchmarks.reimaging import AGENT, MAX_OVERHEAD, SERVER, install_both, reimage_installed
from bramble.rehearsal import Rehearsal
from fleet.spec import load_cluster
from fleet.spec.model import ClusterSpec

pytestmark = pytest.mark.e2e

NOTICED_S = 300.0
BACK_S = 900.0


@dataclass(frozen=True)
class Room:
    """The cluster, and the outlets that its agent's board hangs on."""

    lab: Rehearsal
    outlets: Outlets


@pytest.fixture(scope="module")
def room(
    rehearse_for_module: Callable[[ClusterSpec], Rehearsal],
    cluster_of: Callable[..., ClusterSpec],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Room]:
    """A server and an agent, both Ready."""
    place = tmp_path_factory.mktemp("outlets") / "socket"
    lab = rehearse_for_module(
        with_policy(cluster_of(pi5_server={}, cm5_agent={"power": declare_power(place)}))
    )
    with serving(place, lab.boards) as outlets:
        install_both(lab)
        assert [lab.count_installs(name) for name in (SERVER, AGENT)] == [1, 1]
        yield Room(lab, outlets)


def with_policy(spec: ClusterSpec) -> ClusterSpec:
    """The same cluster, whose failed nodes are installed again after the shortest time that there is."""
    document = yaml.safe_load(spec.path.read_text("utf-8"))
    document["policy"]["reimage"] = {"when_failed": True, "after": "60s", "again_after": "0s"}
    spec.path.write_text(yaml.safe_dump(document, sort_keys=False), "utf-8")
    return load_cluster(spec.path)


def test_a_healthy_agent_is_installed_again_while_its_workload_answers(
    room: Room, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = room.lab
    installs = lab.count_installs(AGENT)
    done = reimage_installed(lab)
    with capsys.disabled():
        print("", *done.lines(), sep="\n")
    assert lab.count_installs(AGENT) == installs + 1
    assert lab.node(AGENT)["state"] == "ready"
    assert room.outlets.done == [], "its agent restarted it"
    assert done.by_server > 0.8 * done.asked, "the other pod answered all the time"
    assert done.gap_s < 10.0, f"nobody answered for {done.gap_s:.1f} s"
    assert done.overhead <= MAX_OVERHEAD, done.lines()
    assert done.steps.keys() >= {"write", "verify"}, done.lines()


def test_hung_kernel_and_wiped_disk_are_mended_by_policy_and_power(room: Room) -> None:
    lab, outlets = room.lab, room.outlets
    installs, blank = lab.count_installs(AGENT), count_blank_disks(lab)
    seen = len(lab.timeline(AGENT))
    agent = lab.boards[AGENT]

    # Its system hangs for ever with the power on, and its disk is empty: no agent helps.
    agent.hang()
    with agent.config.disks[0].path.open("r+b") as disk:
        disk.write(bytes(64 << 20))
    wait_for_line(lab, seen, "reimage ordered by policy", timeout_s=NOTICED_S)
    wait_for_line(lab, seen, "power-cycled; the device says that it is off", timeout_s=NOTICED_S)
    lab.wait_for(
        AGENT,
        lambda row: row["state"] == "ready" and lab.count_installs(AGENT) == installs + 1,
        f"Ready again after {installs + 1} installations",
        timeout_s=BACK_S,
        give_up=frozenset({"quarantined"}),
    )
    wait_for_line(lab, seen, f"reimage done: {AGENT} is Ready again", timeout_s=60)
    assert outlets.done == [("off", AGENT), ("on", AGENT)]
    assert count_blank_disks(lab) == blank + 1

    assert lab.count_installs(SERVER) == 1
    assert lab.node(SERVER)["state"] == "ready"


def wait_for_line(lab: Rehearsal, since: int, part: str, *, timeout_s: float) -> None:
    """Wait for a line of the agent's timeline that contains `part`, after the first `since` lines."""
    lab.wait_for(
        AGENT,
        lambda _row: any(part in line for line in lab.timeline(AGENT)[since:]),
        f"a new line with {part!r}",
        timeout_s=timeout_s,
    )


def count_blank_disks(lab: Rehearsal) -> int:
    """How often the agent's board tried its disk and found nothing to boot."""
    return sum("no partition table" in line for line in lab.timeline(AGENT))
