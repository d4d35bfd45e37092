"""A fleet of three Ready servers over Kubernetes and etcd in memory."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from fakes_etcd import EtcdMemory, ServersMemory
from fakes_fleet import (
    Clock,
    cluster_spec,
    hardware_of,
    installer_hello,
    node_spec,
    open_fleet,
    status_report,
)
from fakes_kube_memory import CutOffError
from fleet_story import KEY, complete, enrol, require_token, see
from reimage_room import Room

from agent.protocol import InstallProgress, InstallStep, K3sState, Proof, ProofKind
from fleet.boots import BootStage
from fleet.join.founding import FOUNDED
from fleet.lifecycle import State
from fleet.spec.model import ClusterSpec, NodeSpec, Role

S1, S2, S3 = (node_spec(f"s{number}", number, role=Role.SERVER) for number in (1, 2, 3))
SERVERS = {node.name: node for node in (S1, S2, S3)}
MAX_ROUNDS = 80


@dataclass
class ServersRoom(Room):
    """The same room, with an etcd behind it."""

    etcd: EtcdMemory = field(default_factory=EtcdMemory)

    @property
    def cluster(self) -> ServersMemory:
        assert isinstance(self.kube, ServersMemory)
        return self.kube

    def restart(self) -> None:
        """The controller's process ended, and another one starts on the same record."""
        self.etcd.calls_left = self.kube.calls_left = None
        self._start_controller(self.etcd.make)

    def report(self, node: NodeSpec) -> None:
        """All is well, and every order was carried out."""
        self.confirm(node, self.record(node).generation)

    def confirm(self, node: NodeSpec, generation: int) -> None:
        """Orders up to this one were carried out."""
        self.sequence += 1
        status = status_report(
            hardware_of(node), self.sequence, k3s=K3sState.RUNNING, boot_id=self._boot_id(node)
        )
        status = dataclasses.replace(status, generation=generation)
        self.controller.joins.status(self.certificates[node.name], status)

    def come_up(self, node: NodeSpec) -> None:
        """From its written disk to Ready, with a fresh member of etcd."""
        super().come_up(node)
        if node.role is Role.SERVER:
            self.cluster.describe(self.etcd.join(node.name))

    async def round(self, *, etcd_calls: int | None = None, kube_calls: int | None = None) -> None:
        """One round of the controller, which may end after so many calls; then what k3s does meanwhile."""
        self.etcd.calls_left, self.kube.calls_left = etcd_calls, kube_calls
        try:
            await self.controller.reimages.drive()
        except CutOffError:
            self.restart()
        finally:
            self.etcd.calls_left = self.kube.calls_left = None
        self.cluster.look(self.etcd)
        self.kube.settle()
        self.fleet.clock.advance(5.0)
        self.controller.watch.tick()
        self.controller.joins.settings.reconcile()
        for node in self.spec.nodes:
            if self.state_of(node) in (State.READY, State.DEGRADED, State.LOST):
                self.report(node)


@contextlib.asynccontextmanager
async def servers_room(state: Path, spec: ClusterSpec | None = None) -> AsyncIterator[ServersRoom]:
    """All servers are Ready."""
    spec = spec or cluster_spec(S1, S2, S3)
    fleet = open_fleet(state, spec, Clock(time.time()))
    room = ServersRoom(fleet, ServersMemory(), state, spec)
    room.restart()
    try:
        room.join(*spec.nodes)
        with fleet.store.write() as tx:
            tx.put_value(FOUNDED, spec.servers[0].name)
        yield room
    finally:
        fleet.store.close()


async def drive(room: ServersRoom, name: str, *until: State) -> None:
    """Rounds of the controller until a server is in one of these states; it has to come there."""
    for _ in range(MAX_ROUNDS):
        if room.state_of(SERVERS[name]) in until:
            return
        await room.round()
    order = room.order(SERVERS[name])
    raise AssertionError(f"{name} is {room.state_of(SERVERS[name])}: {order.reason}")


def with_vip(spec: ClusterSpec, address: str, *, enabled: bool = True) -> ClusterSpec:
    """The same cluster with an address of its API's own."""
    from ipaddress import IPv4Address

    kube_vip = dataclasses.replace(spec.k3s.kube_vip, enabled=enabled)
    return dataclasses.replace(
        spec, k3s=dataclasses.replace(spec.k3s, api_vip=IPv4Address(address), kube_vip=kube_vip)
    )


def lose(room: ServersRoom) -> None:
    """Every server is off."""
    for name in ("s1", "s2", "s3"):
        room.etcd.set_health(name, False)
    room.kube.answers = False


def install_blank(room: ServersRoom, node: NodeSpec) -> str:
    """A board that the record calls blank is installed and enrols; its certificate."""
    see(room.fleet, node)
    see(room.fleet, node, BootStage.KERNEL)
    with room.fleet.store.read() as reader:
        intent = reader.open_intent(node.name)
    assert intent is not None
    hello = installer_hello(hardware_of(node), KEY, intent=intent.number, boot="boot-r")
    desk = room.controller.admission
    proof = Proof(desk.hello(hello).session, ProofKind.NONE, installer_key=KEY.hex())
    desk.prove(proof, None)
    room.controller.people.approve(node.name)
    proof = Proof(desk.hello(hello).session, ProofKind.NONE, installer_key=KEY.hex())
    token = require_token(desk.prove(proof, None))
    plan = room.controller.installs.plan(token)
    room.controller.installs.progress(token, InstallProgress(plan.intent, InstallStep.WRITE, 50.0))
    room.controller.installs.complete(token, complete(plan))
    return enrol(room.fleet, node)
