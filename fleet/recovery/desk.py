"""Brings a lost cluster back from a snapshot of etcd, onto blank boards.

It is for the day on which no server is left, or too few for a quorum. A person orders it; then

    founding   one server is installed and restores the snapshot (`agent.restore`): it is the cluster, alone
    joining    the other servers are installed and join it, blank; their old Node objects are deleted first
    done       all declared servers have joined, but for those that were decommissioned meanwhile

A second cluster must not come into being: the recovery does not begin while any server's etcd answers, the
founder is not told to restore and no other server joins it while one answers that was not installed since,
and nobody founds an empty cluster while a recovery is under way. What cannot be seen from here, servers that
are switched off and come back later with their old disks, stands in docs/recovery.md.

Marks of removal that the snapshot holds would make k3s take the founder's member out again (k3s issue 8359),
so a server that was marked then is not the founder.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from fleet.errors import FleetError
from fleet.etcd.door import EtcdDoor
from fleet.etcd.errors import BadSnapshotError, EtcdError
from fleet.ground import Ground
from fleet.join.founding import FOUNDED, FOUNDER, UNTOLD
from fleet.join.state import JoinState
from fleet.join.turn import HAS_JOINED
from fleet.kube.door import KubeDoor
from fleet.kube.objects import ETCD_ROLE
from fleet.lifecycle import State
from fleet.recovery import undo
from fleet.recovery.checks import choose_founder, founder_problems, snapshot_problems
from fleet.recovery.state import KEY, LAST, Phase, Recovery
from fleet.refusal import RefusedError
from fleet.reimage.anew import start_over
from fleet.reimage.problems import Problem
from fleet.snapshots.desk import REMOVE_ANNOTATION, REMOVED_ANNOTATION, SnapshotDesk, is_marked
from fleet.snapshots.files import NoSnapshotError
from fleet.snapshots.manifest import DATA, SnapshotInfo
from fleet.spec.model import Role
from fleet.store.records import NodeRecord
from fleet.store.transaction import Reader
from fleet.timeline import Entry, Kind

log = logging.getLogger(__name__)

LOOK_S: Final = 5.0
PIECE_BYTES: Final = 1 << 20
_OVER: Final = frozenset({*HAS_JOINED, State.DECOMMISSIONED})
"""States of servers that nothing is left to do for: all of them were blank when the recovery began."""
_SWITCH_OFF: Final = "switch it off, or start it from the network, where it is installed anew"
_UNTOLD: Final = JoinState()
"""Of a server that was told nothing since the recovery began."""
_WHY: Final = "the cluster is recovered from a snapshot"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryView:
    """A recovery for people.

    Attributes:
        waits_for: What is to be done next, or by whom; empty where nothing is.
        can_be_cancelled: Its founder was not told to restore yet.
    """

    snapshot: str
    taken_at: float
    founder: str
    phase: str
    began_at: float
    by: str
    waits_for: tuple[str, ...]
    can_be_cancelled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a recovery would do; `problems` stand against it."""

    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    snapshot: SnapshotInfo
    founder: str
    servers: tuple[str, ...]
    agents: tuple[str, ...]


