"""What comes next for a node that is being taken down: one question, one answer. Pure.

The driver (`fleet.reimage.driver`) observes, asks here, and does the one thing that it is told: a deed in the
world, or a move in the record. Every deed may be done twice, and none is believed before it was seen: after a
crash the same question is asked with what is true then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from fleet.kube.objects import KubeNode
from fleet.kube.pods import KubePod
from fleet.lifecycle import FAILED_TWIN, LEAVING, REIMAGING, Happening, State
from fleet.reimage import progress
from fleet.reimage.drain import POLITE_S, leaving, names, stateful, stuck, waiting_text
from fleet.reimage.kinds import Outcome, ReimageKind
from fleet.spec.model import Role
from fleet.store.records import NodeRecord, ReimageRecord

MAX_RETRIES: Final = 3
"""Tries of a step that can not be called off, after its first; then it waits for a person."""
_TWIN_OF: Final = {twin: state for state, twin in FAILED_TWIN.items() if state in REIMAGING}
NEEDS_KUBERNETES: Final = frozenset(
    {State.CORDONED, State.DRAINING, State.NODE_DELETED, State.FAILED_NODE_DELETED}
)
"""States whose question is about Node, pods and secrets."""


class Deed(StrEnum):
    """Something to do in the world. Each is safe to repeat."""

    CHECK = "check"
    CORDON = "cordon"
    EVICT = "evict"
    DELETE_PODS = "delete-pods"
    """Those that stay, without their grace: a person said so."""
    MOVE_LEADER = "move-leader"
    TAKE_SNAPSHOT = "take-snapshot"
    REMOVE_MEMBER = "remove-member"
    DELETE_NODE = "delete-node"
    DELETE_PASSWORD = "delete-password"
    ENTER = "enter"
    """Get the board to start from the network."""
    UNCORDON = "uncordon"
    CORDON_AGAIN = "cordon-again"
    """As somebody had left it before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What is true of the node in its cluster now.

    Attributes:
        answers: The Kubernetes API answered; the rest means nothing where it did not.
        node: Its Node object; None: there is none.
        pods: Bound to it.
        password: Its node password's secret is there.
        silent: Neither its kubelet nor its agent is heard of.
        refusals: uid of a pod → why it could not be evicted.
        obstacle: What keeps etcd from letting its member go; asked only where that failed.
    """

    answers: bool = False
    node: KubeNode | None = None
    pods: tuple[KubePod, ...] = ()
    password: bool = False
    silent: bool = False
    refusals: Mapping[str, str] = field(default_factory=dict)
    obstacle: str = ""


@dataclass(frozen=True, slots=True)
class Do:
    """One deed in the world; `note` is written down before it."""

    deed: Deed
    why: str = ""
    note: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Move:
    """One step in the record, with what is known by now."""

    happening: Happening
    text: str
    note: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Note:
    """Something to write down before anything is done."""

    note: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be done now; `why` is for people, empty where nothing is amiss."""

    why: str = ""


@dataclass(frozen=True, slots=True)
class Abort:
    """Nothing was removed yet: undo what was done and let the node be what it was."""

    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True)
class Close:
    """It is over, and the node stays as it is."""

    outcome: Outcome
    reason: str


Step = Do | Move | Note | Wait | Abort | Close


def next_step(order: ReimageRecord, node: NodeRecord, observed: Observed, now: float) -> Step:
    """The one thing to do next for an open order."""
    state = node.state
    if state in LEAVING and (called_off := _called_off(order, node, observed)) is not None:
        return called_off
    match state:
        case State.REIMAGE_REQUESTED:
            return Move(Happening.CHECKS_BEGAN, "checking whether it may be taken down")
        case State.PREFLIGHT:
            return Do(Deed.CHECK)
        case State.CORDONED:
            return _cordon(order, observed)
        case State.DRAINING:
            return _drain(order, node, observed, now)
        case State.LEADER_MOVED:
            return Do(Deed.MOVE_LEADER)
        case State.SNAPSHOTTED:
            return Do(Deed.TAKE_SNAPSHOT)
        case State.MEMBER_REMOVED:
            return Do(Deed.REMOVE_MEMBER)
        case State.NODE_DELETED:
            return _delete_node(order, observed)
        case State.REBOOT_TO_INSTALLER:
            return Do(Deed.ENTER)
        case State.FAILED_MEMBER_REMOVED if progress.is_held(order, state):
            why = order.reason or "it could not be asked for in time"
            return Move(
                Happening.HELD_BACK,
                f"its etcd member stays, nobody was asked to remove it: {why}",
                {progress.FAILURE: f"{_TWIN_OF[state]}: {why}"},
            )
        case State.FAILED_MEMBER_REMOVED:
            return _take_up(order, state, observed.obstacle, now)
        case State.FAILED_NODE_DELETED:
            return _take_up(order, state, "" if observed.answers else _silent_api().why, now)
        case State.FAILED_REBOOT_TO_INSTALLER:
            return _give_up_entering(order, node)
        case State.READY | State.DEGRADED:
            return _finish(order, node, observed)
        case State.DECOMMISSIONED:
            done = order.kind is ReimageKind.DECOMMISSION
            outcome = Outcome.DONE if done else Outcome.ABANDONED
            return Close(outcome, "decommissioned" if done else "it is no longer in cluster.yaml")
        case State.QUARANTINED:
            why = (
                progress.text(order, progress.FAILURE)
                or f"Its attempts are used up ('bramble show {node.name}')"
            )
            return Wait(f"'bramble approve {node.name}' lets it try again. {why}")
        case _:
            return _on_the_install_road(order, node)


