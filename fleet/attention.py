"""What of a fleet needs a person, and the command for it: the one table behind status and notifications.

Pure: what is shown of the fleet in, findings out. A finding stands for a condition that holds now; it has a
`key` that stays the same while it holds, so that whoever tells people can tell them once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from fleet.lifecycle import FAILED_TWIN, LEAVING, State
from fleet.quorum import quorum_of
from fleet.reimage.views import UnsteadyView
from fleet.spec.model import Role
from fleet.views import ConditionView, FleetView, HeldBoardView, NodeView, RolloutView

MEMBERS: Final = frozenset({State.READY, State.DEGRADED, State.LOST, *LEAVING})
"""States of servers that are members of etcd: they joined, and were not taken out."""
NEEDS_A_PERSON: Final = frozenset(
    {State.PENDING, State.QUARANTINED, State.DEGRADED, State.LOST, *FAILED_TWIN.values()}
)
"""States that do not end by themselves, or should not be: each is a finding of its own."""


class Urgency(StrEnum):
    """How soon somebody has to look."""

    NOW = "now"
    """Something stands still, or is one failure from it."""
    SOON = "soon"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that needs a person.

    Attributes:
        code: What kind it is; part of the JSON output and of notifications.
        subject: A node, a board, or "" for the cluster.
        text: What is the matter.
        hint: What to do.
        command: What to type for it; "" where nothing is typed.
        since: UTC seconds; None where nobody knows.
    """

    code: str
    subject: str
    urgency: Urgency
    text: str
    hint: str
    command: str
    since: float | None = None

    @property
    def key(self) -> str:
        return f"{self.code}/{self.subject}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quorum:
    """The servers that hold the cluster's state; `spare` more may fail before it stands still.

    Attributes:
        degraded: Members of which nobody knows from here whether their etcd answers: one that is hot or short
            of voltage does, one that Kubernetes calls not ready may not. They count as not ready.
    """

    members: int
    ready: int
    needed: int
    degraded: int = 0

    @property
    def spare(self) -> int:
        return self.ready - self.needed

    @property
    def is_lost(self) -> bool:
        """Whether it stands still in any case, also with the degraded ones."""
        return self.ready + self.degraded < self.needed


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdFault:
    """One thing that is wrong with etcd, as `fleet.etcd.watch` sees it.

    Attributes:
        subject: A node, the id of a member that is nobody's, or "" for all of etcd.
        text, hint: For people.
    """

    subject: str
    text: str
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFault:
    """What is wrong with a server's cluster.yaml, where several share one record (`fleet.apply.following`).

    Attributes:
        text, hint: For people.
        since: UTC seconds.
    """

    text: str
    hint: str
    since: float


Fault: TypeAlias = EtcdFault | FileFault
"""What a running server tells of and the record does not say."""


def findings(
    view: FleetView, snapshot_problem: str = "", faults: Sequence[Fault] = ()
) -> tuple[Finding, ...]:
    """Everything that needs a person, what is urgent first.

    Args:
        snapshot_problem: What is wrong with etcd's snapshots, where a server tells; "" where nothing is.
        faults: What else is wrong, where a server tells.
    """
    found = [
        *_of_snapshots(snapshot_problem),
        *map(_of_fault, faults),
        *_of_quorum(view),
        *_of_rollout(view.rollout),
        *map(_of_stuck, view.stuck),
        *map(_of_unsteady, view.unsteady),
        *(each for node in view.nodes for each in _of_node(node)),
    ]
    found += map(_of_board, view.held)
    return tuple(sorted(found, key=lambda one: (one.urgency is not Urgency.NOW, one.code, one.subject)))


def quorum_in(view: FleetView) -> Quorum:
    """How the servers stand, by their own states. A server that is degraded counts as not ready: by its
    state alone nobody knows whether its etcd answers."""
    servers = [node for node in view.nodes if node.role == Role.SERVER and node.state in MEMBERS]
    return Quorum(
        members=len(servers),
        ready=sum(node.state == State.READY for node in servers),
        needed=quorum_of(len(servers)) if servers else 0,
        degraded=sum(node.state == State.DEGRADED for node in servers),
    )


def _of_snapshots(problem: str) -> Iterator[Finding]:
    if problem:
        yield Finding(
            code="snapshots",
            subject="",
            urgency=Urgency.SOON,
            text=f"snapshots of etcd: {problem}",
            hint="Without a fresh one, losing the servers loses the cluster's state.",
            command="bramble snapshot take",
        )


def _of_fault(fault: Fault) -> Finding:
    if isinstance(fault, FileFault):
        return Finding(
            code="cluster-file",
            subject="",
            urgency=Urgency.SOON,
            text=fault.text,
            hint=fault.hint,
            command="bramble apply",
            since=fault.since,
        )
    return Finding(
        code="etcd",
        subject=fault.subject,
        urgency=Urgency.SOON if fault.subject else Urgency.NOW,
        text=fault.text,
        hint=fault.hint,
        command="bramble etcd show",
    )


def _of_quorum(view: FleetView) -> Iterator[Finding]:
    quorum = quorum_in(view)
    if not quorum.members or quorum.ready == quorum.members:
        return
    text = f"{quorum.ready} of {quorum.members} servers are Ready, etcd needs {quorum.needed}"
    if quorum.is_lost:
        yield Finding(
            code="quorum-lost",
            subject="",
            urgency=Urgency.NOW,
            text=f"{text}: the cluster's API stands still",
            hint="Bring servers back before anything else; do not re-image one of them now.",
            command="bramble nodes",
        )
    elif quorum.spare < 0 and quorum.members > 1:  # of the only server, its own finding says what ails it
        yield Finding(
            code="quorum-unsure",
            subject="",
            urgency=Urgency.NOW if quorum.ready + quorum.degraded < quorum.members else Urgency.SOON,
            text=f"{text}, {quorum.degraded} are degraded: the cluster's API may stand still",
            hint="'kubectl get nodes' tells whether it answers. Mend the degraded ones; re-image none now.",
            command="bramble nodes",
        )
    elif quorum.spare == 0:
        yield Finding(
            code="quorum-thin",
            subject="",
            urgency=Urgency.SOON if _is_planned(view) else Urgency.NOW,
            text=f"{text}: one more failure stops the cluster's API",
            hint="Bring the other servers back first, or wait for the re-image that is under way.",
            command="bramble nodes",
        )


