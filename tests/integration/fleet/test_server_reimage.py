"""Three servers on a real etcd are installed again one by one while somebody writes: real TLS, the store, the
controller. k3s is the simulator, with k3s's own numbers for elections.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from etcd_fleet import CLUSTER, MORE, Board, are_ready, begin, until
from etcd_writer import Writer
from fakes_fleet_server import Running, running
from fleet_story import state_of
from k3s_sim_etcd import EtcdCluster, running_cluster

from fleet.etcd.view import EtcdView
from fleet.lifecycle import State
from fleet.reimage.kinds import Outcome
from fleet.snapshot_files import verify
from fleet.spec import load_cluster
from fleet.store.records import ReimageRecord
from lab.k3s_sim.node.etcd_client import EtcdTls
from lab.k3s_sim.release import build_release

pytestmark = pytest.mark.integration
SERVERS = ("s1", "s2", "s3")
T = TypeVar("T")


@dataclass
class Room:
    """A cluster of three servers, all of them Ready."""

    server: Running
    cluster: EtcdCluster
    boards: dict[str, Board]

    def until(self, done: object, what: str) -> None:
        until(self.server, list(self.boards.values()), done, what)

    def observe(self) -> EtcdView:
        return self.wait(self.server.fleet.controller.etcd.observe())

    def wait(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self.server.loop).result(60)

    def order(self, name: str) -> ReimageRecord:
        with self.server.fleet.store.read() as reader:
            return reader.reimages(name)[0]

    def state(self, name: str) -> State:
        return state_of(self.server.fleet, self.boards[name].spec)

    def request(self, name: str) -> None:
        self.server.in_loop(lambda: self.server.fleet.controller.reimages.request(name, by="socket"))

    def roll(self, name: str) -> ReimageRecord:
        """From the order to its end, with the board doing what it is told."""
        self.request(name)
        self.until(lambda: self.state(name) is State.REBOOT_TO_INSTALLER, f"{name} may be installed")
        self.boards[name].netboot()
        self.until(lambda: self.order(name).closed_at is not None, f"{name} is Ready again")
        return self.order(name)

    def writer(self) -> Writer:
        tls = self.cluster.lab.directory / "writer-tls"
        tls.mkdir(exist_ok=True)
        identity = self.server.fleet.controller.joins._ground.k3s.etcd_identity(time.time())
        (tls / "ca.crt").write_text(identity.ca_pem)
        endpoints = [f"https://{self.cluster.address(name)}:2379" for name in SERVERS]
        return Writer(endpoints, EtcdTls(tls / "ca.crt", identity.certificate_path, identity.key_path))


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    monkeypatch.setenv("BRAMBLE_STATE_DIR", str(tmp_path / "state"))
    build_release(tmp_path / "release", "v1.33.5+k3s1")
    with running_cluster(tmp_path, tmp_path / "release" / "k3s-arm64") as cluster:
        file = tmp_path / "cluster.yaml"
        file.write_text((CLUSTER + MORE).format(net=cluster.network))
        with running(tmp_path / "state" / "attic", load_cluster(file)) as server:
            boards: dict[str, Board] = {}
            for name in SERVERS:
                boards[name] = begin(server, cluster, name)
                members = list(boards.values())
                until(server, members, lambda: are_ready(server, list(boards.values())), f"{name} is Ready")
            yield Room(server, cluster, boards)


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
