"""The fleet's controller: the only writer of the store; the composition root and the API talk to it.

It owns no sockets. Everything runs on one thread (the event loop's); calls take a few milliseconds at most.

    boots      what each node may boot, what the boot server saw      fleet.boots
    admission  hello, prove                                           fleet.admission
    people     approve, reject, revoke, device keys                   fleet.people
    installs   plan, progress, complete                               fleet.installs
    joins      status, desired, join material                         fleet.join.desk
    updates    releases of the agent, in waves                        fleet.updates.desk
    errands    log lines and single commands, for a moment            fleet.errands
    reimages   installing again, replacing, decommissioning           fleet.reimage
    lock       who is taken down beside whom                           fleet.lock_desk
    policy     re-images that nobody ordered                           fleet.policy.desk
    rollouts   another image for all, node by node                     fleet.rollout.desk
    watch      time limits, silence, Ready                            fleet.watch
    snapshots  etcd's data, kept off its nodes                        fleet.snapshots.desk
    recovery   a lost cluster, back from a snapshot                   fleet.recovery.desk
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
import uuid
from collections.abc import Callable
from typing import Final

from fleet import events
from fleet.admission.desk import AdmissionDesk
from fleet.apply.changes import was_installed
from fleet.apply.desk import ApplyDesk
from fleet.apply.following import Following
from fleet.apply.in_force import note_in_force
from fleet.attention import Fault, Finding, findings
from fleet.boards import Serial
from fleet.boots import BootDesk, BootReport, NodeBoot
from fleet.eeprom.orders import EepromDesk
from fleet.entry.desk import EntryDesk
from fleet.entry.reboot_orders import RebootDesk
from fleet.errands import ErrandDesk
from fleet.errors import FleetError
from fleet.etcd.client import EtcdClient
from fleet.etcd.door import EtcdDoor, MakeEtcd
from fleet.etcd.watch import EtcdWatch
from fleet.ground import Ground
from fleet.handouts import HandoutDesk
from fleet.health.heartbeats import StatusIntake
from fleet.installs import ControlInfo, ImageProvider, InstallDesk
from fleet.join.desk import JoinDesk
from fleet.join.founding import release_founder
from fleet.join.preparation import JoinPreparation
from fleet.k3s.material import K3sMaterial
from fleet.kube.door import Connect, KubeDoor
from fleet.lifecycle import Happening, Standing, State
from fleet.lock_desk import LockDesk
from fleet.people import PeopleDesk
from fleet.policy.desk import PolicyDesk
from fleet.power.desk import PowerDesk
from fleet.recovery.desk import RecoveryDesk
from fleet.reimage.desk import ReimageDesk
from fleet.reimage.gate import ReimageGate
from fleet.reimage.rebind import forget_retirement, is_retired, overlay
from fleet.reimage.server_steps import EtcdServerSteps
from fleet.rollout.desk import RolloutDesk
from fleet.secret import Secret
from fleet.sightings import release_declared
from fleet.snapshots.desk import SNAPSHOTS, SnapshotDesk
from fleet.spec.model import ClusterSpec, NodeSpec
from fleet.store.database import Store, StoreError
from fleet.store.records import NodeRecord
from fleet.store.transaction import Transaction
from fleet.timeline import Entry
from fleet.timeline_limit import TimelineLimit
from fleet.trust.login_links import LoginLinks
from fleet.trust.pki import ControlPki
from fleet.trust.tokens import TokenDesk
from fleet.updates.desk import UpdateDesk
from fleet.views import fleet_view
from fleet.watch import Watch

log = logging.getLogger(__name__)

TICK_S: Final = 1.0
"""How long a line of the timeline waits to be written, at most."""


def _nothing() -> None:
    """Nobody wants to be told."""


def _ignore(_spec: ClusterSpec) -> None:
    """Nobody else keeps a copy."""


class Controller:
    """Serves one declared cluster: brings the store in line with cluster.yaml and answers everybody.

    Args:
        control: How nodes find this server; goes into every node's delta.
        images: Renders install plans.
        on_boot_change: Called after each change of `boot_states()`; must return at once.
        connect: Makes a Kubernetes client for a URL; the default presents the cluster's client certificate.
        connect_etcd: Makes a client of the servers' etcd.
    """

    def __init__(
        self,
        store: Store,
        spec: ClusterSpec,
        pki: ControlPki,
        k3s: K3sMaterial,
        images: ImageProvider,
        control: ControlInfo,
        *,
        clock: Callable[[], float] = time.time,
        random_hex: Callable[[int], str] = secrets.token_hex,
        on_boot_change: Callable[[], None] = _nothing,
        connect: Connect | None = None,
        connect_etcd: MakeEtcd = EtcdClient,
    ) -> None:
        self._on_boot_change = on_boot_change
        ground = Ground(
            store=store,
            spec=spec,
            written=spec,
            pki=pki,
            k3s=k3s,
            clock=clock,
            random_hex=random_hex,
            on_boot_change=self._tell_boot_change,
        )
        self._ground = ground
        with store.read() as reader:
            ground.spec = spec = overlay(spec, reader)
        self._on_declare: Callable[[ClusterSpec], None] = _ignore
        self.spec = spec
        self.store = store
        self.following = Following(ground, images, self._follow, k3s.directory.parent)
        self.apply = ApplyDesk(ground, self.declare, images, self.following)
        self.admission = AdmissionDesk(ground)
        self.people = PeopleDesk(ground)
        self.installs = InstallDesk(ground, images, control)
        self.handouts = HandoutDesk(ground, control)
        self.pki = pki
        self.updates = UpdateDesk(ground)
        self.errands = ErrandDesk(ground)
        self.joins = JoinDesk(ground, self.updates, self.errands)
        self.heartbeats = StatusIntake(store, self.joins)
        self.eeprom = EepromDesk(ground)
        self.power = PowerDesk(ground)
        self.tokens = TokenDesk(ground)
        self.login_links = LoginLinks(ground)
        self.boots = BootDesk(ground)
        door = KubeDoor(ground, connect)
        self.etcd = EtcdDoor(ground, connect_etcd)
        self.etcd_watch = EtcdWatch(ground, self.etcd)
        self.snapshots = SnapshotDesk(ground, self.etcd, door, k3s.directory.parent / SNAPSHOTS)
        self.preparation = JoinPreparation(ground, self.joins, door)
        self.watch = Watch(ground, self.joins, self.preparation, door)
        self.recovery = RecoveryDesk(ground, self.etcd, door, self.snapshots)
        self.preparation.before_server = self.recovery.require_silence
        self.reboots = RebootDesk(store)
        servers = EtcdServerSteps(ground, self.etcd, door, self.snapshots)
        way_in, gate = EntryDesk(ground, self.power), ReimageGate(ground, images)
        self.reimages = ReimageDesk(ground, door, self._redeclare, servers, way_in)
        self.reimages.checks += [servers.check, way_in.check, gate.check]
        self.reimages.guards.append(gate.guard)
        self.lock = LockDesk(ground)
        self.policy = PolicyDesk(ground, self.reimages)
        self.watch.on_listing = self.policy.take_listing
        self.rollouts = RolloutDesk(ground, images, self.reimages, self._redeclare)
        self._timelines = TimelineLimit(ground)
        self._clock = clock
        self._random_hex = random_hex
        if not self.following.begin():
            self._sync_declared()
        # Only now: a start that breaks off must not make an old copy of a file that nobody has seen yet.
        self.following.remember(ground.written)

    def findings(self) -> tuple[Finding, ...]:
        """What needs a person: the one answer that status, notifications and metrics give."""
        return findings(fleet_view(self.store), self.snapshots.health().problem, self.faults())

    def faults(self) -> tuple[Fault, ...]:
        """What is wrong and not in the record, as it was seen last; asks nobody."""
        return (*self.etcd_watch.faults, *self.following.faults)

    def set_declare_listener(self, listener: Callable[[ClusterSpec], None]) -> None:
        """Called with every spec that replaces the present one, before boot answers are made from it."""
        self._on_declare = listener

    def set_boot_listener(self, listener: Callable[[], None]) -> None:
        """Replace `on_boot_change`: the boot server is often made after the controller."""
        self._on_boot_change = listener

    def boot_states(self) -> list[NodeBoot]:
        """What every declared node may boot from the network, now."""
        return self.boots.states()

    def record_boot_event(self, report: BootReport) -> None:
        """Take note of what the boot server saw.

        Never raises: boards go on booting while the disk is full.
        """
        try:
            self.boots.record(report)
        except StoreError as error:
            log.error("a boot event was not recorded: %s", error)

    def tick(self) -> None:
        """Write what waited, and apply time limits."""
        self.boots.flush()
        self.watch.tick()
        self.updates.tick()
        self.lock.tick()
        self.policy.tick()
        self._timelines.tick()

    async def run(self) -> None:
        """Keep time, and take nodes down as ordered, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.reimages.run(), name="re-images")
            group.create_task(self.recovery.run(), name="recovery")
            group.create_task(self.rollouts.run(), name="rollouts")
            await self._keep_time()

    async def _keep_time(self) -> None:
        next_poll = 0.0
        try:
            while True:
                try:
                    self.tick()
                    now = time.monotonic()
                    interval = self.watch.poll_interval_s()
                    if now >= next_poll:
                        await self.watch.poll()
                        next_poll = now + interval
                    # A node that began to join meanwhile is not kept waiting for the slow interval's end.
                    next_poll = min(next_poll, now + interval)
                except FleetError as error:
                    log.error("the controller could not do its round: %s", error)
                except Exception:  # a mistake of ours here must not end the server
                    log.exception("the controller could not do its round")
                await asyncio.sleep(TICK_S)
        finally:
            self._flush_last()

    def _flush_last(self) -> None:
        try:
            self.boots.flush()
        except StoreError as error:
            log.error("the last boot events were not recorded: %s", error)

    def _tell_boot_change(self) -> None:
        self._on_boot_change()

    def declare(self, spec: ClusterSpec) -> None:
        """Put another cluster.yaml of this cluster in force; it must have been compared with the present
        one.

        Raises:
            StoreError: It could not be recorded; the present one stays in force.
        """
        ground, before, written = self._ground, self.spec, self._ground.written
        with self.store.read() as reader:
            ground.written, spec = spec, overlay(spec, reader)
        self.spec = ground.spec = spec
        try:
            self._sync_declared()
        except BaseException:
            self.spec = ground.spec = before
            ground.written = written
            raise
        self._put_in_force(spec)

    def _put_in_force(self, spec: ClusterSpec) -> None:
        self.spec = self._ground.spec = spec
        self._on_declare(spec)
        self._tell_boot_change()
        self.joins.settings.reconcile()  # last: where it fails, `fleet.watch` tries it again

    def take_replaced(self) -> bool:
        """Whether another server on this record gave a node to another board since: then it is so here, too.

        Raises:
            StoreError: The record can not be asked, or what follows from it not be recorded.
        """
        with self.store.read() as reader:
            spec = overlay(self._ground.written, reader)
        is_new = spec != self.spec
        if is_new:
            self._put_in_force(spec)
        return is_new

    def _follow(self, written: ClusterSpec) -> None:
        """Another server put this file in force, and brought the record in line with it."""
        before, self._ground.written = self._ground.written, written
        try:
            self._redeclare()
        except BaseException:
            self._ground.written = before
            raise

    def _redeclare(self) -> None:
        """A node became another board, or the file has a newer image: the same file means something else.

        The record has its nodes already. One that this file does not name is none that was taken out of it:
        another server may have a newer file.
        """
        with self.store.write() as tx:
            spec = overlay(self._ground.written, tx)
            release_declared(tx, spec)
        self._put_in_force(spec)

    def _sync_declared(self) -> None:
        """Bring the store's nodes in line with cluster.yaml."""
        now = self._clock()
        self.pki.note_life(self.spec.policy.certificate_life_s)
        with self.store.write() as tx:
            known = {record.name: record for record in tx.nodes()}
            for node in self.spec.nodes:
                record = known.pop(node.name, None)
                if record is None:
                    self._add(tx, node, now)
                else:
                    _restore(tx, record, node, now)
            for record in known.values():
                _remove(tx, record, now)
            if self.store.is_shared:
                note_in_force(tx, self._ground.written, self._ground.server_name, now)
            release_declared(tx, self.spec)
            release_founder(tx, now)

    def _add(self, tx: Transaction, node: NodeSpec, now: float) -> None:
        record = NodeRecord(
            name=node.name,
            uuid=str(uuid.UUID(hex=self._random_hex(16), version=4)),
            role=node.role,
            board=node.board.yaml_name,
            standing=Standing(state=State.DECLARED, since=now, progressed_at=now),
            detail="",
            serial=node.serial.text if node.serial else None,
            mac=str(node.mac) if node.mac else None,
            image_id=None,
            disk_signature=None,
            certificate=None,
            previous_certificate=None,
            agent_key=None,
            pending_key=None,
            approved_key=None,
            generation=0,
            join_allowed=False,
            node_password=Secret(self._random_hex(16)),
            boot_id=None,
            boots=0,
            status=None,
            status_sequence=0,
            status_at=None,
        )
        tx.add_node(record)
        tx.add_event(events.declared(), now, node=node.name, board=record.board_id)


