"""The health of the cluster itself: its servers, their quorum, the API's address."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from bramble.dashboard.rack import Card, Group, card_of
from bramble.dashboard.snapshots_part import (
    SHOWN,
    RecoveryShown,
    SnapshotLine,
    recovery_shown,
    snapshot_line,
    taking_text,
)
from fleet.attention import MEMBERS
from fleet.controller import Controller
from fleet.errors import FleetError
from fleet.etcd.view import EtcdMember, EtcdView, hex_id
from fleet.join.founding import FOUNDED, FOUNDER
from fleet.lifecycle import State
from fleet.quorum import Member, quorum_of, removal_problem
from fleet.reimage.problems import Problem
from fleet.reimage.server_checks import ghost_problem, ghosts
from fleet.snapshots.desk import SnapshotHealth, Taking
from fleet.spec.model import Role
from fleet.store.glance import glances, nodes_of_role
from fleet.store.records import NodeRecord
from fleet.views import k3s_text

ETCD_EVERY_S: Final = 15.0
ETCD_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class EtcdSeen:
    """What etcd said last, or why it did not. `at` is UTC seconds; 0: it was not asked yet."""

    view: EtcdView | None = None
    problem: str = ""
    at: float = 0.0


class Etcd(Protocol):
    """Who can be asked for etcd's members; `fleet.etcd.door` has it."""

    async def observe(self) -> EtcdView: ...


