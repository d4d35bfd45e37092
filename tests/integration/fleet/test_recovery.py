"""A cluster that lost all its servers comes back from a snapshot, on blank boards: the rehearsal of
docs/recovery.md with a real etcd, the store, the controller and the agent's own restore. k3s is the
simulator.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fleet_story import texts
from k3s_sim_processes import wait_until
from server_room import SERVERS, Room, server_room

from fleet.lifecycle import State
from fleet.refusal import RefusedError

pytestmark = pytest.mark.integration
MAPS = "/api/v1/namespaces/default/configmaps"


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    with server_room(tmp_path_factory.mktemp("room")) as made:
        yield made


def maps(room: Room, server: str) -> set[str]:
    status, value = room.cluster.admin(server).call("GET", MAPS)
    assert status == 200
    return {item["metadata"]["name"] for item in value["items"]}


def test_a_lost_cluster_comes_back_from_a_snapshot(room: Room) -> None:
    controller = room.server.fleet.controller
    recovery = controller.recovery
    assert room.cluster.admin("s1").call("POST", MAPS, {"metadata": {"name": "before"}})[0] == 201
    old = room.observe()
    taken = room.wait(controller.snapshots.take("a person"))
    assert room.cluster.admin("s1").call("POST", MAPS, {"metadata": {"name": "after"}})[0] == 201

    with pytest.raises(RefusedError, match="etcd answers at s1, s2, s3") as refused:
        room.wait(recovery.begin(taken.id, by="socket"))
    assert "newer than any snapshot" in refused.value.hint
    assert room.state("s1") is State.READY

    for name in SERVERS:
        room.boards[name].switch_off()
    view = room.wait(recovery.begin(taken.id, by="socket", founder="s2"))
    assert (view.phase, view.founder) == ("founding", "s2")
    assert "switch its board on" in view.waits_for[0]
    assert {room.state(name) for name in SERVERS} == {State.DECLARED}

    # Two servers of the old cluster come up with their old disks, which is a quorum, while the founder asks.
    room.boards["s2"].see_first_sign()
    room.boards["s2"].netboot()
    ghosts = [room.boards[name] for name in ("s1", "s3")]
    for ghost in ghosts:
        ghost.k3s = ghost._start()
    wait_until(lambda: len(room.alive(without="s2")) == 2, "etcd of the old cluster answers")
    room.server.in_loop(lambda: controller.joins.desired(room.boards["s2"].certificate))
    with pytest.raises(RefusedError, match="old cluster answers at s1, s3"):
        room.wait(controller.preparation.prepare(room.boards["s2"].certificate))
    for ghost in ghosts:
        ghost.switch_off()

    room.until(lambda: room.state("s2") is State.READY, "s2 has restored the snapshot")
    assert maps(room, "s2") == {"before"}
    assert [member.node for member in room.observe().members] == ["s2"]
    assert room.observe().cluster_id != old.cluster_id
    for name in ("s1", "s3"):
        room.boards[name].see_first_sign()
        room.boards[name].netboot()
        room.until(lambda name=name: room.state(name) is State.READY, f"{name} joined")  # type: ignore[misc]
    room.until(lambda: (found := recovery.status()) is not None and found.phase == "done", "it is done")
    new = room.observe()
    assert {member.node for member in new.voters} == set(SERVERS)
    assert not {member.id for member in new.members} & {member.id for member in old.members}
    assert maps(room, "s1") == {"before"}
    assert all(room.cluster.admin("s1").ready(name) == "True" for name in SERVERS)
    founders = [
        name
        for name, board in room.boards.items()
        if board.material and any("cluster-init" in file.content for file in board.material.files)
    ]
    assert founders == []
    assert any("restored snapshot" in text for text in texts(room.server.fleet, "s2"))
    root = room.cluster.lab.directory / "s2-root/var/lib/rancher/bramble-restore"
    assert [path.name for path in root.iterdir()] == ["done"]
