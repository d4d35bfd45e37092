"""A node that fails while nobody looks: policy and power driver bring it back, by themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from virtual_outlets import declare_power, serving

from bramble.rehearsal import Rehearsal
from fleet.spec import load_cluster
from fleet.spec.model import ClusterSpec

pytestmark = pytest.mark.e2e

READY_S = 900.0
NOTICED_S = 300.0
BACK_S = 900.0
NODE = "cm5-agent"


def test_hung_kernel_and_wiped_disk_are_mended_by_policy_and_power(
    rehearse: Callable[[ClusterSpec], Rehearsal], cluster_of: Callable[..., ClusterSpec], tmp_path: Path
) -> None:
    place = tmp_path / "outlets"
    spec = cluster_of(pi5_server={}, cm5_agent={"power": declare_power(place)})
    lab = rehearse(with_policy(spec))
    server, agent = (lab.add_board(node) for node in lab.spec.nodes)
    with serving(place, lab.boards) as outlets:
        server.power_on()
        agent.power_on()
        lab.wait_for_state("pi5-server", "pending", timeout_s=READY_S)
        lab.admin.approve("pi5-server")
        for name in ("pi5-server", NODE):
            lab.wait_for_state(name, "ready", timeout_s=READY_S)
        assert lab.count_installs(NODE) == 1
        assert outlets.done == []

        # Its system hangs for ever with the power on, and its disk is empty: no agent helps.
        agent.hang()
        with agent.config.disks[0].path.open("r+b") as disk:
            disk.write(bytes(64 << 20))
        lab.wait_for_text(NODE, "reimage ordered by policy", timeout_s=NOTICED_S)
        lab.wait_for_text(NODE, "power-cycled; the device says that it is off", timeout_s=NOTICED_S)
        wait_until_back(lab, installs=2)
        assert outlets.done == [("off", NODE), ("on", NODE)]
        assert sum("no partition table" in line for line in lab.timeline(NODE)) == 2

    assert lab.count_installs("pi5-server") == 1
    assert lab.node("pi5-server")["state"] == "ready"


def wait_until_back(lab: Rehearsal, *, installs: int) -> None:
    lab.wait_for(
        NODE,
        lambda row: row["state"] == "ready" and lab.count_installs(NODE) == installs,
        f"Ready again after {installs} installations",
        timeout_s=BACK_S,
        give_up=frozenset({"quarantined"}),
    )
    lab.wait_for_text(NODE, f"reimage done: {NODE} is Ready again", timeout_s=60)


def with_policy(spec: ClusterSpec) -> ClusterSpec:
    """The same cluster, whose failed nodes are installed again after the shortest time that there is."""
    document = yaml.safe_load(spec.path.read_text("utf-8"))
    document["policy"]["reimage"] = {"when_failed": True, "after": "60s", "again_after": "0s"}
    spec.path.write_text(yaml.safe_dump(document, sort_keys=False), "utf-8")
    return load_cluster(spec.path)