class EtcdGlance:
    """Asks etcd beside the pages: its servers may be away, and no page waits for them.

    Args:
        on_answer: Called when there is something new to show.
    """

    def __init__(self, etcd: Etcd, clock: Callable[[], float], on_answer: Callable[[], None]) -> None:
        self._etcd = etcd
        self._clock = clock
        self._on_answer = on_answer
        self._task: asyncio.Task[None] | None = None
        self._asked = float("-inf")
        self.seen = EtcdSeen()

    def ask_soon(self) -> None:
        """Ask again unless that was done lately."""
        now = self._clock()
        if (self._task is None or self._task.done()) and now - self._asked >= ETCD_EVERY_S:
            self._asked = now
            self._task = asyncio.get_running_loop().create_task(self._ask(), name="dashboard etcd")

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(ETCD_S):
                view = await self._etcd.observe()
        except TimeoutError:
            self.seen = EtcdSeen(None, f"no member answered within {ETCD_S:.0f} s", self._clock())
        except FleetError as error:
            self.seen = EtcdSeen(None, error.message, self._clock())
        else:
            self.seen = EtcdSeen(view, "", self._clock())
        self._on_answer()

    async def close(self) -> None:
        """End a question that is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class ServerLine:
    """One server. `fsync_ms`: what 99 of 100 of etcd's synced writes take at most; None where not told."""

    card: Card
    address: str
    k3s: str
    is_member: bool
    is_healthy: bool
    fsync_ms: float | None
    may_leave: str
    """Why it may not be taken down now; empty where it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPage:
    """What is known of the cluster without asking anybody anew."""

    name: str
    version: str
    versions: tuple[str, ...]
    servers: tuple[ServerLine, ...]
    voters: int
    healthy: int
    quorum: int
    tone: str
    verdict: str
    vip: str
    vip_answers: bool
    founder: str
    founded: bool
    agents: int
    agents_ready: int
    etcd: EtcdSeen
    snapshots: SnapshotHealth
    kept: tuple[SnapshotLine, ...]
    taking: Taking | None
    recovery: RecoveryShown | None
    ghosts: tuple[Problem, ...]
    """Members of etcd that no declared server stands behind."""

    @property
    def taking_text(self) -> str:
        return taking_text(self.taking)

    @property
    def is_taking(self) -> bool:
        """Whether a snapshot is under way that a person ordered."""
        return self.taking is not None and self.taking.state in ("waiting", "running")


def cluster_page(controller: Controller, etcd: EtcdSeen) -> ClusterPage:
    """Read the record, and judge it with what etcd said last."""
    spec = controller.spec
    with controller.store.read() as reader:
        servers = [
            node for node in nodes_of_role(reader, Role.SERVER) if node.state is not State.DECOMMISSIONED
        ]
        seen = glances(reader)
        founder, founded = reader.value(FOUNDER) or "", reader.value(FOUNDED) is not None
    members = [
        Member(name=node.name, votes=True, healthy=node.state is State.READY)
        for node in servers
        if node.state in MEMBERS
    ]
    healthy = sum(member.healthy for member in members)
    lost = _ghosts(controller, etcd.view)
    # A ghost counts for the quorum and never helps it.
    voting = [
        *members,
        *(Member(name=hex_id(one.id), votes=True, healthy=False) for one in lost if not one.is_learner),
    ]
    quorum = quorum_of(len(voting)) if members else 0
    degraded = sum(node.state is State.DEGRADED for node in servers)
    recovery = recovery_shown(controller.recovery.status())
    tone, verdict = verdict_of(len(voting) if members else 0, healthy, degraded)
    if recovery is not None and recovery.is_open:
        tone, verdict = Group.WORKING.value, "The cluster is brought back from a snapshot."
    cards = {glance.name: card_of(glance) for glance in seen}
    agents = [one for one in seen if one.role == Role.AGENT and one.state is not State.DECOMMISSIONED]
    names = {member.name for member in members}
    kept = controller.snapshots.everything()[:SHOWN]
    versions = {text for node in servers if node.state in MEMBERS and (text := k3s_text(node))}
    return ClusterPage(
        name=spec.name,
        version=spec.k3s.version,
        versions=tuple(sorted(versions)),
        servers=tuple(_line(controller, node, cards[node.name], voting) for node in servers),
        voters=len(members),
        healthy=healthy,
        quorum=quorum,
        tone=tone,
        verdict=verdict,
        vip=str(spec.k3s.api_vip or ""),
        vip_answers=controller.joins.settings.virtual is not None,
        founder=founder,
        founded=founded,
        agents=len(agents),
        agents_ready=sum(node.state is State.READY for node in agents),
        etcd=etcd,
        snapshots=controller.snapshots.health(),
        kept=tuple(snapshot_line(one, names) for one in kept),
        taking=controller.snapshots.latest_order,
        recovery=recovery,
        ghosts=tuple(map(ghost_problem, lost)),
    )


def verdict_of(voters: int, healthy: int, degraded: int = 0) -> tuple[str, str]:
    """Tone and words: does the cluster stand, and how many more servers may fail?

    Args:
        degraded: Servers that are unwell, and may be up all the same.
    """
    if voters == 0:
        return "waiting", "No server has joined yet."
    spare = healthy - quorum_of(voters)
    if -degraded <= spare < 0:
        return "attention", "Servers are unwell: whether the cluster stands, its API tells."
    if spare < 0:
        return (
            "attention",
            f"Quorum is lost: {healthy} of {voters} servers are well, {quorum_of(voters)} are needed.",
        )
    if voters == 1:
        return "ready", "One server: while it is down, so is the cluster's API."
    if spare == 0:
        return "attention", "The cluster stands, and not one more server may fail."
    more = "one more server" if spare == 1 else f"{spare} more servers"
    return "ready", f"The cluster stands, and {more} may fail."


def _line(controller: Controller, node: NodeRecord, card: Card, members: list[Member]) -> ServerLine:
    health = (node.status or {}).get("health") or {}
    fsync = health.get("etcd_fsync_p99_s")
    is_member = any(member.name == node.name for member in members)
    return ServerLine(
        card=card,
        address=_address(controller, node),
        k3s=k3s_text(node),
        is_member=is_member,
        is_healthy=node.state is State.READY,
        fsync_ms=fsync * 1000 if isinstance(fsync, int | float) else None,
        may_leave=(removal_problem(members, [node.name]) or "") if is_member else "",
    )


def _ghosts(controller: Controller, view: EtcdView | None) -> tuple[EtcdMember, ...]:
    return () if view is None else ghosts(view, [node.name for node in controller.spec.servers])


def _address(controller: Controller, node: NodeRecord) -> str:
    declared = controller.spec.find_node(node.name)
    if declared is not None and declared.address is not None:
        return str(declared.address)
    told = (node.status or {}).get("addresses") or [""]
    return str(told[0])