def _called_off(order: ReimageRecord, node: NodeRecord, observed: Observed) -> Step | None:
    """What ends an order before anything was removed; None: it goes on."""
    if progress.is_cancelled(order):
        outcome, reason = Outcome.CANCELLED, f"called off by {progress.text(order, progress.CANCEL)}"
    elif node.state in _TWIN_OF:
        reason, outcome = progress.text(order, progress.FAILURE), Outcome.FAILED
        if not reason:
            said, step = order.reason or node.detail, _TWIN_OF[node.state]
            reason = f"{step}: {said}" if said else f"{step} was not done in time"
            return Note({progress.FAILURE: reason})
    else:
        return None
    return undo(order, observed, Abort(outcome, reason))


def undo(order: ReimageRecord, observed: Observed, then: Abort) -> Step:
    """Take our cordon back, and nobody else's; then the node is what it was."""
    if not _may_be_ours(order):
        return then
    if not observed.answers:
        return Wait(f"{then.reason}; its cordon is taken back when the cluster's API answers")
    if observed.node is not None and is_ours(order, observed.node):
        return Do(Deed.UNCORDON, then.reason)
    return then


def _may_be_ours(order: ReimageRecord) -> bool:
    """Whether a cordon of ours may be in the cluster: that state was entered, and nobody else had done it."""
    steps = order.progress.get(progress.STEPS)
    entered = isinstance(steps, Mapping) and State.CORDONED.value in steps
    return entered and progress.text(order, progress.CORDON) not in (progress.THEIRS, progress.NOBODYS)


def is_ours(order: ReimageRecord, node: KubeNode) -> bool:
    """Whether this very order cordoned the Node."""
    return node.annotations.get(progress.CORDON_ANNOTATION) == progress.cordon_owner(order)


def _cordon(order: ReimageRecord, observed: Observed) -> Step:
    if not observed.answers:
        return _silent_api()
    node = observed.node
    if node is None:
        return Move(
            Happening.CORDON_SEEN,
            "it has no Node object, there is nothing to cordon",
            {progress.CORDON: progress.NOBODYS},
        )
    if is_ours(order, node) and node.unschedulable:
        return Move(Happening.CORDON_SEEN, "cordoned: no new pods", {progress.CORDON: progress.OURS})
    if node.unschedulable and not is_ours(order, node):
        return Move(
            Happening.CORDON_SEEN,
            "it was cordoned by somebody already, and is left so",
            {progress.CORDON: progress.THEIRS},
        )
    return Do(Deed.CORDON)


def _drain(order: ReimageRecord, node: NodeRecord, observed: Observed, now: float) -> Step:
    if not observed.answers:
        return _silent_api()
    on = Happening.SERVER_DRAINED if node.role is Role.SERVER else Happening.AGENT_DRAINED
    if observed.node is None:
        return Move(on, "its Node object is gone, and its pods go with it")
    unattended = observed.silent or not observed.node.ready
    if unattended and not order.force_drain and (twice := stateful(observed.pods)):
        return Wait(
            f"its kubelet does not answer and may still run what must not run twice: {names(twice)}; switch "
            "it off, call this off, and order with --force-drain"
        )
    staying = leaving(observed.pods)
    if observed.silent:
        # Nobody there ends them. They go with the Node object, and their controllers make others.
        return Move(on, f"it is silent: its {len(staying)} pod(s) go with its Node object")
    if unattended:
        staying = tuple(pod for pod in staying if not pod.leaving)
        if not staying:
            return Move(on, "its kubelet does not answer: its pods go with its Node object")
    if not staying:
        return Move(on, "drained: its pods run elsewhere")
    why = waiting_text(staying, observed.refusals)
    if order.force_drain and now - node.standing.since >= POLITE_S:
        if len(stuck(staying)) == len(staying):
            return Move(on, f"drained by force; {why}")
        return Do(Deed.DELETE_PODS, why)
    return Do(Deed.EVICT, why)