def _restore(tx: Transaction, record: NodeRecord, node: NodeSpec, now: float) -> None:
    """Take over what cluster.yaml says of a node that is known.

    What was learned beside the declared half of its identity is of another board once that half changes. An
    installed node keeps the role that it was installed in: its disk holds that role's k3s.
    """
    known = Serial(record.serial) if record.serial else None
    new_serial = node.serial is not None and not (known and known.matches(node.serial))
    new_mac = node.mac is not None and record.mac != str(node.mac)
    learned_serial = None if new_mac else record.serial
    learned_mac = None if new_serial else record.mac
    role = node.role
    if was_installed(record):
        role = record.role
        if role is not node.role:
            _say_once_ever(tx, record, events.role_changed(role, node.role), now)
        if new_serial or new_mac:
            _say_once_ever(tx, record, events.identity_changed(node.name), now)
    if new_serial or new_mac:
        tx.unbind_board(node.name)
    record = tx.update_node(
        record,
        role=role,
        board=node.board.yaml_name,
        serial=node.serial.text if node.serial else learned_serial,
        mac=str(node.mac) if node.mac else learned_mac,
    )
    if record.state is State.DECOMMISSIONED and not is_retired(tx, record.name):
        # A node with an image was installed once: it must not be wiped because a line came and went.
        back = Happening.RESTORED_INSTALLED if was_installed(record) else Happening.RESTORED_BLANK
        tx.move(record, back, events.restored(), now)


def _say_once_ever(tx: Transaction, node: NodeRecord, entry: Entry, now: float) -> None:
    """Not again with each start of the server."""
    if all(event.text != entry.text for event in tx.timeline(node=node.name)):
        tx.add_event(entry, now, node=node.name, board=node.board_id)


def _remove(tx: Transaction, record: NodeRecord, now: float) -> None:
    """A node that is no longer declared: its intent and its certificate end."""
    forget_retirement(tx, record.name)
    if record.state is State.DECOMMISSIONED:
        return
    intent = tx.open_intent(record.name)
    if intent is not None:
        tx.close_intent(intent, "removed from cluster.yaml", now)
    tx.move(record, Happening.REMOVED, events.removed(), now, certificate=None, previous_certificate=None)