class RecoveryDesk:
    """One per controller."""

    def __init__(self, ground: Ground, etcd: EtcdDoor, kube: KubeDoor, snapshots: SnapshotDesk) -> None:
        self._ground = ground
        self._etcd = etcd
        self._kube = kube
        self._snapshots = snapshots
        self._old: tuple[str, ...] = ()
        """Where etcd answered at the last look though nothing was installed there since it began."""

    async def plan(self, snapshot: str, *, founder: str | None = None, with_agents: bool = False) -> Plan:
        """What it would do. Changes nothing.

        Raises:
            RefusedError: The snapshot is damaged, or there is none of that id.
        """
        try:
            info = await self._snapshots.verify(snapshot)
        except NoSnapshotError as error:
            raise self._not_here(snapshot, error) from error
        except BadSnapshotError as error:
            raise RefusedError(409, "snapshot", error.message, error.hint) from error
        spec = self._ground.spec
        with self._ground.store.read() as reader:
            records = {node.name: node for node in reader.nodes()}
            under_way = _under_way(reader)
        alive = await self._who_answers()
        found = list(snapshot_problems(info, spec, self._ground.k3s.ca_hash))
        # One that was decommissioned and is declared yet is not answered any more: nothing comes of it.
        there = tuple(node for node in spec.nodes if records[node.name].state is not State.DECOMMISSIONED)
        answered = replace(spec, nodes=there)
        chosen = founder or choose_founder(info, answered) or ""
        found += founder_problems(chosen, info, answered)
        if alive:
            found.append(
                Problem(
                    "alive",
                    f"etcd answers at {', '.join(alive)}: the cluster, or what is left of it, is there",
                    "Its data is newer than any snapshot: docs/recovery.md tells how to go on from one "
                    "server. To go back to the snapshot, switch these off first, and keep them off.",
                )
            )
        if under_way is not None:
            found.append(under_way)
        age_h = (self._ground.clock() - info.taken_at) / 3600
        warnings = [
            Problem(
                "lost-writes",
                f"what the cluster was told in the {age_h:.1f} h since {info.id} is lost",
                "'bramble snapshot list' shows newer ones, if there are any.",
            )
        ]
        if info.removing is None:
            warnings.append(
                Problem(
                    "unknown-marks",
                    "whether a server was marked for removal when it was taken is not known",
                    f"If {chosen} was, it takes itself out again: choose another with --founder.",
                )
            )
        return Plan(
            problems=tuple(found),
            warnings=tuple(warnings),
            snapshot=info,
            founder=chosen,
            servers=tuple(node.name for node in answered.servers),
            agents=tuple(node.name for node in there if node.role is Role.AGENT) if with_agents else (),
        )

    async def begin(
        self, snapshot: str, *, by: str, founder: str | None = None, with_agents: bool = False
    ) -> RecoveryView:
        """Begin one.

        Raises:
            RefusedError: Something stands against it; nothing was changed.
        """
        plan = await self.plan(snapshot, founder=founder, with_agents=with_agents)
        if plan.problems:
            first = plan.problems[0]
            text = "; ".join(problem.text for problem in plan.problems)
            raise RefusedError(409, first.code, text, first.hint)
        info, now = plan.snapshot, self._ground.clock()
        recovery = Recovery(
            id=self._ground.random_hex(8),
            snapshot=info.id,
            sha256=info.sha256,
            size_bytes=info.size_bytes,
            founder=plan.founder,
            stale=tuple(name for name in info.servers if name != plan.founder),
            by=by,
            began_at=now,
        )
        with self._snapshots.holding(info), self._ground.store.write() as tx:
            if (told := _under_way(tx)) is not None:  # while etcd was asked, which takes seconds
                raise RefusedError(409, told.code, told.text, told.hint)
            undo.keep(tx, (*plan.servers, *plan.agents))
            for name in (*plan.servers, *plan.agents):
                start_over(tx, tx.require_node(name), _WHY, _anew(recovery), now)
            tx.remove_value(FOUNDED)
            tx.remove_value(UNTOLD)
            tx.put_value(FOUNDER, recovery.founder)
            recovery.save(tx)
        log.warning("the cluster is recovered from snapshot %s on %s", info.id, recovery.founder)
        self._ground.on_boot_change()
        return self._view(recovery)

    def cancel(self, *, by: str) -> str:
        """Call the recovery off; what was done, for people.

        Raises:
            RefusedError: None is under way, or its founder was told to restore; nothing was changed.
        """
        with self._ground.store.write() as tx:
            recovery = Recovery.load(tx)
            if recovery is None:
                raise RefusedError(
                    409, "no-recovery", "no recovery is under way", "There is nothing to call off."
                )
            if recovery.phase is not Phase.FOUNDING or not undo.is_possible(tx):
                raise _too_late(recovery)
            done = undo.put_back(tx, by, self._ground.clock())
            replace(recovery, phase=Phase.CANCELLED).save(tx, LAST)
            tx.remove_value(KEY)
        log.warning("the recovery from snapshot %s is called off by %s", recovery.snapshot, by)
        self._old = ()
        self._ground.on_boot_change()
        said = f"the recovery from {recovery.snapshot} is called off"
        said += f"; lost until heard of again: {', '.join(done.again) or 'none'}"
        if done.anew:
            said += (
                "; installed as blank nodes, because they were not members or their disks may be written: "
            )
            said += ", ".join(done.anew)
        return said

    def status(self) -> RecoveryView | None:
        """The recovery that is under way, or else the one that ended last."""
        with self._ground.store.read() as reader:
            found = Recovery.load(reader) or Recovery.load(reader, LAST)
        return None if found is None else self._view(found)

    def read_piece(self, node: NodeRecord, recovery_id: str, offset: int) -> bytes:
        """The next bytes of the snapshot, for the founder's agent; empty at its end.

        Raises:
            RefusedError: It is not the founder's turn, or of another recovery.
        """
        with self._ground.store.read() as reader:
            recovery = Recovery.load(reader)
            present = reader.require_node(node.name)
        if recovery is None or recovery.id != recovery_id or recovery.founder != node.name:
            raise RefusedError(409, "recovery", f"{node.name} restores nothing", "Ask for the order again.")
        if recovery.phase is not Phase.FOUNDING or not present.join_allowed:
            raise RefusedError(
                409, "recovery", f"it is not {node.name}'s turn to restore", "Ask again later."
            )
        try:
            place = self._snapshots.files.place(recovery.snapshot)
            with (place / DATA).open("rb") as stream:
                stream.seek(offset)
                return stream.read(PIECE_BYTES)
        except NoSnapshotError as error:  # of several control servers another one has it
            told = self._not_here(recovery.snapshot, error)
            raise RefusedError(503, told.code, told.message, told.hint) from error
        except OSError as error:
            raise RefusedError(
                503, "snapshot", f"snapshot {recovery.snapshot} cannot be read: {error.strerror or error}"
            ) from error

    def _not_here(self, snapshot: str, error: NoSnapshotError) -> RefusedError:
        """There is none of that id on this machine; where it is, if another control server told."""
        kept = self._snapshots.find_elsewhere(snapshot)
        if kept is None:
            return RefusedError(404, "snapshot", f"{error.message} on this machine", error.hint)
        text = f"snapshot {kept.id} is kept on {kept.host}, in {kept.directory}, and not on this machine"
        return RefusedError(409, "snapshot-elsewhere", text, kept.place.way_here(kept.id))

    async def require_silence(self, name: str) -> None:
        """Let the founder not restore, and no server join it, while etcd runs on an old disk.

        Raises:
            RefusedError: One does.
        """
        with self._ground.store.read() as reader:
            recovery = Recovery.load(reader)
            anew = _installed_anew(reader, recovery) if recovery is not None else frozenset()
        if recovery is None:
            return
        alive = await self._who_answers(without={*anew, name})
        if alive:
            raise RefusedError(
                409,
                "old-cluster",
                f"etcd of the old cluster answers at {', '.join(alive)}",
                f"{_SWITCH_OFF[0].upper()}{_SWITCH_OFF[1:]}: two clusters must not run.",
            )

    async def run(self) -> None:
        """Look after a recovery until cancelled."""
        while True:
            try:
                await self.round()
            except FleetError as error:
                log.warning("the recovery could not be looked after: %s", error.message)
            except Exception:  # a mistake of ours here must not end the server
                log.exception("the recovery could not be looked after")
            await asyncio.sleep(LOOK_S)

    async def round(self) -> None:
        """One look: the next phase, and what the snapshot brought back and nobody wants.

        Raises:
            FleetError: The cluster or the record refuses; the next round tries again.
        """
        with self._ground.store.read() as reader:
            recovery = Recovery.load(reader)
        recovery = recovery and self._advance()
        if recovery is None or recovery.phase is Phase.DONE:
            return
        with self._ground.store.read() as reader:
            anew = _installed_anew(reader, recovery)
        self._old = await self._who_answers(without=anew)
        if recovery.phase is Phase.JOINING:
            await self._tidy(recovery)

    def _advance(self) -> Recovery | None:
        now = self._ground.clock()
        with self._ground.store.write() as tx:
            recovery = Recovery.load(tx)
            if recovery is None:
                return None  # it was called off meanwhile, at another server
            servers = [tx.require_node(node.name) for node in self._ground.spec.servers]
            if recovery.phase is Phase.FOUNDING and tx.value(FOUNDED) is not None:
                recovery = replace(recovery, phase=Phase.JOINING)
                recovery.save(tx)
                text = f"restored snapshot {recovery.snapshot}: it is the cluster, the others join it"
                node = tx.require_node(recovery.founder)
                tx.add_event(Entry(kind=Kind.STATE, text=text), now, node=node.name, board=node.board_id)
            elif recovery.phase is Phase.JOINING and all(node.state in _OVER for node in servers):
                recovery = replace(recovery, phase=Phase.DONE)
                recovery.save(tx, LAST)
                tx.remove_value(KEY)
                log.warning("the recovery from snapshot %s is done", recovery.snapshot)
        return recovery

    async def _tidy(self, recovery: Recovery) -> None:
        """Delete the Node objects of servers that are not the founder and were not told to join since.

        They have no member behind them, and block their names. Who was told may have a member already, also
        where it was revoked since: k3s takes that out with the Node object, whatever is left of the quorum.
        The founder's own marks go too.
        """
        with self._ground.store.read() as reader:
            told = JoinState.load_all(reader)
            joined = {node.name for node in reader.nodes() if node.join_allowed}
        joined |= {node.name for node in self._ground.spec.servers if told.get(node.name, _UNTOLD).material}
        async with self._kube.open() as (api, listing):
            founder = listing.get(recovery.founder)
            if founder is not None and is_marked(founder.annotations):
                gone = {REMOVE_ANNOTATION: None, REMOVED_ANNOTATION: None}
                await api.patch_node(founder.name, {"metadata": {"annotations": gone}})
            for name, node in listing.items():
                was_server = name in recovery.stale or ETCD_ROLE in node.labels
                if was_server and name != recovery.founder and name not in joined and not node.leaving:
                    await api.delete_node(name, node.uid)
                    log.info("a Node object of the lost cluster is deleted", extra={"node": name})

    async def _who_answers(self, *, without: Collection[str] = ()) -> tuple[str, ...]:
        """Servers whose etcd answers, whatever cluster it is of; but for those that are named."""
        try:
            view = await self._etcd.client(without=without).observe()
        except EtcdError:
            return ()
        # An old member's list has the others' addresses, where the new cluster may answer by now.
        answering = {member.node or member.name for member in view.members if member.version} - set(without)
        return tuple(sorted(answering)) + view.strangers or ("an unknown server",)

    def _view(self, recovery: Recovery) -> RecoveryView:
        known = {one.id: one.taken_at for one in self._snapshots.elsewhere()}
        known |= {one.id: one.taken_at for one in self._snapshots.files.sound()}
        taken_at = known.get(recovery.snapshot, 0.0)
        return RecoveryView(
            snapshot=recovery.snapshot,
            taken_at=taken_at,
            founder=recovery.founder,
            phase=recovery.phase.value,
            began_at=recovery.began_at,
            by=recovery.by,
            waits_for=self._waits_for(recovery),
            can_be_cancelled=self._can_be_cancelled(recovery),
        )

    def _can_be_cancelled(self, recovery: Recovery) -> bool:
        with self._ground.store.read() as reader:
            return recovery.phase is Phase.FOUNDING and undo.is_possible(reader)

    def _waits_for(self, recovery: Recovery) -> tuple[str, ...]:
        with self._ground.store.read() as reader:
            records = {node.name: node for node in reader.nodes()}
        if recovery.phase in (Phase.DONE, Phase.CANCELLED):
            return ()
        old = tuple(f"etcd of the old cluster answers at {name}: {_SWITCH_OFF}" for name in self._old)
        if recovery.phase is Phase.FOUNDING:
            return (*old, *self._away(recovery), _wait_text(records[recovery.founder]))
        names = [node.name for node in self._ground.spec.servers if records[node.name].state not in _OVER]
        return (*old, *(_wait_text(records[name]) for name in names))

    def _away(self, recovery: Recovery) -> tuple[str, ...]:
        """That the founder will ask this server in vain, if it asks this one."""
        try:
            self._snapshots.files.place(recovery.snapshot)
        except NoSnapshotError as error:
            told = self._not_here(recovery.snapshot, error)
            return (f"{told.message}: {recovery.founder} needs it here if it asks this server. {told.hint}",)
        return ()


