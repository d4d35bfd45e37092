"""A dashboard over a real controller whose boards are simulated by the protocol's own calls: no QEMU, no k3s.

The server runs in a thread with its own loop; tests do things to boards with `Rack.do`.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, TypeVar

from fakes_bramble import make_image
from fakes_cluster import ClusterMemory
from fakes_diagnosis import PI4_FILES, PI5_FILES, SERVER, Profile
from fakes_etcd import database
from fakes_fleet import AgentKey, Clock, Fleet, cluster_spec, hardware_of, node_spec, open_fleet
from fleet_story import ask_to_install, complete, enrol, install, let_in, require_token, see
from server_thread import serving

from agent.protocol import Health, InstallProgress, InstallStep, K3sState, Outcome, Status
from bramble.boot_table import to_report
from bramble.dashboard.cluster_page import EtcdGlance
from bramble.dashboard.compose import ObservedBoots, make_site
from bramble.dashboard.door import make_context, serve_dashboard
from bramble.dashboard.site import Site
from bramble.kept_images import KeptImage, kept_image
from fleet.api.doors import serve_admin
from fleet.boards import BoardModel, MacAddress
from fleet.boots import BootReport, BootStage
from fleet.etcd.client import EtcdClient
from fleet.etcd.door import MakeEtcd
from fleet.etcd.errors import EtcdError
from fleet.etcd.view import EtcdMember, EtcdView
from fleet.k3s.material import open_k3s
from fleet.lifecycle import State
from fleet.snapshots.desk import SCHEDULE
from fleet.snapshots.manifest import DATA, KEYS, SnapshotInfo, new_id
from fleet.spec.model import ClusterSpec, DhcpMode, FirstBoot, NodeSpec, Role
from fleet.trust.tokens import TokenRole
from pxe.boot.identity import BoardIdentity, IdentifiedBy
from pxe.diagnosis.engine import Diagnostician
from pxe.diagnosis.scene import Setting
from pxe.events import BoardEvent, BootFile, BootFileMissing, DhcpAck, DhcpDiscover, TransferStatistics
from pxe.net.observer import Observer

WAIT_S = 60.0
TICK_S = 0.2
OLD = "f" * 64
"""The cluster's image, `FakeImages.current`; NEW was built after it."""
NEW = "1c0ffee1" * 8
T = TypeVar("T")


class WallClock(Clock):
    """The time as it is, so that browsers agree; `back` shifts what is recorded into the past."""

    back: float = 0.0

    def __call__(self) -> float:
        return time.time() - self.back


