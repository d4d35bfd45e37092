"""Snapshots of the cluster's etcd, kept here, off its nodes: taken on a schedule, by a person, and for each
server that is taken down.

k3s makes snapshots of its own on the servers' disks; those go with the disks. These have the cluster's token
and CAs with them (`fleet.snapshots.files`), and are what `bramble recover` starts from.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from fleet.errors import FleetError
from fleet.etcd.door import EtcdDoor
from fleet.etcd.errors import BadSnapshotError, EtcdError
from fleet.etcd.snapshot import save_snapshot
from fleet.etcd.view import hex_id
from fleet.files import write_private
from fleet.ground import Ground
from fleet.join.founding import FOUNDED, founded_for
from fleet.kube.client import KubeError
from fleet.kube.door import KubeDoor
from fleet.lifecycle import State
from fleet.recovery.state import Recovery
from fleet.refusal import RefusedError
from fleet.reimage import progress
from fleet.reimage.server_checks import KeptSnapshot
from fleet.snapshots.files import BusyError, NoSnapshotError, SnapshotFiles
from fleet.snapshots.manifest import DATA, KEYS, Damaged, SnapshotInfo, new_id, pack_keys, verify
from fleet.snapshots.places import (
    RENEW_S,
    KeptElsewhere,
    Place,
    elsewhere,
    find_elsewhere,
    forget,
    forget_unseen,
    read_mark,
)
from fleet.spec.model import Role
from fleet.store.glance import nodes_of_role
from fleet.store.transaction import Reader

log = logging.getLogger(__name__)

REMOVE_ANNOTATION: Final = "etcd.k3s.cattle.io/remove"
REMOVED_ANNOTATION: Final = "etcd.k3s.cattle.io/removed-node-name"
SNAPSHOTS: Final = "snapshots"
"""Their directory in the state directory."""
SCHEDULE: Final = "schedule"
LOOK_S: Final = 30.0
RETRY_S: Final = 300.0
TAKE_S: Final = 240.0
"""The limit of a re-image's step is five minutes."""
TOO_OLD_FACTOR: Final = 2.0
"""Older than twice the schedule: something keeps snapshots from being taken."""
FIRST_S: Final = 2 * 3600.0
"""So long a new cluster may be without its first one: servers join, and etcd moves its leader about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotHealth:
    """How it stands with the schedule.

    Attributes:
        newest_at: UTC seconds; None: there is none.
        problem: Why the last one could not be taken, or that it is too old; "" otherwise, also while a new
            cluster may be without one, and where a simulated k3s has no etcd.
    """

    newest_at: float | None
    count: int
    total_bytes: int
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Taking:
    """A snapshot that a person ordered.

    Attributes:
        state: `waiting`, `running`, `done` or `failed`.
        done_bytes: Of `total_bytes`; both 0 until etcd has begun to send.
        snapshot: Its id, when it is done.
        message: Why it failed, and `hint` what to do.
    """

    number: int
    state: str
    by: str
    done_bytes: int = 0
    total_bytes: int = 0
    snapshot: str = ""
    message: str = ""
    hint: str = ""


class SnapshotDesk:
    """Takes, lists and prunes. One snapshot at a time."""

    def __init__(self, ground: Ground, etcd: EtcdDoor, kube: KubeDoor, directory: Path) -> None:
        self._ground = ground
        self._etcd = etcd
        self._kube = kube
        self.files = SnapshotFiles(directory)
        self.place = place_of(directory)
        self._noted: tuple[tuple[str, ...], float] | None = None
        """Ids that the record has, and when they were written down."""
        self._busy = asyncio.Lock()
        self._failed_at = float("-inf")
        self._failure = ""
        self._ordered: Taking | None = None
        self._called = asyncio.Event()

    def order(self, by: str) -> Taking:
        """Have one taken at once; a person who asks while one is under way waits for that one."""
        ordered = self._ordered
        if ordered is None or ordered.state in ("done", "failed"):
            ordered = Taking(number=ordered.number + 1 if ordered else 1, state="waiting", by=by)
            self._ordered = ordered
            self._called.set()
        return ordered

    def ordered(self, number: int) -> Taking | None:
        """How it stands with an order; None: it is not the last one."""
        return self._ordered if self._ordered is not None and self._ordered.number == number else None

    @property
    def latest_order(self) -> Taking | None:
        """The last one that a person ordered, as it stands; None: nobody did since this server began."""
        return self._ordered

    async def take(
        self, by: str, *, besides: str = "", tell: Callable[[int, int], None] = lambda _done, _total: None
    ) -> SnapshotInfo:
        """Take one and keep it.

        Args:
            by: Who wants it.
            besides: A server that is not asked if another one can be.
            tell: Called with bytes done and in all.

        Raises:
            FleetError: etcd does not give it, or it cannot be kept; nothing is left behind.
        """
        async with self._busy:
            try:
                async with asyncio.timeout(TAKE_S):
                    info = await self._take(by, besides, tell)
            except TimeoutError as error:
                slow = EtcdError(f"etcd did not give its data within {TAKE_S:.0f} s", "Is the network slow?")
                self._failed_at, self._failure = self._ground.clock(), slow.message
                raise slow from error
            except FleetError as error:
                self._failed_at, self._failure = self._ground.clock(), error.message
                raise
        self._failed_at, self._failure = float("-inf"), ""
        fields = {"snapshot": info.id, "bytes": info.size_bytes, "by": by}
        log.info("a snapshot of etcd is kept", extra=fields)
        return info

    async def _take(self, by: str, besides: str, tell: Callable[[int, int], None]) -> SnapshotInfo:
        client = self._etcd.client()
        view = await client.observe()
        if not view.is_quorate or view.leader is None:
            raise EtcdError(
                "etcd has no leader: its data may be old, or that of a minority",
                "More than half of the servers have to be up.",
            )
        if view.strangers:
            raise EtcdError(
                f"etcd at {', '.join(view.strangers)} belongs to another cluster than the other servers'",
                "Two clusters run where there should be one: find out which one is meant first.",
            )
        removing = await self._removing()
        material, now = self._ground.k3s, self._ground.clock()
        with self.files.staged() as staged:
            saved = await save_snapshot(client, view, staged / DATA, besides=besides, tell=tell)
            keys = pack_keys(material)
            write_private(staged / KEYS, keys)
            info = SnapshotInfo(
                id=new_id(now, self._ground.random_hex(3)),
                cluster=self._ground.spec.name,
                cluster_id=hex_id(view.cluster_id),
                taken_at=now,
                by=by,
                node=saved.member.node or saved.member.name,
                servers=tuple(sorted(member.node for member in view.voters)),
                removing=removing,
                k3s_version=self._ground.spec.k3s.version,
                etcd_version=saved.member.version,
                revision=saved.revision,
                size_bytes=saved.size_bytes,
                sha256=saved.sha256,
                keys_sha256=hashlib.sha256(keys).hexdigest(),
                ca_hash=material.ca_hash,
            )
            self.files.keep(staged, info)
        return info

    async def _removing(self) -> tuple[str, ...] | None:
        """Nodes that carry a mark of removal, which the snapshot will hold."""
        try:
            async with self._kube.open() as (_api, listing):
                return tuple(sorted(name for name, node in listing.items() if is_marked(node.annotations)))
        except KubeError as error:
            log.info("kubernetes does not tell of marks of removal", extra={"cause": error.message})
            return None

    def everything(self) -> list[SnapshotInfo | Damaged]:
        """All there are, the newest first."""
        return self.files.everything()

    def newest(self, cluster_id: int | None = None) -> KeptSnapshot | None:
        """The newest one, of this etcd cluster where one is named."""
        for info in self.files.sound():
            if cluster_id is None or info.cluster_id == hex_id(cluster_id):
                return _as_kept(info)
        return None

    def kept(self, snapshot_id: str) -> KeptSnapshot | None:
        """One that an order names; None: it is gone."""
        found = [info for info in self.files.sound() if info.id == snapshot_id]
        return _as_kept(found[0]) if found else None

    async def verify(self, snapshot_id: str) -> SnapshotInfo:
        """Read all of it.

        Raises:
            FleetError: There is none of that id, or it is damaged.
        """
        return await asyncio.to_thread(verify, self.files.place(snapshot_id))

    def prune(self, keep: int) -> tuple[str, ...]:
        """Delete all but the newest `keep`, and what is in use; the ids that are gone."""
        gone = self.files.prune(keep, self._in_use)
        self.note_place()
        if gone:
            log.info("old snapshots were deleted", extra={"snapshots": ",".join(gone)})
        return gone

    @contextlib.contextmanager
    def holding(self, info: SnapshotInfo) -> Iterator[None]:
        """Within the block nobody deletes it; afterwards the record says that it is in use.

        Raises:
            RefusedError: It was deleted, or became another one, while etcd was asked; or some are being
                deleted.
        """
        try:
            with self.files.deciding():
                if self.files.info(info.id) != info:
                    raise BadSnapshotError(f"snapshot {info.id} is another one than a moment ago")
                yield
        except BusyError as error:
            raise RefusedError(409, "busy", error.message, error.hint) from error
        except NoSnapshotError as error:
            raise RefusedError(
                409, "snapshot", f"snapshot {info.id} was deleted meanwhile", error.hint
            ) from error
        except BadSnapshotError as error:
            raise RefusedError(409, "snapshot", error.message, error.hint) from error

    def _in_use(self) -> frozenset[str]:
        with self._ground.store.read() as reader:
            return in_use(reader)

    def note_place(self) -> None:
        """Tell the other servers on this record, if there may be any, what is kept here."""
        if not self._ground.store.is_shared:
            return
        kept, now = self.files.sound(), self._ground.clock()
        ids = tuple(info.id for info in kept)
        if self._noted is not None and self._noted[0] == ids and 0 <= now - self._noted[1] < RENEW_S:
            return
        if kept and not self.place.mark:
            self.place = self.place.marked(self.files.directory)
        with self._ground.store.write() as tx:
            if self.place.mark:
                self.place.note(tx, kept, now)
            gone = forget_unseen(tx, self.place, now)
        for place in gone:
            log.info(
                "a place of snapshots is forgotten: its server was not heard of for long", extra=asdict(place)
            )
        self._noted = ids, now

    def forget_place(self, host: str, directory: str | None) -> str:
        """Forget what a machine is said to keep; what was done, for people.

        Raises:
            RefusedError: Nothing is known of such a place.
        """
        with self._ground.store.write() as tx:
            gone = forget(tx, self.place, host, directory)
        named = ", ".join(f"{place.host} ({place.directory})" for place in gone)
        return (
            f"what {named} keeps is forgotten; a server that is alive there tells of it again within an hour"
        )

    def elsewhere(self) -> tuple[KeptElsewhere, ...]:
        """What other servers' machines keep, the newest first."""
        with self._ground.store.read() as reader:
            return elsewhere(reader, self.place)

    def find_elsewhere(self, snapshot_id: str) -> KeptElsewhere | None:
        """Where else one is kept; None: nobody told of it."""
        with self._ground.store.read() as reader:
            return find_elsewhere(reader, self.place, snapshot_id)

    def health(self) -> SnapshotHealth:
        """For metrics and status; reads a few small files."""
        sound, now = self._own(), self._ground.clock()
        newest = max((info.taken_at for info in sound), default=None)
        policy = self._ground.spec.policy.snapshots
        problem = self._failure
        if newest is None and self._needs_none_yet(now):
            problem = ""
        elif not problem and policy.is_on and self._has_cluster():
            if newest is None:
                problem = "no snapshot of etcd is kept yet"
            elif now - newest > TOO_OLD_FACTOR * policy.every_s:
                problem = f"the newest snapshot is {(now - newest) / 3600:.0f} h old"
        return SnapshotHealth(
            newest_at=newest,
            count=len(sound),
            total_bytes=sum(info.size_bytes for info in sound),
            problem=problem,
        )

    async def run(self) -> None:
        """Keep the schedule, and take what people order, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._called.wait()
            except TimeoutError:
                pass
            self._called.clear()
            try:
                await self._carry_out()
                await self.round()
                await asyncio.to_thread(self.note_place)
            except FleetError as error:
                log.warning("no snapshot of etcd was taken: %s", error.message)
            except (
                Exception
            ):  # a mistake of ours, or a directory that cannot be read, must not end the server
                log.exception("no snapshot of etcd was taken")

    async def _carry_out(self) -> None:
        """Take the one that was ordered."""
        order = self._ordered
        if order is None or order.state != "waiting":
            return
        self._ordered = order = replace(order, state="running")

        def tell(done: int, total: int) -> None:
            self._ordered = replace(order, done_bytes=done, total_bytes=total)

        try:
            info = await self.take(order.by, tell=tell)
        except FleetError as error:
            self._ordered = replace(order, state="failed", message=error.message, hint=error.hint)
            raise
        size = info.size_bytes
        self._ordered = replace(order, state="done", snapshot=info.id, done_bytes=size, total_bytes=size)

    async def round(self) -> SnapshotInfo | None:
        """Take the one that is due, and prune; None: none is due.

        Raises:
            FleetError: It could not be taken; it is tried again after a while.
        """
        policy, now = self._ground.spec.policy.snapshots, self._ground.clock()
        if not policy.is_on or not self._has_cluster() or now - self._failed_at < RETRY_S:
            return None
        newest = next(iter(await asyncio.to_thread(self._own)), None)
        # A clock that was set back must not stop the schedule.
        if newest is not None and 0 <= now - newest.taken_at < policy.every_s:
            return None
        info = await self.take(SCHEDULE)
        with contextlib.suppress(BusyError):  # a recovery begins, or a person prunes: the next one will do
            await asyncio.to_thread(self.prune, policy.keep)
        return info

    def _own(self) -> list[SnapshotInfo]:
        """Those that were taken here, of this cluster, the newest first: others keep no schedule."""
        pin = self._ground.k3s.ca_hash
        return [
            one for one in self.files.sound() if one.ca_hash == pin and not self.files.is_brought_in(one.id)
        ]

    def _needs_none_yet(self, now: float) -> bool:
        """Whether it is no reason for alarm that there never was one: the cluster is new, or simulated (the
        simulator of virtual boards has no etcd)."""
        with self._ground.store.read() as reader:
            is_simulated = any(node.has_simulated_k3s for node in nodes_of_role(reader, Role.SERVER))
            age = founded_for(reader, now)
        # Of a clock that was set back nobody knows the age.
        return is_simulated or age is None or 0 <= age < FIRST_S

    def _has_cluster(self) -> bool:
        with self._ground.store.read() as reader:
            servers = nodes_of_role(reader, Role.SERVER)
            return reader.value(FOUNDED) is not None and any(node.state is State.READY for node in servers)


def place_of(directory: Path) -> Place:
    """A directory of this machine, as the record names it."""
    return Place(platform.node(), str(directory.absolute()), read_mark(directory))


def in_use(reader: Reader) -> frozenset[str]:
    """Ids of snapshots that open orders and a recovery under way name."""
    orders = reader.open_reimages().values()
    recovery = Recovery.load(reader)
    restored = {recovery.snapshot} if recovery is not None else set()
    return frozenset({progress.text(order, progress.SNAPSHOT) for order in orders} | restored)


def is_marked(annotations: Mapping[str, str]) -> bool:
    """Whether a Node object's annotations ask k3s to take its member out, or say that it did."""
    asked = str(annotations.get(REMOVE_ANNOTATION, "")).lower() == "true"
    return asked or annotations.get(REMOVED_ANNOTATION) is not None


def _as_kept(info: SnapshotInfo) -> KeptSnapshot:
    return KeptSnapshot(
        id=info.id,
        taken_at=info.taken_at,
        cluster_id=int(info.cluster_id, 16),
        has_keys=bool(info.keys_sha256),
    )
