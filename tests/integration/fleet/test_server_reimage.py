"""Three servers on a real etcd are installed again one by one while somebody writes: real TLS, the store, the
controller. k3s is the simulator, with k3s's own numbers for elections.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from k3s_sim_processes import wait_until
from server_room import SERVERS, Room, server_room

from fleet.lifecycle import State
from fleet.reimage.kinds import Outcome
from fleet.snapshot_files import verify

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    with server_room(tmp_path_factory.mktemp("room")) as made:
        yield made


def test_three_servers_are_installed_again_one_by_one_and_no_write_is_lost(room: Room) -> None:
    controller = room.server.fleet.controller
    before = room.observe()
    assert before.leader is not None
    # The leader first: its going is what stops the writes elsewhere.
    names = [before.leader.node, *(name for name in SERVERS if name != before.leader.node)]
    old = {member.id for member in before.members}
    writer = room.writer()
    with writer.writing():
        for name in names:
            began = time.monotonic()
            order = room.roll(name)
            assert order.outcome is Outcome.DONE, order.reason
            print(
                f"{name}: {time.monotonic() - began:.0f} s, "
                f"longest gap between writes {writer.longest_gap(began):.2f} s"
            )
            info = verify(controller.snapshots.files.place(order.progress["snapshot"]))
            assert info.node != name
            assert info.cluster_id == f"{before.cluster_id:x}"
    after = room.observe()
    assert after.cluster_id == before.cluster_id
    assert {member.node for member in after.voters} == set(SERVERS)
    assert all(member.healthy for member in after.members)
    assert not old & {member.id for member in after.members}
    assert len(writer.acknowledged) > 100
    assert writer.lost() == set()
    assert writer.longest_gap() < 1.0


def test_a_server_that_comes_back_from_its_old_disk_leaves_no_ghost(room: Room) -> None:
    """Its member is gone, its board is awaited on the network, and somebody starts its old system.

    k3s sets its old data aside, and tries to join by itself (k3s issue 13498). Whatever comes of that, the
    node is not Ready by it, and the installation that follows leaves one member of it.
    """
    room.request("s3")
    room.until(lambda: room.state("s3") is State.REBOOT_TO_INSTALLER, "s3 may be installed")
    old = room.order("s3").progress["member_id"]
    board = room.boards["s3"]
    board.switch_off()
    started = board.k3s = board._start()
    wait_until(
        lambda: started.process.poll() is not None or room.observe().of_node("s3"),
        "its old system has tried",
    )
    assert room.state("s3") is State.REBOOT_TO_INSTALLER
    board.netboot()
    room.until(lambda: room.order("s3").closed_at is not None, "s3 is Ready")
    assert room.order("s3").outcome is Outcome.DONE
    after = room.observe()
    assert sorted(member.node for member in after.voters) == list(SERVERS)
    assert all(member.healthy for member in after.members)
    assert int(old, 16) not in {member.id for member in after.members}


def test_two_servers_that_fail_at_once_are_refused(room: Room) -> None:
    """The last one here: it ends the quorum."""
    for name in ("s2", "s3"):
        room.boards[name].switch_off()
    wait_until(lambda: not room.observe().is_quorate, "the quorum is gone")
    found = room.wait(room.server.fleet.controller.reimages.preview("s2"))
    (problem,) = [one for one in found.problems if one.code == "no-leader"]
    assert "1 of 3 voters" in problem.text or "0 of 3 voters" in problem.text
    assert "docs/recovery.md" in problem.hint