@dataclass
class Rack:
    """A running dashboard, and the fleet behind it."""

    fleet: Fleet
    site: Site
    observer: Observer
    kube: ClusterMemory
    etcd: EtcdMemory
    images: list[KeptImage]
    port: int
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def do(self, call: Callable[[], T]) -> T:
        """Run `call` where the controller lives."""

        async def run() -> T:
            return call()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(WAIT_S)

    def cut(self) -> None:
        """Every open stream breaks off; to be called with `do`."""
        for task in self.site.streams:
            task.cancel()

    def token(self, role: TokenRole = TokenRole.ADMIN, name: str = "") -> str:
        """A fresh token of that role."""
        tokens = self.fleet.controller.tokens
        name = name or f"{role.value}-{time.monotonic_ns()}"
        return self.do(lambda: tokens.create(name, role)[1].reveal())

    def link(self, role: TokenRole = TokenRole.ADMIN) -> str:
        """A link that opens the dashboard once."""
        return self.do(lambda: self.fleet.controller.login_links.make("root on test", role)[0])

    def node(self, name: str) -> NodeSpec:
        found = self.fleet.controller.spec.find_node(name)
        assert found is not None
        return found

    # What boards do; to be called with `do`.

    def begin(self, node: NodeSpec) -> str:
        """The board boots the installer, and is let in; its token."""
        self.boot(node)
        see(self.fleet, node)
        see(self.fleet, node, BootStage.KERNEL)
        return require_token(let_in(self.fleet, node))

    def install_again(self, node: NodeSpec) -> None:
        """Its board was taken down: it boots the installer, is written, and its new system joins."""
        with self.fleet.store.read() as reader:
            intent = reader.open_intent(node.name)
        assert intent is not None
        self.boot(node)
        see(self.fleet, node, BootStage.KERNEL)
        verdict = ask_to_install(self.fleet, node, intent=intent.number)
        installs = self.fleet.controller.installs
        token = require_token(verdict)
        plan = installs.plan(token)
        installs.complete(token, complete(plan))
        certificate = enrol(self.fleet, node, AgentKey())
        self.fleet.controller.joins.desired(certificate)
        self.kube.join(node.name, votes=None)
        self.fleet.controller.joins.status(certificate, report(node, 1))
        self.fleet.controller.watch.apply_kubernetes(self.kube.seen)

    def write(self, token: str, percent: float, step: InstallStep = InstallStep.WRITE) -> None:
        self.fleet.controller.installs.progress(token, InstallProgress(1, step, percent))

    def make_ready(self, *nodes: NodeSpec) -> None:
        """From power-on to Ready."""
        for node in nodes:
            self.boot(node)
            install(self.fleet, node)
            certificate = enrol(self.fleet, node, AgentKey())
            self.fleet.controller.joins.status(certificate, report(node, 1))
            with self.fleet.store.write() as tx:
                tx.update_node(tx.require_node(node.name), join_allowed=True)
            self.kube.join(node.name, votes=True if node.role is Role.SERVER else None)
        self.fleet.controller.watch.apply_kubernetes(self.kube.seen)

    def boot(self, node: NodeSpec, files: tuple[tuple[str, int | None], ...] = ()) -> None:
        """The board asks for an address and its boot files: those of its model, unless others are given."""
        board, now, name = identity(node), self.fleet.clock() - 5.0, node.name
        see_event = self.observer.report
        see_event(DhcpDiscover(at=now, board=board, node=name))
        address = node.address or IPv4Address("10.77.0.99")
        see_event(DhcpAck(at=now + 0.1, board=board, node=name, address=address, lease_s=3600, boots=True))
        how = TransferStatistics(blksize=1468, windowsize=4)
        for number, (file, size) in enumerate(files or profile_of(node).files):
            at = now + 0.2 + number * 0.3
            if size is None:
                missing = BootFileMissing(at=at, board=board, node=name, name=file, reason="no such file")
                see_event(missing)
                continue
            took_s = size / 4.7e6
            see_event(
                BootFile(
                    at=at, board=board, node=name, name=file, size_bytes=size, seconds=took_s, statistics=how
                )
            )


def profile_of(node: NodeSpec) -> Profile:
    """What a board of its model asks for."""
    if node.board is BoardModel.PI4:
        return Profile(name="pi4", revision=0xC03114, style="4iPR", files=PI4_FILES)
    return Profile(name="pi5", revision=0xD04171, style="5iPR", files=PI5_FILES)


def identity(node: NodeSpec) -> BoardIdentity:
    """The node's board as its bootloader shows itself."""
    profile = profile_of(node)
    low = int(node.serial.text[8:], 16) if node.serial else None
    mac = MacAddress.parse(hardware_of(node).macs[0])
    return replace(profile.board, mac=mac, serial_low=low, how=IdentifiedBy.OPTION_97)


def report(node: NodeSpec, sequence: int, **health: float | int | None) -> Status:
    """A report of a node that is well, unless `health` says otherwise."""
    vitals = Health(
        uptime_s=86_400.0 + sequence * 10,
        load1=0.4 + 0.3 * math.sin(sequence / 5),
        memory_available_bytes=int(5.1 * 2**30 + 2**27 * math.sin(sequence / 7)),
        root_free_bytes=(221 << 30) - (sequence << 22),
        clock_synchronised=True,
        temperature_c=51.0 + 4 * math.sin(sequence / 9) + (sequence % 3) * 0.4,
        throttled=0,
        storage_wear_percent=3,
    )
    return Status(
        sequence=sequence,
        boot_id="boot-2",
        hardware=hardware_of(node),
        health=replace(vitals, **health),  # type: ignore[arg-type]
        addresses=(str(node.address),),
        k3s=K3sState.RUNNING,
        k3s_version="k3s version v1.33.5+k3s1 (abcdef01)",
    )


def attic(count: int = 8) -> ClusterSpec:
    """Three servers and the rest agents, as in examples/eight-mixed-ha."""
    nodes = [
        node_spec(
            f"pi5-master-{number}" if number <= 3 else f"pi{5 if number <= 5 else 4}-worker-{number - 3}",
            number,
            role=Role.SERVER if number <= 3 else Role.AGENT,
            board=BoardModel.PI5 if number <= 5 else BoardModel.PI4,
        )
        for number in range(1, count + 1)
    ]
    return cluster_spec(*nodes, server_policy=FirstBoot.APPROVE)


