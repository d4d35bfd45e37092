"""A fleet of Ready nodes over a cluster in memory, and the road of a re-image."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from fakes_cluster import ClusterMemory
from fakes_fleet import (
    Clock,
    Fleet,
    cluster_spec,
    hardware_of,
    installer_hello,
    node_spec,
    open_fleet,
    status_report,
)
from fakes_kube_memory import CutOffError
from fleet_story import (
    KEY,
    complete,
    enrol,
    install,
    require_token,
    see,
    state_of,
)

from agent.protocol import InstallProgress, InstallStep, K3sState, Outcome, Proof, ProofKind
from fleet.boots import BootStage
from fleet.controller import Controller
from fleet.etcd.client import EtcdClient
from fleet.etcd.door import MakeEtcd
from fleet.installs import ControlInfo
from fleet.k3s.material import open_k3s
from fleet.lifecycle import State
from fleet.spec.model import ClusterSpec, NodeSpec, Role
from fleet.store.records import NodeRecord, ReimageRecord

S1 = node_spec("s1", 1, role=Role.SERVER)
A1, A2 = node_spec("a1", 2), node_spec("a2", 3)
MAX_ROUNDS = 60


@dataclasses.dataclass
class Room:
    """The controller, its cluster, and the nodes' certificates."""

    fleet: Fleet
    kube: ClusterMemory
    state: Path
    spec: ClusterSpec
    certificates: dict[str, str] = dataclasses.field(default_factory=dict)
    sequence: int = 0

    @property
    def controller(self) -> Controller:
        return self.fleet.controller

    def restart(self) -> None:
        """The controller's process ended, and another one starts on the same record."""
        self._start_controller()

    def _start_controller(self, connect_etcd: MakeEtcd = EtcdClient) -> None:
        fleet = self.fleet
        self.fleet.controller = Controller(
            fleet.store,
            self.spec,
            fleet.pki,
            open_k3s(self.state / "k3s", "attic", fleet.clock()),
            fleet.images,
            ControlInfo((), ""),
            clock=fleet.clock,
            connect=self.kube.connect,
            connect_etcd=connect_etcd,
        )

    def record(self, node: NodeSpec = A1) -> NodeRecord:
        with self.fleet.store.read() as reader:
            return reader.require_node(node.name)

    def order(self, node: NodeSpec = A1) -> ReimageRecord:
        """The newest order, open or closed."""
        with self.fleet.store.read() as reader:
            return reader.reimages(node.name)[0]

    def state_of(self, node: NodeSpec = A1) -> State:
        return state_of(self.fleet, node)

    def join(self, *nodes: NodeSpec) -> None:
        """Blank boards become Ready nodes."""
        for node in nodes:
            install(self.fleet, node)
            self.come_up(node)

    def come_up(self, node: NodeSpec) -> None:
        """From its written disk to Ready."""
        self.certificates[node.name] = enrol(self.fleet, node)
        self.controller.joins.desired(self.certificates[node.name])
        self.kube.join(node.name, votes=True if node.role is Role.SERVER else None)
        self.report(node)
        self.controller.watch.apply_kubernetes(self.kube.seen)

    def report(self, node: NodeSpec) -> None:
        """The node's agent says that all is well."""
        self.sequence += 1
        status = status_report(
            hardware_of(node), self.sequence, k3s=K3sState.RUNNING, boot_id=self._boot_id(node)
        )
        self.controller.joins.status(self.certificates[node.name], status)

    def _boot_id(self, node: NodeSpec) -> str:
        return f"boot-{self.certificates[node.name][:8]}"

    def report_all(self, *but: NodeSpec) -> None:
        """Every agent reports, but for those of these nodes."""
        silent = {node.name for node in but}
        for node in self.spec.nodes:
            if node.name not in silent:
                self.report(node)

    async def rounds(
        self, *until: State, node: NodeSpec = A1, settle: bool = True, step_s: float = 2.0
    ) -> None:
        """Drive until the node is in one of these states."""
        for _ in range(MAX_ROUNDS):
            if self.state_of(node) in until:
                return
            await self.controller.reimages.drive()
            if settle:
                self.kube.settle()
            self.fleet.clock.advance(step_s)
        raise AssertionError(f"{node.name} is {self.state_of(node)} ({self.order(node).reason}), not {until}")

    async def until_closed(self, node: NodeSpec = A1) -> ReimageRecord:
        for _ in range(MAX_ROUNDS):
            if self.order(node).closed_at is not None:
                break
            await self.controller.reimages.drive()
            self.kube.settle()
            self.fleet.clock.advance(2.0)
        return self.order(node)

    def netboot(self, node: NodeSpec = A1, *, board: NodeSpec | None = None) -> None:
        """The board starts the installer, which writes the disk; then its new system joins."""
        shown = board or node
        with self.fleet.store.read() as reader:
            intent = reader.open_intent(node.name)
        assert intent is not None, "its intent is open"
        see(self.fleet, shown)
        see(self.fleet, shown, BootStage.KERNEL)
        assert self.state_of(node) is State.NETBOOTING
        hello = installer_hello(hardware_of(shown), KEY, intent=intent.number, boot=f"boot-{intent.number}")
        for _ in range(2):
            welcome = self.controller.admission.hello(hello)
            verdict = self.controller.admission.prove(
                Proof(welcome.session, ProofKind.NONE, installer_key=KEY.hex()), None
            )
            if verdict.outcome is Outcome.PENDING:
                self.controller.people.approve(node.name)
        token = require_token(verdict)
        plan = self.controller.installs.plan(token)
        assert plan.intent == intent.number
        self.controller.installs.progress(token, InstallProgress(plan.intent, InstallStep.WRITE, 50.0))
        self.controller.installs.complete(token, complete(plan))
        assert self.state_of(node) is State.FIRST_BOOT
        self.come_up(dataclasses.replace(shown, name=node.name))


@dataclasses.dataclass
class _Template:
    """A state directory in which everybody is Ready; making it takes a second, copying it does not."""

    directory: tempfile.TemporaryDirectory[str]
    now: float
    kube: ClusterMemory
    certificates: dict[str, str]
    sequence: int


_templates: dict[str, _Template] = {}


def _template_of(spec: ClusterSpec) -> _Template:
    key = repr(spec)
    if key not in _templates:
        directory = tempfile.TemporaryDirectory(prefix="bramble-room-")
        room = _open(Path(directory.name), spec, ClusterMemory(), time.time())
        try:
            room.join(*spec.nodes)
        finally:
            room.fleet.store.close()
        kube, now = room.kube, room.fleet.clock()
        _templates[key] = _Template(directory, now, kube, room.certificates, room.sequence)
    return _templates[key]


def _open(state: Path, spec: ClusterSpec, kube: ClusterMemory, now: float) -> Room:
    room = Room(open_fleet(state, spec, Clock(now)), kube, state, spec)
    room.restart()
    return room


@contextlib.asynccontextmanager
async def open_room(state: Path, *nodes: NodeSpec) -> AsyncIterator[Room]:
    """All nodes are Ready."""
    spec = cluster_spec(*(nodes or (S1, A1, A2)))
    made = _template_of(spec)
    shutil.copytree(made.directory.name, state, dirs_exist_ok=True)
    room = _open(state, spec, copy.deepcopy(made.kube), made.now)
    room.certificates, room.sequence = dict(made.certificates), made.sequence
    try:
        yield room
    finally:
        room.fleet.store.close()


def cut_off(room: Room, calls: int) -> type[CutOffError]:
    """The controller's process ends at its `calls`-th question to the cluster from now on."""
    room.kube.calls_left = calls
    return CutOffError