def _delete_node(order: ReimageRecord, observed: Observed) -> Step:
    if not observed.answers:
        return _silent_api()
    node = observed.node
    if node is not None:
        if node.uid != progress.text(order, progress.NODE_UID):
            # It registered anew meanwhile, from its old disk. That one goes too, under its own uid.
            return Note({progress.NODE_UID: node.uid})
        return Wait("its Node object waits for its finalizers") if node.leaving else Do(Deed.DELETE_NODE)
    if observed.password:
        return Do(Deed.DELETE_PASSWORD)
    gone = "out of Kubernetes: its Node object and its password are gone"
    if order.kind is ReimageKind.DECOMMISSION:
        return Move(Happening.REMOVED, f"{gone}; decommissioned")
    return Move(Happening.NODE_GONE, gone)


def _take_up(order: ReimageRecord, state: State, obstacle: str, now: float) -> Step:
    """Try a step again that can not be called off; as long as it could not succeed no try is used up, and
    when that is over it goes on without a person. Where that comes and goes it does so without an end, and
    people are told (`progress.unsteady`).
    """
    if obstacle:
        if not progress.text(order, progress.OUTAGE):
            return Note({progress.OUTAGE: obstacle})
        return Wait(f"{obstacle}; {_TWIN_OF[state]} is taken up by itself when that is over")
    if progress.text(order, progress.OUTAGE):
        text = f"{_TWIN_OF[state]} is taken up again: what kept it back is over"
        return Move(Happening.RETRIED, text, progress.taken_up(order, _TWIN_OF[state].value, now))
    return _try_again(order, state)


def _try_again(order: ReimageRecord, state: State) -> Step:
    step = _TWIN_OF[state]
    if progress.retries(order, step.value) >= MAX_RETRIES:
        said = progress.text(order, progress.FAILURE)
        if not said:
            return Note({progress.FAILURE: order.reason or "no reason given"})
        return Wait(
            f"{step} was tried {MAX_RETRIES + 1} times ({said}); mend that and order again "
            f"('bramble {order.kind} {order.node}')"
        )
    return Move(Happening.RETRIED, f"{step} is tried again", progress.one_more_retry(order, step.value))


def _give_up_entering(order: ReimageRecord, node: NodeRecord) -> Step:
    """Its old disk may start at any time, and what is on it goes when it does: not without a person's word.

    A board in the old one's place is as welcome as one that was declared just now.
    """
    if order.kind is ReimageKind.REPLACE:
        return Wait(f"{node.name} did not start from the network in time: switch its new board on")
    tried = f": {order.reason}" if order.reason else ""
    return Move(
        Happening.EXHAUSTED,
        f"quarantined: its board did not start from the network in time, and is not awaited there any more; "
        f"'bramble approve {node.name}' tries everything again",
        {progress.FAILURE: f"Its board did not start from the network in time{tried}"},
    )


def _finish(order: ReimageRecord, node: NodeRecord, observed: Observed) -> Step:
    if not progress.has_entered(order):
        return Close(Outcome.ABANDONED, f"the node is {node.state} without it")
    if (entered := _newly_entered(order, node)) is not None:
        return entered
    if not observed.answers:
        return _silent_api()
    seen = observed.node
    if seen is not None and is_ours(order, seen):
        return Do(Deed.UNCORDON, "it is Ready")
    was_theirs = progress.text(order, progress.CORDON) == progress.THEIRS
    if was_theirs and seen is not None and not seen.unschedulable:
        return Do(Deed.CORDON_AGAIN)
    return Close(Outcome.DONE, f"{node.name} is Ready again")


def _on_the_install_road(order: ReimageRecord, node: NodeRecord) -> Step:
    """Other rooms move the node here, each state with its own limit: boots, admission, installs, joining."""
    if progress.has_entered(order):
        if (entered := _newly_entered(order, node)) is not None:
            return entered
        return Wait(node.detail if node.state in _TWINS else "")
    # Somebody else moved it: it was revoked and installed by hand, or its record was restored.
    return Close(Outcome.ABANDONED, f"the node is {node.state} without it")


def _newly_entered(order: ReimageRecord, node: NodeRecord) -> Note | None:
    """Write down when others moved the node, so that the order tells what each part took."""
    if progress.entered_at(order, node.state.value) == node.standing.since:
        return None
    return Note(progress.step_entered(order, node.state.value, node.standing.since))


_TWINS: Final = frozenset(FAILED_TWIN.values())


def _silent_api() -> Wait:
    return Wait("the cluster's API does not answer")


def asks_for_obstacles(order: ReimageRecord, node: NodeRecord) -> bool:
    """Whether the next step asks what keeps etcd from letting the member go."""
    return node.state is State.FAILED_MEMBER_REMOVED and not progress.is_held(order, node.state)


def needs_observation(order: ReimageRecord, node: NodeRecord) -> bool:
    """Whether the next step asks what Kubernetes holds."""
    calls_off = node.state in LEAVING and (progress.is_cancelled(order) or node.state in _TWIN_OF)
    return node.state in NEEDS_KUBERNETES or calls_off or node.state in (State.READY, State.DEGRADED)
