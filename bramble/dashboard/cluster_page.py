"""The health of the cluster itself: its servers, their quorum, the API's address."""

from __future__ import annotations

from dataclasses import dataclass

from bramble.dashboard.rack import Card, card_of
from fleet.controller import Controller
from fleet.joining import FOUNDED, FOUNDER
from fleet.lifecycle import State
from fleet.quorum import Member, quorum_of, removal_problem
from fleet.spec.model import Role
from fleet.store.glance import glances
from fleet.store.records import NodeRecord
from fleet.views import k3s_text

_MEMBERS = (State.READY, State.DEGRADED, State.LOST)


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


def cluster_page(controller: Controller) -> ClusterPage:
    """Read the record, and judge it."""
    spec = controller.spec
    with controller.store.read() as reader:
        records = reader.nodes()
        cards = {glance.name: card_of(glance) for glance in glances(reader)}
        founder, founded = reader.value(FOUNDER) or "", reader.value(FOUNDED) is not None
    servers = [
        node for node in records if node.role is Role.SERVER and node.state is not State.DECOMMISSIONED
    ]
    members = [
        Member(name=node.name, votes=True, healthy=node.state is State.READY)
        for node in servers
        if node.state in _MEMBERS
    ]
    healthy = sum(member.healthy for member in members)
    quorum = quorum_of(len(members)) if members else 0
    tone, verdict = verdict_of(len(members), healthy)
    agents = [node for node in records if node.role is Role.AGENT and node.state is not State.DECOMMISSIONED]
    versions = {text for node in records if node.state in _MEMBERS and (text := k3s_text(node))}
    return ClusterPage(
        name=spec.name,
        version=spec.k3s.version,
        versions=tuple(sorted(versions)),
        servers=tuple(_line(controller, node, cards[node.name], members) for node in servers),
        voters=len(members),
        healthy=healthy,
        quorum=quorum,
        tone=tone,
        verdict=verdict,
        vip=str(spec.k3s.api_vip or ""),
        vip_answers=controller.joins.virtual is not None,
        founder=founder,
        founded=founded,
        agents=len(agents),
        agents_ready=sum(node.state is State.READY for node in agents),
    )


def verdict_of(voters: int, healthy: int) -> tuple[str, str]:
    """Tone and words: does the cluster stand, and how many more servers may fail?"""
    if voters == 0:
        return "waiting", "No server has joined yet."
    spare = healthy - quorum_of(voters)
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


def _address(controller: Controller, node: NodeRecord) -> str:
    declared = controller.spec.find_node(node.name)
    if declared is not None and declared.address is not None:
        return str(declared.address)
    told = (node.status or {}).get("addresses") or [""]
    return str(told[0])
