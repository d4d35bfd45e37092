"""Three servers on a real etcd are installed again one by one while somebody writes: real TLS, the store, the
controller. k3s is the simulator, with k3s's own numbers for elections.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from server_room import SERVERS, Room, server_room

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
