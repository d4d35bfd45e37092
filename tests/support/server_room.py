"""Three Ready servers on a real etcd, under a controller: for the tests of taking servers down and back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from etcd_fleet import CLUSTER, MORE, Board, are_ready, begin, until
from fakes_fleet_server import Running, running
from fleet_story import state_of
from k3s_sim_etcd import EtcdCluster, running_cluster

from benchmarks.etcd_writer import Writer
from fleet.etcd.view import EtcdView
from fleet.lifecycle import State
from fleet.spec import load_cluster
from fleet.store.records import ReimageRecord
from lab.k3s_sim.node.etcd_client import EtcdTls
from lab.k3s_sim.release import build_release

SERVERS = ("s1", "s2", "s3")
T = TypeVar("T")


@dataclass
class Room:
    """A cluster of three servers, all of them Ready."""

    server: Running
    cluster: EtcdCluster
    boards: dict[str, Board]

    def until(self, done: Callable[[], bool], what: str) -> None:
        until(self.server, list(self.boards.values()), done, what)

    def observe(self) -> EtcdView:
        return self.wait(self.server.fleet.controller.etcd.observe())

    def wait(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self.server.loop).result(60)

    def alive(self, *, without: str) -> tuple[str, ...]:
        """Servers whose etcd answers."""
        return self.wait(self.server.fleet.controller.recovery._who_answers(without={without}))

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


@contextlib.contextmanager
def server_room(directory: Path, names: Sequence[str] = SERVERS) -> Iterator[Room]:
    """Such a cluster, made from blank boards."""
    build_release(directory / "release", "v1.33.5+k3s1")
    with running_cluster(directory, directory / "release" / "k3s-arm64") as cluster:
        file = directory / "cluster.yaml"
        file.write_text((CLUSTER + MORE).format(net=cluster.network))
        with running(directory / "state" / "attic", load_cluster(file)) as server:
            boards: dict[str, Board] = {}
            for name in names:
                boards[name] = begin(server, cluster, name)
                members = list(boards.values())
                until(server, members, lambda: are_ready(server, list(boards.values())), f"{name} is Ready")
            yield Room(server, cluster, boards)