def _of_rollout(rollout: RolloutView | None) -> Iterator[Finding]:
    if rollout is None or rollout.phase == "running":
        return
    yield Finding(
        code=f"rollout-{rollout.phase}",
        subject="",
        urgency=Urgency.NOW if rollout.phase == "stopped" else Urgency.SOON,
        text=f"rollout {rollout.number} is {rollout.phase} at {rollout.done} of {rollout.total} nodes: "
        f"{rollout.reason}",
        hint="Then 'bramble rollout resume', or 'bramble rollout abort'.",
        command="bramble rollout status",
    )


def _of_stuck(name: str) -> Finding:
    return Finding(
        code="lock",
        subject=name,
        urgency=Urgency.SOON,
        text=f"{name} holds the fleet lock and its re-image came to nothing: no other node of its role is "
        "re-imaged",
        hint=f"Mend it, decommission it, or 'bramble lock release {name}'.",
        command="bramble lock show",
    )


def _of_unsteady(one: UnsteadyView) -> Finding:
    minutes = max(1, round((one.last - one.since) / 60))
    return Finding(
        code="unsteady",
        subject=one.node,
        urgency=Urgency.NOW,
        text=f"{one.node}: {one.step} was taken up {one.count} times in {minutes} min and is not done: "
        f"{one.said}, and then not, and then again",
        hint="It goes on by itself whenever it can. What comes and goes needs somebody: the servers' network "
        "and power, and how fast their disks write.",
        command="bramble etcd show",
        since=one.since,
    )


def _is_planned(view: FleetView) -> bool:
    """Whether every server that is not ready is re-imaged, or only degraded."""
    missing = [node for node in view.nodes if node.role == Role.SERVER and node.state in MEMBERS]
    return all(node.state in {*LEAVING, State.DEGRADED} for node in missing if node.state != State.READY)


def _of_node(node: NodeView) -> Iterator[Finding]:
    held = [_of_condition(node, one) for one in node.conditions]
    match node.state:
        case State.PENDING:
            yield _about(
                node,
                "approval",
                Urgency.SOON,
                "waits for approval",
                f"Compare its screen with {node.fingerprint or 'the key that it shows'}.",
                "approve",
            )
        case State.QUARANTINED:
            hint = node.mend or "Its timeline says what went wrong; 'bramble approve' lets it try again."
            text = f"quarantined: {node.complaint}" if node.complaint else "quarantined"
            if "bramble approve" not in hint:
                hint += f" Then 'bramble approve {node.name}' lets it try again."
            yield _about(node, "quarantined", Urgency.NOW, text, hint, "show")
        case State.LOST:
            hint = "Is it on, and its network cable in? It comes back by itself when it reports again."
            yield _about(node, "lost", Urgency.NOW, "does not report any more", hint, "show")
        case State.DEGRADED if not held:
            yield _about(
                node, "degraded", Urgency.SOON, "is degraded", "Its timeline says since when.", "show"
            )
        case state if state.startswith("failed-"):
            hint = node.mend or "Its timeline says what failed and what to do."
            yield _about(node, state, Urgency.SOON, state.replace("-", " ", 1), hint, "show")
        case _:
            pass
    if node.fingerprint and State(node.state).is_installed:
        yield _about_another_key(node)
    yield from held


def _about_another_key(node: NodeView) -> Finding:
    """An installed node's agent asks with a key that nobody knows: it lost its own, or it is another's."""
    shown = node.fingerprint
    return Finding(
        code="approval",
        subject=node.name,
        urgency=Urgency.SOON,
        text=f"{node.name}: an agent with another key ({shown}) asks to be this node",
        hint=f"Does 'systemctl status bramble-agent' on it show {shown}? If not, somebody else asks: "
        f"'bramble reject {node.name}'.",
        command=f"bramble approve {node.name}",
    )


def _about(node: NodeView, code: str, urgency: Urgency, text: str, hint: str, verb: str) -> Finding:
    detail = f": {node.detail}" if node.detail else ""
    return Finding(
        code=code,
        subject=node.name,
        urgency=urgency,
        text=f"{node.name} {text}{detail}",
        hint=hint,
        command=f"bramble {verb} {node.name}",
        since=node.since,
    )


def _of_condition(node: NodeView, held: ConditionView) -> Finding:
    return Finding(
        code=f"condition-{held.condition}",
        subject=node.name,
        urgency=Urgency.NOW if held.degrades else Urgency.SOON,
        text=f"{node.name}: {held.words}: {held.evidence}",
        hint=held.hint,
        command=f"bramble show {node.name}",
        since=held.since,
    )


def _of_board(board: HeldBoardView) -> Finding:
    return Finding(
        code="held-board",
        subject=board.board,
        urgency=Urgency.SOON,
        text=f"board {board.board} ({board.model}) is held: {board.reason or 'it belongs to no node'}",
        hint="Add it under 'nodes:', or correct its serial or MAC there, and run 'bramble apply'; or switch "
        "it off.",
        command=f"bramble show {board.board}",
        since=board.first_seen,
    )
