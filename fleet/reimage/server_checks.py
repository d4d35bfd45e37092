"""May this server leave the cluster? Asked before anything is changed, and again right before its etcd member
is removed. Pure.

What etcd itself says counts, not the record: a member that Bramble never heard of votes like any other.

Source: measured with etcd 3.5.1: of two voters with one dead, even `member remove` hangs for ever; of three
    with one dead it works, and adding before removing is refused. So a member is removed while it lives where
    that is possible, one at a time, and never so that the rest could not agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from fleet.etcd.view import EtcdMember, EtcdView, hex_id
from fleet.quorum import quorum_of
from fleet.reimage.problems import Problem

SNAPSHOT_AGE_S: Final = 3600.0
"""Older than this, a snapshot is not of the cluster that loses a member now."""
MAX_LAG: Final = 5000
"""Entries of etcd's log that a member may be behind. k3s makes a snapshot of its log every 10,000."""
RUNBOOK: Final = "docs/recovery.md"


class Stage(StrEnum):
    """When it is asked."""

    BEFORE = "before"
    """Nothing was changed yet."""
    REMOVAL = "removal"
    """Right before the member is removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSnapshot:
    """The newest snapshot that is kept off the nodes, of this cluster's etcd.

    Attributes:
        taken_at: UTC seconds.
        has_keys: The server token and the CAs are archived with it: without them it restores nothing.
    """

    id: str
    taken_at: float
    cluster_id: int
    has_keys: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSituation:
    """Everything that the answer depends on.

    Attributes:
        node: The server that is to leave.
        servers: All declared servers, this one included.
        others_away: Other servers that are on a road of their own, and which state they are in.
        founded: The cluster exists. Before, there is nothing to lose.
        view: etcd's members; None: none of them answers.
        silence: Why not.
        member_id: The member that was recorded for this order; None: nothing was recorded yet.
        cluster_id: And its cluster.
        snapshot: The newest one that is kept; None: there is none.
        vip: The API's own address, if one is declared.
        vip_holder: The server that answers for it; "" unknown or nobody.
        vip_is_movable: Bramble runs what answers for it, so it can be handed to another server.
        told_to_come_here: Other nodes whose k3s finds the cluster through this server's address only.
        ready: Servers that Kubernetes calls Ready.
        may_found_again: The node's settings may still say `cluster-init`: started from its old disk after its
            removal it would found a second cluster.
    """

    node: str
    servers: tuple[str, ...]
    founded: bool
    view: EtcdView | None
    silence: str = ""
    others_away: tuple[tuple[str, str], ...] = ()
    member_id: int | None = None
    cluster_id: int | None = None
    snapshot: KeptSnapshot | None = None
    vip: str | None = None
    vip_holder: str = ""
    vip_is_movable: bool = False
    told_to_come_here: tuple[str, ...] = ()
    ready: frozenset[str] = frozenset()
    may_found_again: bool = False
    now: float


def problems(situation: ServerSituation, stage: Stage) -> tuple[Problem, ...]:
    """Everything that stands against it, all at once; empty: it may go."""
    if not situation.founded:
        return ()
    found = list(_of_others(situation))
    view = situation.view
    if view is None:
        return (*found, _no_etcd(situation))
    found += _of_identity(situation, view)
    own = own_members(situation, view)
    if own:
        found += _of_quorum(situation, view, own)
        found += _of_the_rest(situation, view, own)
        if stage is Stage.REMOVAL:
            found += _of_snapshot(situation, view)
    found += _of_ways_in(situation, stage)
    return tuple(found)


def warnings(situation: ServerSituation) -> tuple[Problem, ...]:
    """What to know where it may go."""
    view, found = situation.view, []
    if view is None or not situation.founded:
        return ()
    voters = len([member for member in view.voters if member.node != situation.node])
    own = own_members(situation, view)
    if own and voters == 1:
        found.append(
            Problem(
                "single",
                f"until {situation.node} is back the cluster has one server: if that one fails meanwhile, "
                "the cluster has to be recovered from the snapshot",
                "Three servers bear the loss of one.",
            )
        )
    elif own and voters % 2 == 0:
        found.append(
            Problem(
                "no-spare",
                f"until {situation.node} is back all of the other {voters} servers are needed for a quorum"
                if voters == 2
                else f"until {situation.node} is back the cluster bears the loss of {(voters - 1) // 2} more "
                "servers",
            )
        )
    if not own:
        found.append(Problem("no-member", f"etcd has no member of {situation.node}: there is none to remove"))
    found += [ghost_problem(member) for member in ghosts(view, situation.servers)]
    return tuple(found)


def own_members(situation: ServerSituation, view: EtcdView) -> tuple[EtcdMember, ...]:
    """The members that the node has now. One that joined afresh under another id is not meant by an order
    that was written for the old one.
    """
    own = view.of_node(situation.node)
    if situation.member_id is None:
        return own
    return tuple(member for member in own if member.id == situation.member_id)


def ghosts(view: EtcdView, servers: Iterable[str]) -> tuple[EtcdMember, ...]:
    """Members that no declared server stands behind: each of them counts for the quorum and never comes back.

    Of two members of one node the one that is not healthy is the ghost.
    """
    declared, found = set(servers), []
    for member in view.members:
        twins = [other for other in view.of_node(member.node) if other.id != member.id and other.healthy]
        if member.node not in declared or (not member.healthy and twins):
            found.append(member)
    return tuple(found)


def ghost_problem(member: EtcdMember) -> Problem:
    """A ghost in words."""
    kind = "a learner" if member.is_learner else "a voter"
    name = member.name or "without a name"
    where = ", ".join(member.peer_urls) or "no address"
    ways = [f"'bramble etcd remove {hex_id(member.id)}'"]
    if member.node:
        ways.insert(0, f"'kubectl delete node {member.node}'")
    return Problem(
        "ghost",
        f"etcd has a member that no declared server stands behind: {name} ({hex_id(member.id)}, {kind}, "
        f"{where})",
        f"If that machine is gone for good: {', or '.join(ways)}. If not, declare it in cluster.yaml.",
    )


def ghost_removal_problem(view: EtcdView, member: EtcdMember, servers: Iterable[str]) -> Problem | None:
    """Why a ghost may not be taken out of etcd by hand; None: it may."""
    if member not in ghosts(view, servers):
        return Problem(
            "no-ghost",
            f"{member.name or hex_id(member.id)} is the member of {member.node}, a declared server",
            f"'bramble reimage {member.node}' or 'bramble decommission {member.node}' takes it out in order.",
        )
    if view.leader is None or not view.is_quorate:
        return Problem(
            "no-leader",
            "etcd has no leader, so its members can not be changed",
            f"Bring servers back until it has one. If they are gone for good: {RUNBOOK}.",
        )
    staying = [one for one in view.voters if one.id != member.id]
    able = [one for one in staying if one.healthy]
    if len(able) < quorum_of(len(staying)):
        return Problem(
            "quorum-after",
            f"without it {len(able)} of {len(staying)} voters are healthy, {quorum_of(len(staying))} are "
            "needed",
            "Bring the other servers back first.",
        )
    return None


def _of_others(situation: ServerSituation) -> Iterable[Problem]:
    for name, state in situation.others_away:
        yield Problem(
            "server-away",
            f"{name} is '{state}': servers are taken down one at a time",
            f"Wait until {name} is Ready, or end what it is in: 'bramble show {name}'.",
        )


def _no_etcd(situation: ServerSituation) -> Problem:
    return Problem(
        "etcd",
        f"no member of etcd answers: {situation.silence or 'none has a known address'}",
        "Is tcp port 2379 of the servers reachable from here? If more than half of the servers are dead, the "
        f"cluster has lost its quorum: {RUNBOOK} tells how to bring it back.",
    )


def _of_identity(situation: ServerSituation, view: EtcdView) -> Iterable[Problem]:
    """It is the cluster that was meant, and only one."""
    if situation.cluster_id is not None and situation.cluster_id != view.cluster_id:
        yield Problem(
            "other-cluster",
            f"etcd is cluster {hex_id(view.cluster_id)} now, this order was begun in "
            f"{hex_id(situation.cluster_id)}",
            "The cluster was restored or founded anew meanwhile. Call the order off, and look first.",
        )
    if view.strangers:
        yield Problem(
            "two-clusters",
            f"etcd at {', '.join(view.strangers)} belongs to another cluster than the other servers'",
            f"Two clusters run where there should be one. Switch the one off that is not wanted; {RUNBOOK}.",
        )
    own = view.of_node(situation.node)
    if len(own) > 1 and situation.member_id is None:
        names = ", ".join(f"{member.name or '?'} ({hex_id(member.id)})" for member in own)
        yield Problem(
            "twins",
            f"etcd has {len(own)} members of {situation.node}: {names}",
            "One is left over from an earlier installation: 'bramble etcd show' tells which is healthy, "
            "'bramble etcd remove ID' removes the other.",
        )


def _of_quorum(situation: ServerSituation, view: EtcdView, own: tuple[EtcdMember, ...]) -> Iterable[Problem]:
    voters, gone = view.voters, {member.id for member in own}
    leaving = [member for member in voters if member.id in gone]
    staying = [member for member in voters if member.id not in gone]
    healthy = [member for member in voters if member.healthy]
    able = [member for member in staying if member.healthy]
    name = situation.node
    if leaving and not staying:
        yield Problem(
            "last-server",
            f"{name} is the only server: the cluster's state is on its disk alone",
            f"Add servers first (docs/scale-out.md), or follow {RUNBOOK} to rebuild it from a snapshot.",
        )
        return
    if len(voters) == 2 and leaving and not leaving[0].healthy:
        other = staying[0].node or staying[0].name
        yield Problem(
            "two-servers",
            f"{name} is one of two servers and its etcd does not answer: {leaving[0].problem}. Two voters "
            "need each other, so etcd can not even remove the dead one",
            f"If {name} can be started, start it, and order again while it lives. If it can not: {RUNBOOK}, "
            f"'One of two servers is dead' ({other} becomes the only member by --cluster-reset).",
        )
        return
    if view.leader is None or not view.is_quorate:
        yield Problem(
            "no-leader",
            f"etcd has no leader: {len(healthy)} of {len(voters)} voters are healthy, "
            f"{quorum_of(len(voters))} are needed",
            f"Bring servers back until it has one. If they are gone for good: {RUNBOOK}.",
        )
        return
    if leaving and len(healthy) < quorum_of(len(voters)):
        yield Problem(
            "quorum",
            f"only {len(healthy)} of {len(voters)} voters are healthy, {quorum_of(len(voters))} are needed "
            "to remove one",
            "Bring another server back first.",
        )
    if leaving and len(able) < quorum_of(len(staying)):
        dead = ", ".join(sorted(member.node or hex_id(member.id) for member in staying if not member.healthy))
        yield Problem(
            "quorum-after",
            f"without {name} {len(able)} of {len(staying)} voters are healthy ({dead} not), "
            f"{quorum_of(len(staying))} are needed",
            f"Bring {dead} back, or re-image that one first.",
        )


def _of_the_rest(
    situation: ServerSituation, view: EtcdView, own: tuple[EtcdMember, ...]
) -> Iterable[Problem]:
    """The members that stay are all well: a removal changes them, and the next loss would meet them.

    A dead member's removal takes nothing away, so it does not wait for other dead ones: of five servers with
    two dead both can be brought back, one after the other.
    """
    gone = {member.id for member in own}
    is_loss = any(member.healthy and not member.is_learner for member in own)
    newest = max((member.raft_index for member in view.members), default=0)
    known_ghosts = ghosts(view, situation.servers)
    for member in view.members:
        if member.id in gone:
            continue
        name = member.node or member.name or hex_id(member.id)
        if not member.healthy and member in known_ghosts:
            yield ghost_problem(member)
        elif member.is_learner:
            yield Problem(
                "learner",
                f"{name} joins etcd at this moment and does not vote yet",
                "Wait until it does; one that does not get on is evicted by k3s after five minutes.",
            )
        elif not member.healthy and is_loss:
            yield Problem(
                "peer",
                f"the etcd member of {name} is not well: {member.problem}",
                f"Bring {name} back first, or re-image that one.",
            )
        elif member.healthy and newest - member.raft_index > MAX_LAG:
            yield Problem(
                "lag",
                f"the etcd member of {name} is {newest - member.raft_index} entries behind the others",
                "Wait until it has caught up; if it never does, its disk or network is too slow.",
            )


def _of_snapshot(situation: ServerSituation, view: EtcdView) -> Iterable[Problem]:
    """There is a way back, and it is not on the node."""
    kept = situation.snapshot
    if kept is None:
        yield Problem("snapshot", "no snapshot of etcd is kept here", "Take one: 'bramble snapshot take'.")
        return
    if kept.cluster_id != view.cluster_id:
        yield Problem(
            "snapshot",
            f"snapshot {kept.id} is of etcd cluster {hex_id(kept.cluster_id)}, {hex_id(view.cluster_id)} "
            "runs",
            "Take another one: 'bramble snapshot take'.",
        )
    elif situation.now - kept.taken_at > SNAPSHOT_AGE_S:
        minutes = (situation.now - kept.taken_at) / 60
        yield Problem(
            "snapshot",
            f"the newest snapshot, {kept.id}, is {minutes:.0f} minutes old, 60 are allowed here",
            "Take another one: 'bramble snapshot take'.",
        )
    if not kept.has_keys:
        yield Problem(
            "snapshot-keys",
            f"snapshot {kept.id} has no server token and CAs with it: it could not be restored",
            "Take another one: 'bramble snapshot take'.",
        )


def _of_ways_in(situation: ServerSituation, stage: Stage) -> Iterable[Problem]:
    """Nobody finds the cluster through this node alone, and it founds no second one."""
    name = situation.node
    others = situation.ready - {name}
    if situation.vip_holder == name and not (situation.vip_is_movable and others):
        yield Problem(
            "vip",
            f"{name} answers for the API's address {situation.vip}, and "
            + ("no other server is Ready to take it" if others else "what answers for it is not Bramble's"),
            "Move the address to another server first.",
        )
    elif situation.vip_holder == name and stage is Stage.REMOVAL:
        yield Problem(
            "vip", f"{name} still answers for the API's address {situation.vip}", "It is being moved."
        )
    if stage is Stage.REMOVAL and situation.told_to_come_here:
        names = ", ".join(situation.told_to_come_here)
        yield Problem(
            "registration",
            f"{names} would look for the cluster at {name} after a restart",
            "They are told another server with their next report; an agent that is silent is not waited for.",
        )
    if situation.may_found_again:
        yield Problem(
            "cluster-init",
            f"{name} founded the cluster and has not confirmed yet that its settings no longer say so: "
            "started from its old disk it would found a second one",
            f"Let its agent report once more; 'bramble show {name}' tells when it did.",
        )