@dataclass
class EtcdMemory:
    """etcd of the servers that are Ready; the first one leads.

    Attributes:
        fleet: None until there is one.
        ghosts: Nodes of members that no declared server stands behind; "": one that never started.
        answers: Whether any member does.
    """

    fleet: Fleet | None = None
    ghosts: Sequence[str] = ()
    answers: bool = True

    def make(self, _nodes: object, _identity: object) -> Any:
        """In the place of `EtcdClient`."""
        return self

    async def observe(self) -> EtcdView:
        assert self.fleet is not None
        with self.fleet.store.read() as reader:
            names = [
                node.name for node in reader.nodes() if node.role is Role.SERVER and node.state is State.READY
            ]
        if not names or not self.answers:
            raise EtcdError("no member of etcd answers", "Bring a server back.")
        members = tuple(
            EtcdMember(
                id=number,
                name=f"{name}-0a1b2c3d",
                node=name,
                healthy=True,
                db_bytes=23 << 20,
                raft_index=184_203,
                version="3.5.21",
            )
            for number, name in enumerate(names, 1)
        )
        members += tuple(
            EtcdMember(
                id=0xDEAD + number,
                name=f"{name}-4d5e6f70" if name else "",
                node=name,
                peer_urls=(f"https://10.77.0.{200 + number}:2380",),
                problem="no answer in time",
            )
            for number, name in enumerate(self.ghosts)
        )
        return EtcdView(cluster_id=0xA77C, leader_id=1, members=members)


def make_observer(fleet: Fleet) -> Observer:
    """The boot server's observer without a boot server."""

    def record(event: BoardEvent) -> None:
        fleet.controller.record_boot_event(to_report(event))

    return Observer(Diagnostician(Setting(DhcpMode.FULL, SERVER)), record)


def live_rack(state: Path, spec: ClusterSpec, *, asks_etcd: bool = False) -> AbstractContextManager[Rack]:
    """Serve on a free port of loopback, in a thread; ended and joined afterwards.

    Args:
        asks_etcd: The controller asks the same etcd as the page; else the servers' addresses, in vain.
    """

    async def serve(ready: Callable[[Rack], None], stop: asyncio.Event) -> None:
        clock = WallClock()
        clock.back = 4 * 3600.0
        kube = ClusterMemory()
        etcd = EtcdMemory()
        make_etcd: MakeEtcd = etcd.make if asks_etcd else EtcdClient
        fleet = etcd.fleet = open_fleet(state, spec, clock, kube.connect, make_etcd)
        clock.back = 0.0
        fleet.pki.ensure_server_certificate([IPv4Address("127.0.0.1")], ["bramble.invalid"], time.time())
        observer = make_observer(fleet)
        images = [
            kept_image(make_image(state / name, image_id=name).manifest, time.time() - age_s)
            for name, age_s in ((OLD, 86_400.0), (NEW, 600.0))
        ]
        fleet.images.known[NEW] = fleet.images.known[OLD]
        site = make_site(fleet.controller, ObservedBoots(observer), lambda: images)
        site = replace(site, etcd=EtcdGlance(etcd, time.time, site.feed.poke))
        try:
            async with AsyncExitStack() as stack:
                tls = make_context(fleet.pki, None)
                port = await stack.enter_async_context(serve_dashboard(site, "127.0.0.1", 0, tls))
                await stack.enter_async_context(serve_admin(fleet.controller, state / "control.sock"))
                fleet.controller.login_links.url = f"https://127.0.0.1:{port}"
                ready(Rack(fleet, site, observer, kube, etcd, images, port, asyncio.get_running_loop()))
                while not stop.is_set():
                    observer.look(time.time())
                    kube.settle()
                    await fleet.controller.rollouts.drive()
                    await fleet.controller.reimages.drive()
                    try:
                        async with asyncio.timeout(TICK_S):
                            await stop.wait()
                    except TimeoutError:
                        continue
        finally:
            fleet.store.close()
            # Connections that were accepted at the last moment come to their end, too.
            others = asyncio.all_tasks() - {asyncio.current_task()}
            if others:
                await asyncio.wait(others, timeout=WAIT_S / 4)

    return serving(serve, WAIT_S)