def _anew(recovery: Recovery) -> Entry:
    hint = "Switch its board on from the network; what its disk holds is asked about before it goes."
    text = f"{_WHY} ({recovery.snapshot}): it is installed anew"
    return Entry(kind=Kind.STATE, text=text, hint=hint)


def _installed_anew(reader: Reader, recovery: Recovery) -> frozenset[str]:
    """The founder, and who has enrolled since the recovery began: all certificates of before are void."""
    enrolled = (node.name for node in reader.nodes() if node.certificate is not None)
    return frozenset({recovery.founder, *enrolled})


def _under_way(reader: Reader) -> Problem | None:
    """Why no other one may be ordered: the founder of this one may restore by now, and told to start over, it
    would be a cluster that nobody knows of. Once it is Ready its etcd answers, or it is lost like any other.
    """
    running = Recovery.load(reader)
    if running is None or running.phase is not Phase.FOUNDING:
        return None
    if not reader.require_node(running.founder).join_allowed:
        return None
    return Problem(
        "under-way",
        f"{running.founder} restores snapshot {running.snapshot} already",
        "Wait for it: 'bramble recover --status'. If it can not go on, 'bramble revoke "
        f"{running.founder}', and order again.",
    )


def _too_late(recovery: Recovery) -> RefusedError:
    """Why it can not be called off any more, and what to do instead."""
    if recovery.phase is Phase.JOINING:
        return RefusedError(
            409,
            "too-late",
            f"{recovery.founder} has restored snapshot {recovery.snapshot}: it is the cluster now",
            "Let the other servers join it. To go back to another snapshot, switch all servers off and "
            "order that.",
        )
    return RefusedError(
        409,
        "too-late",
        f"{recovery.founder}, or a first server that was chosen before it, was told to restore, or may have "
        "been: it may be the cluster by now, and the old one beside it would be a second",
        f"Let it end. If it can not, switch {recovery.founder} off, 'bramble revoke {recovery.founder}', and "
        "order a recovery again.",
    )


def _wait_text(node: NodeRecord) -> str:
    detail = f", {node.detail}" if node.detail else ""
    todo = {
        State.DECLARED: ": switch its board on, from the network",
        State.PENDING: f": 'bramble approve {node.name}'",
    }
    return f"{node.name} is {node.state}{detail}{todo.get(node.state, '')}"
