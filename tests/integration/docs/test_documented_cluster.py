"""The second and the third tutorial to their ends, typed as they stand there, over boards that only talk.

The server is real and its cluster is kept in memory; `make test-tutorial` has virtual boards instead.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dashboard_rack import Rack, WallClock, live_rack, report
from docs_reader import Reader, declare, marked

from fleet.lifecycle import State
from fleet.spec import load_cluster

pytestmark = pytest.mark.integration

THREE, DEAD = "docs/tutorials/three-servers.md", "docs/tutorials/dead-board.md"
WAIT_S = 60.0
SILENCE_S = 90.0


@pytest.fixture
def rack(lab: Reader) -> Iterator[Rack]:
    """The server behind the tutorial's file, whose first node is Ready."""
    with live_rack(lab.directory / "state" / "attic", load_cluster(Path("cluster.yaml"))) as rack:
        rack.do(lambda: rack.make_ready(rack.node("attic-1")))
        yield rack


def state(rack: Rack, name: str) -> State:
    with rack.fleet.store.read() as reader:
        return reader.require_node(name).state


def wait_for(rack: Rack, name: str, wanted: State) -> None:
    deadline = time.monotonic() + WAIT_S
    while (found := rack.do(lambda: state(rack, name))) is not wanted:
        assert time.monotonic() < deadline, f"{name} is {found}, not {wanted}"
        time.sleep(0.05)


def pull_the_plug(rack: Rack, dead: str) -> None:
    """Time passes, in which every node reports but one; Kubernetes hears nothing of it either."""

    def pass_by() -> None:
        clock, controller = rack.fleet.clock, rack.fleet.controller
        assert isinstance(clock, WallClock)
        clock.back -= SILENCE_S
        for node in controller.spec.nodes:
            if node.name != dead:
                be_heard(rack, node.name)
        rack.kube.join(dead, ready=False)
        controller.watch.tick()

    rack.do(pass_by)
    assert state(rack, dead) is State.LOST


def be_heard(rack: Rack, name: str) -> None:
    """The node's agent reports; to be called with `do`."""
    with rack.fleet.store.read() as reader:
        certificate = reader.require_node(name).certificate
    assert certificate is not None
    rack.fleet.controller.joins.status(certificate, report(rack.node(name), int(rack.fleet.clock())))


def test_three_servers_of_which_one_may_fail_and_comes_back(lab: Reader, rack: Rack) -> None:
    declare(THREE, "nodes")
    assert lab.type(THREE, "bramble apply").output.endswith("applied\n")
    names = ("attic-2", "attic-3")
    rack.do(lambda: rack.make_ready(*map(rack.node, names)))
    well = lab.type(THREE, "bramble status")
    assert "3 of 3 Ready, 2 needed: 1 more may fail" in well.output

    pull_the_plug(rack, "attic-3")
    hurt = lab.type(THREE, "bramble status")
    assert hurt.exit_code == 1
    assert "2 of 3 Ready, 2 needed: no more may fail" in hurt.output
    assert "attic-3" in hurt.output

    def come_back() -> None:
        rack.kube.join("attic-3", votes=True)
        be_heard(rack, "attic-3")
        rack.fleet.controller.watch.apply_kubernetes(rack.kube.seen)

    rack.do(come_back)
    wait_for(rack, "attic-3", State.READY)
    assert lab.type(THREE, "bramble show attic-3").output.count("installed and verified") == 1


def test_a_dead_boards_name_goes_to_another_and_the_file_says_so_again(lab: Reader, rack: Rack) -> None:
    declare(DEAD, "agent")
    assert "+ nodes.attic-4" in lab.type(DEAD, "bramble apply").output
    rack.do(lambda: rack.make_ready(rack.node("attic-4")))

    pull_the_plug(rack, "attic-4")
    hurt = lab.type(DEAD, "bramble status")
    assert hurt.exit_code == 1
    assert "attic-4" in hurt.output

    asked = lab.type(DEAD, "bramble replace attic-4 --with 10000000d03114b5 --dry-run")
    assert asked.exit_code == 0, asked.output
    assert "steps: " in asked.output
    assert state(rack, "attic-4") is State.LOST, "nothing is changed by asking"

    why = "bramble replace attic-4 --with 10000000d03114b5 --why 'power supply'"
    assert lab.type(DEAD, why, "--yes").exit_code == 0
    wait_for(rack, "attic-4", State.REBOOT_TO_INSTALLER)

    (successor,) = yaml.safe_load(marked(DEAD, "<!-- put: attic-4 -->"))
    document = yaml.safe_load(Path("cluster.yaml").read_text())
    document["nodes"][-1] = successor
    path = Path("cluster.yaml")
    text = yaml.safe_dump(document, sort_keys=False)
    board = load_cluster(write(path.with_name("successor.yaml"), text)).find_node("attic-4")
    assert board is not None
    rack.do(lambda: rack.install_again(board))
    wait_for(rack, "attic-4", State.READY)
    shown = lab.type(DEAD, "bramble show attic-4").output
    assert shown.count("installed and verified") == 2
    assert "10000000d03114b5" in shown

    write(path, text)
    assert lab.type(DEAD, "bramble apply").output.endswith("applied\n")
    assert "2 of 2 Ready" in lab.type(DEAD, "bramble status").output


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