def keep_snapshot(fleet: Fleet, age_s: float, by: str = SCHEDULE) -> None:
    """etcd was saved so long ago; its servers were the two that furnish makes ready first."""
    files, taken_at = fleet.controller.snapshots.files, time.time() - age_s
    material = open_k3s(files.directory.parent / "k3s", fleet.controller.spec.name, taken_at)
    with files.staged() as staged:
        info = SnapshotInfo(
            id=new_id(taken_at, "0a1b2c"),
            cluster="attic",
            cluster_id="a77c",
            taken_at=taken_at,
            by=by,
            node="pi5-master-2",
            servers=("pi5-master-1", "pi5-master-2"),
            removing=(),
            k3s_version="v1.33.5+k3s1",
            etcd_version="3.5.21",
            revision=184_203,
            size_bytes=23 << 20,
            sha256="0" * 64,
            keys_sha256="0" * 64,
            ca_hash=material.ca_hash,
        )
        files.keep(staged, info)


def keep_sound_snapshot(fleet: Fleet, servers: Sequence[str]) -> str:
    """A whole snapshot of this very cluster, taken two hours ago; its id."""
    snapshots = fleet.controller.snapshots
    data, keys, taken_at = database(), b"{}", time.time() - 7200.0
    material = open_k3s(snapshots.files.directory.parent / "k3s", fleet.controller.spec.name, taken_at)
    with snapshots.files.staged() as staged:
        (staged / DATA).write_bytes(data)
        (staged / KEYS).write_bytes(keys)
        info = SnapshotInfo(
            id=new_id(taken_at, "50abcd"),
            cluster=fleet.controller.spec.name,
            cluster_id="a77c",
            taken_at=taken_at,
            by=SCHEDULE,
            node=servers[0],
            servers=tuple(servers),
            removing=(),
            k3s_version=fleet.controller.spec.k3s.version,
            etcd_version="3.5.21",
            revision=184_203,
            size_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            keys_sha256=hashlib.sha256(keys).hexdigest(),
            ca_hash=material.ca_hash,
        )
        snapshots.files.keep(staged, info)
    return info.id


def furnish(rack: Rack) -> dict[str, str]:
    """Boards in every kind of state, as on a day on which a rack is set up; installers' tokens by node.

    pi5-master-3 waits for approval.
    """
    fleet, clock = rack.fleet, rack.fleet.clock
    assert isinstance(clock, WallClock)
    tokens: dict[str, str] = {}

    def begin() -> None:
        for age_s in (2.2 * 3600.0, 90 * 60.0):
            keep_snapshot(fleet, age_s)
        clock.back = 3 * 3600.0
        rack.make_ready(*map(rack.node, ("pi5-master-1", "pi5-master-2", "pi5-worker-1")))
        for number in range(180):
            for name in ("pi5-master-1", "pi5-master-2", "pi5-worker-1"):
                node = rack.node(name)
                rack.site.vitals.take(
                    name, time.time() - (180 - number) * 10, {"health": vars(report(node, number).health)}
                )
        clock.back = 150.0
        tokens["pi5-worker-2"] = rack.begin(rack.node("pi5-worker-2"))
        rack.write(tokens["pi5-worker-2"], 0.0, InstallStep.FIND_DISK)
        rack.write(tokens["pi5-worker-2"], 42.0)
        failed = rack.begin(rack.node("pi4-worker-3"))
        clock.back = 90.0
        fleet.controller.installs.progress(
            failed,
            InstallProgress(
                1,
                InstallStep.FIND_DISK,
                0.0,
                message="no USB disk found",
                hint="Plug it into a blue port, or set 'disk: sd' in cluster.yaml.",
                failed=True,
            ),
        )
        rack.boot(rack.node("pi5-master-3"))
        see(fleet, rack.node("pi5-master-3"))
        see(fleet, rack.node("pi5-master-3"), BootStage.KERNEL)
        assert ask_to_install(fleet, rack.node("pi5-master-3")).outcome is Outcome.PENDING
        clock.back = 60.0
        see(fleet, rack.node("pi4-worker-4"))
        see(fleet, rack.node("pi4-worker-4"), BootStage.KERNEL)
        stranger = node_spec("stranger", 77)
        serial = stranger.serial
        assert serial is not None
        fleet.controller.record_boot_event(
            BootReport(
                stage=BootStage.SEEN,
                at=clock(),
                serial=serial,
                mac=MacAddress.parse("d8:3a:dd:00:77:01"),
                model="Raspberry Pi 4 Model B",
                text="asks for an address (Raspberry Pi 4 Model B)",
            )
        )
        clock.back = 0.0

    rack.do(begin)
    return tokens
