"""Who may join when: order, gates, and the reason of every wait. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from fleet.k3s.versions import K3sVersion, skew_between
from fleet.lifecycle import LEAVING, State
from fleet.spec.model import JoinPolicy, Role, SlowDisk
from fleet.store.records import NodeRecord

WANTS_TO_JOIN: Final = (State.JOINING, State.FAILED_JOINING)
HAS_JOINED: Final = (State.READY, State.DEGRADED, State.LOST, *sorted(LEAVING))
UP: Final = (State.READY, State.DEGRADED)

SLOW_SYNC_MS: Final = 10.0
"""etcd wants 99 of 100 synced writes within this. Source: etcd documentation, "Hardware"."""
TOO_SLOW_SYNC_MS: Final = 100.0
"""Beyond it heartbeats (500 ms in k3s) get lost under any load."""
DEFAULT_POLICY: Final = JoinPolicy()


@dataclass(frozen=True, slots=True)
class Turn:
    """Whether a node may join now, and why or why not."""

    allowed: bool
    reason: str
    founds: bool = False


def turn_of(
    node: NodeRecord,
    others: Iterable[NodeRecord],
    *,
    founder: str | None,
    founded: bool,
    policy: JoinPolicy = DEFAULT_POLICY,
) -> Turn:
    """Whether it is this node's turn to join.

    The first server founds the cluster, exactly one ever. Everybody else waits until it is Ready; then
    agents join in batches and servers one at a time, because etcd takes one learner at a time and a server
    is Ready only when it votes.
    """
    nodes = [other for other in others if other.name != node.name]
    gate = find_gate(node, nodes, policy)
    if gate is not None:
        return Turn(False, gate)
    if node.role is Role.SERVER and founder in (None, node.name) and not founded:
        return Turn(True, "it is the first server and founds the cluster", founds=True)
    if not founded:
        return Turn(
            False, f"the first server ({founder}) is not Ready yet" if founder else "no server is up yet"
        )
    servers = [other for other in nodes if other.role is Role.SERVER]
    if not any(server.state in UP for server in servers):
        return Turn(False, "no server is Ready")
    if node.role is Role.AGENT:
        joining = sum(is_joining(other) for other in nodes if other.role is Role.AGENT)
        if joining >= policy.batch:
            return Turn(False, f"{joining} agents are joining, {policy.batch} at a time")
        return Turn(True, "a server is Ready")
    busy = [server for server in servers if server.state in WANTS_TO_JOIN and server.join_allowed]
    if busy:
        return Turn(False, _server_before(busy[0]))
    return Turn(True, "a server is Ready and no other server is joining")


def _server_before(server: NodeRecord) -> str:
    """Why a server waits for another one. One that failed keeps its turn: etcd may have it as a learner."""
    if server.state is not State.FAILED_JOINING:
        return f"server {server.name} is joining, one at a time"
    return (
        f"server {server.name} failed to join and still tries, one at a time: mend it "
        f"('bramble show {server.name}' tells what it lacks), or 'bramble revoke {server.name}'"
    )


def is_joining(node: NodeRecord) -> bool:
    """It holds a place: one that failed does not keep the others from trying."""
    return node.state is State.JOINING and node.join_allowed


def find_gate(node: NodeRecord, others: Sequence[NodeRecord], policy: JoinPolicy) -> str | None:
    """What must not be so before this node joins, as its own report and its peers' tell it; None: nothing.

    Clock, memory cgroup and supply voltage are the agent's gates: it does not start k3s while they are
    closed, and says why.
    """
    status = node.status or {}
    version = K3sVersion.find(str(status.get("k3s_version") or ""))
    running = [
        found
        for other in others
        if other.role is Role.SERVER and other.state in UP
        for found in [K3sVersion.find(str((other.status or {}).get("k3s_version") or ""))]
        if found is not None
    ]
    if version is not None:
        skew = skew_between(version, running, is_server=node.role is Role.SERVER)
        if skew is not None:
            return f"version_skew: {skew}"
    sync_ms = _sync_ms(node)
    if policy.slow_disk is SlowDisk.REFUSE and sync_ms is not None and sync_ms > TOO_SLOW_SYNC_MS:
        return (
            f"disk_slow: its disk takes {sync_ms:.0f} ms for a synced write, etcd can not live with more "
            f"than {TOO_SLOW_SYNC_MS:.0f} (policy.join.slow_disk: refuse)"
        )
    return None


def slow_disk_text(node: NodeRecord) -> str | None:
    """A warning about a server's disk; None: it is fast enough, or was not measured."""
    sync_ms = _sync_ms(node)
    if sync_ms is None or sync_ms <= SLOW_SYNC_MS:
        return None
    return f"99 of 100 synced writes to its disk take up to {sync_ms:.0f} ms, etcd wants {SLOW_SYNC_MS:.0f}"


def _sync_ms(node: NodeRecord) -> float | None:
    """How long a server's disk takes, as its agent measured; None for agents, which hold no etcd."""
    told = (node.status or {}).get("disk_sync_ms")
    return float(told) if node.role is Role.SERVER and isinstance(told, int | float) else None


def has_material(node: NodeRecord) -> bool:
    """Whether it was given what it joins with, as it is installed now."""
    return node.state in HAS_JOINED or (node.state in WANTS_TO_JOIN and node.join_allowed)
