"""The main job: boards that nobody ever touched become Ready nodes, once, and return from their own disks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from bramble.rehearsal import Rehearsal
from fleet.spec.model import ClusterSpec
from lab.board import VirtualBoard
from lab.events import BoardEvent, EventKind

pytestmark = pytest.mark.e2e

READY_S = 900.0
RETURN_S = 400.0
MEMORY_BYTES = 150 * 2**20
"""Of all the server's processes, at rest and at the peak."""


def test_blank_boards_become_ready_and_the_second_power_on_does_not_install_again(
    rehearse: Callable[[ClusterSpec], Rehearsal], cluster_of: Callable[..., ClusterSpec]
) -> None:
    lab = rehearse(cluster_of(pi5_server={}, pi4_agent={"disk": "sd"}, cm5_agent={}))
    server, card, agent = (lab.add_board(node) for node in lab.spec.nodes)
    for board in (server, card, agent):
        board.power_on()

    waiting = lab.wait_for_state("pi5-server", "pending", timeout_s=READY_S)
    # The server knows that it waits a moment before the board's screen says so.
    assert server.console.wait_for(f"fingerprint {waiting['fingerprint']}", timeout_s=60)
    assert lab.disk_is_blank("pi5-server"), "nothing is written before a person has approved"
    lab.admin.approve("pi5-server")

    for name in ("pi5-server", "cm5-agent"):
        node = lab.wait_for_state(name, "ready", timeout_s=READY_S)
        assert "(simulator)" in node["k3s"]
        assert lab.count_installs(name) == 1
    print(f"memory of the server's processes: {lab.peak_rss_bytes / 2**20:.0f} MiB at the most")
    assert lab.server_rss_bytes() < MEMORY_BYTES, "all of them; shared pages count for each"
    assert lab.peak_rss_bytes < MEMORY_BYTES

    agent.power_cut()
    seen = len(agent.events)
    boots = lab.node("cm5-agent")["boots"]
    agent.power_on()
    agent.wait_for(EventKind.MODE_FAILED, timeout_s=60, since=seen)
    started = agent.wait_for(EventKind.KERNEL_STARTED, timeout_s=60, since=seen)
    assert started.text.endswith("from NVME")
    lab.wait_for(
        "cm5-agent",
        lambda node: node["boots"] > boots and node["state"] == "ready",
        "Ready again after a power cut",
        timeout_s=RETURN_S,
    )
    assert lab.count_installs("cm5-agent") == 1

    # The emulated SD card is slow: its board was still writing while the others joined.
    lab.wait_for_state("pi4-agent", "first-boot", "joining", "ready", timeout_s=READY_S)
    assert any(event.text.endswith("from SD") for event in wait_for_second_kernel(card))
    assert lab.count_installs("pi4-agent") == 1

    assert lab.stop_server() == 0


def wait_for_second_kernel(board: VirtualBoard) -> Sequence[BoardEvent]:
    """Events of a board up to the kernel that it starts after the installer's."""
    first = board.wait_for(EventKind.KERNEL_STARTED, timeout_s=60)
    board.wait_for(EventKind.KERNEL_STARTED, timeout_s=60, since=list(board.events).index(first) + 1)
    return board.events
