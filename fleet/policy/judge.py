"""Which nodes Bramble re-images by itself now, and why not the others. Pure.

A node has failed when its agent is silent and Kubernetes says that it is not ready, both without a break
for as long as `policy.reimage.after`. Everything else here is a reason not to act: all that hold are told, so
that a person who reads them is not led from one to the next.

    isolated     more than half of the nodes are silent: that is this server's network, or the site's
    together     several fell silent within two minutes: a switch or a supply, which no new image mends
    again        policy ordered its re-image lately: that did not mend it, or a person called it off
    quorum       etcd would stand still without it
    restored     the record is a backup's and the node was not heard of since
    health       the last that was heard of it forbids to write to its disk
    lock, budget, window   as for every re-image, `fleet.reimage.guards`
    off, dry-run           what `policy.reimage` says
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from fleet.lifecycle import REIMAGING, State
from fleet.lock import Hold, find_problems
from fleet.policy.words import span_text
from fleet.quorum import Member, removal_problem
from fleet.reimage.guards import window_problems, writing_problems
from fleet.reimage.problems import Problem
from fleet.spec.model import ReimagePolicy, Role

TOGETHER_S: Final = 120.0
"""Nodes whose last reports lie within this fell silent together."""
TOGETHER_COUNT: Final = 3
MEMBERS: Final = frozenset({State.READY, State.DEGRADED, State.LOST})
"""States of nodes that have joined: of these a report is expected."""


class Verdict(StrEnum):
    """What comes of the look at one node."""

    WELL = "well"
    """Nothing to do: it is Ready, or its agent or Kubernetes gives a sign of it."""
    FAILING = "failing"
    """It has failed, but not for long enough."""
    ACT = "act"
    """It is re-imaged now."""
    HELD = "held"
    """It has failed for long enough, and something stands against it."""
    BUSY = "busy"
    """Something is under way that ends by itself."""
    LEFT = "left"
    """Not the policy's to judge: never installed, quarantined, or no member yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is known of one node.

    Attributes:
        heard_at: When its agent reported last, UTC seconds.
        failing_s: For how long both sides gave no sign of it, `fleet.policy.evidence`.
        kube_ready: What Kubernetes says; None: it did not answer, or does not know the node.
        obstacle: What forbids to write to it.
        unobserved: The record is a backup's, and it was not heard of since.
        policy_at: When policy ordered its re-image last, UTC seconds.
        policy_end: What became of that, in words.
        refused: Why an order of policy's was refused a moment ago.
    """

    name: str
    role: Role
    state: State
    heard_at: float | None = None
    failing_s: float = 0.0
    kube_ready: bool | None = None
    obstacle: str | None = None
    unobserved: bool = False
    policy_at: float | None = None
    policy_end: str = ""
    refused: Problem | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Everything that the judgement depends on.

    Attributes:
        kube_answers: Kubernetes answered lately.
        members: etcd's, as far as Kubernetes tells; empty where it does not.
        zone: Of windows that name none.
    """

    nodes: tuple[Seen, ...]
    holds: tuple[Hold, ...]
    policy: ReimagePolicy
    zone: str
    now: float
    kube_answers: bool
    members: tuple[Member, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What comes of one node, and every reason.

    Attributes:
        due_in_s: Until it has failed for long enough; None: it has not failed, or has for long enough.
    """

    node: str
    role: Role
    verdict: Verdict
    reasons: tuple[Problem, ...]
    failing_s: float = 0.0
    due_in_s: float | None = None


@dataclass(slots=True)
class _Plan:
    """Holds as they will be when the decisions so far are carried out."""

    holds: list[Hold]
    found: dict[str, Decision] = field(default_factory=dict)


def judge(situation: Situation) -> tuple[Decision, ...]:
    """A decision for every node, in the order of `situation.nodes`.

    Decisions to act fit together: carried out in any order they stay within the budget.
    """
    plan = _Plan(list(situation.holds))
    common = common_problems(situation)
    for seen in sorted(situation.nodes, key=_urgency):
        decision = _judge_one(seen, situation, common, plan.holds)
        plan.found[seen.name] = decision
        if decision.verdict is Verdict.ACT:
            plan.holds.append(_future_hold(seen, situation.now))
    return tuple(plan.found[seen.name] for seen in situation.nodes)


def _urgency(seen: Seen) -> tuple[bool, float, str]:
    """Servers first, because quorum is thinner while one is away; then who has failed for longest."""
    return seen.role is not Role.SERVER, -seen.failing_s, seen.name


def _future_hold(seen: Seen, now: float) -> Hold:
    state = State.REIMAGE_REQUESTED.value
    return Hold(node=seen.name, role=seen.role, number=0, taken_at=now, by="policy", stuck=False, state=state)


def _judge_one(
    seen: Seen, situation: Situation, common: Sequence[Problem], holds: Iterable[Hold]
) -> Decision:
    def decide(verdict: Verdict, *reasons: Problem, due_in_s: float | None = None) -> Decision:
        return Decision(
            node=seen.name,
            role=seen.role,
            verdict=verdict,
            reasons=reasons,
            failing_s=seen.failing_s,
            due_in_s=due_in_s,
        )

    left = _not_judged(seen)
    if left is not None:
        return decide(*left)
    if seen.state is not State.LOST:
        return decide(Verdict.WELL, Problem("heard", "its agent reports"))
    if seen.kube_ready:
        return decide(Verdict.WELL, Problem("kube-ready", "its agent is silent; Kubernetes says it is ready"))
    shared = (*common, *_together_problems(seen, situation.nodes))
    due_in_s = situation.policy.after_s - seen.failing_s
    if due_in_s > 0:
        failing = Problem(
            "failing",
            f"silent and not ready for {span_text(seen.failing_s)}, "
            f"it counts as failed after {span_text(situation.policy.after_s)}",
        )
        return decide(Verdict.FAILING, failing, *shared, due_in_s=due_in_s)
    against = (*shared, *_own_problems(seen, situation), *_guards(seen, situation, holds))
    return decide(Verdict.HELD if against else Verdict.ACT, *against)


def _not_judged(seen: Seen) -> tuple[Verdict, Problem] | None:
    if seen.state in REIMAGING or seen.state.is_active:
        return Verdict.BUSY, Problem("busy", f"it is {seen.state.value}, which ends by itself")
    if seen.state is State.QUARANTINED:
        return Verdict.LEFT, Problem(
            "quarantined",
            "its attempts are used up: a person looks first",
            f"'bramble show {seen.name}' tells what failed, 'bramble approve {seen.name}' lets it try again.",
        )
    if seen.state not in MEMBERS:
        return Verdict.LEFT, Problem("no-member", f"it is {seen.state.value}, no member of the cluster")
    return None


def excused(silent: Mapping[str, float | None], members: int) -> frozenset[str]:
    """Nodes whose silence has a cause outside of them; it does not count, also not once that is over.

    A node that is slow to come back after an outage would be taken for one that failed all the while.

    Args:
        silent: Nodes that are lost, and when each reported last.
        members: How many nodes have joined, the silent ones among them.
    """
    if _is_outage(len(silent), members):
        return frozenset(silent)
    return frozenset(name for name in silent if _silent_with(name, silent))


def _is_outage(silent: int, members: int) -> bool:
    return 2 * silent > members


def _silent_with(name: str, silent: Mapping[str, float | None]) -> list[str]:
    """Who else fell silent at the time that it did, where they are too many for chance."""
    heard_at = silent[name]
    if heard_at is None:
        return []
    others = sorted(
        other
        for other, moment in silent.items()
        if other != name and moment is not None and abs(moment - heard_at) <= TOGETHER_S
    )
    return others if len(others) + 1 >= TOGETHER_COUNT else []


def common_problems(situation: Situation) -> tuple[Problem, ...]:
    """What stands against every node alike: the fault is not a node's."""
    members = [seen for seen in situation.nodes if seen.state in MEMBERS]
    silent = [seen for seen in members if seen.state is State.LOST]
    found = []
    if _is_outage(len(silent), len(members)):
        found.append(
            Problem(
                "isolated",
                f"{len(silent)} of {len(members)} nodes are silent at once: that is a fault of this server's "
                "network, or of all nodes'",
                "Look at this server's cable and switch, and at the site's power; nothing is done meanwhile.",
            )
        )
    if not situation.kube_answers:
        found.append(_no_answer())
    return tuple(found)


def _no_answer() -> Problem:
    return Problem(
        "kube-silent",
        "Kubernetes does not answer, so the agents' silence is all that is known",
        "'bramble show' of a server tells how its k3s fares.",
    )


def _together_problems(seen: Seen, nodes: Iterable[Seen]) -> tuple[Problem, ...]:
    silent = {other.name: other.heard_at for other in nodes if other.state is State.LOST}
    together = _silent_with(seen.name, silent)
    if not together:
        return ()
    return (
        Problem(
            "together",
            f"it fell silent together with {', '.join(together)}: a switch or a power supply rather than a "
            "disk",
            "Look at what they have in common. 'bramble reimage' of one node is yours to order.",
        ),
    )


def _own_problems(seen: Seen, situation: Situation) -> list[Problem]:
    found: list[Problem] = [] if seen.refused is None else [seen.refused]
    if seen.unobserved:
        found.append(
            Problem(
                "restored",
                "the record was restored from a backup, and it was not heard of since",
                "Switch it on, so that it reports or shows its disk.",
            )
        )
    since = None if seen.policy_at is None else situation.now - seen.policy_at
    if since is not None and since < situation.policy.again_after_s:
        found.append(
            Problem(
                "again",
                f"policy ordered its re-image {span_text(since)} ago: {seen.policy_end or 'done'}",
                f"Look at its board, disk and supply; 'bramble reimage {seen.name}' is yours to order.",
            )
        )
    if seen.role is Role.SERVER:
        problem = removal_problem(situation.members, [seen.name])
        if problem is not None:
            found.append(Problem("quorum", problem, "Bring the other servers back first."))
        elif not any(member.name == seen.name for member in situation.members):
            unknown = "it is none of the members that Kubernetes tells of"
            found.append(Problem("quorum", f"whether etcd can do without it cannot be told: {unknown}"))
    return found


def _guards(seen: Seen, situation: Situation, holds: Iterable[Hold]) -> list[Problem]:
    policy = situation.policy
    found = [
        *find_problems(seen.name, seen.role, holds, max_parallel=policy.max_parallel),
        *writing_problems(seen.obstacle),
        *window_problems(policy, situation.zone, situation.now),
    ]
    if not policy.when_failed:
        hint = "Write 'when_failed: true' there, or order it yourself: 'bramble reimage'."
        found.append(Problem("off", "'policy.reimage.when_failed' is false", hint))
    elif policy.dry_run:
        found.append(Problem("dry-run", "'policy.reimage.dry_run' is true"))
    return found


SETTINGS: Final = frozenset({"off", "dry-run"})
"""Reasons that are a wish of the user's, not a state of the world."""


def would_act(decision: Decision) -> bool:
    """Whether nothing but the settings keeps it from being done."""
    return decision.verdict is Verdict.ACT or (
        decision.verdict is Verdict.HELD and all(reason.code in SETTINGS for reason in decision.reasons)
    )


def to_json(decision: Decision) -> Mapping[str, object]:
    """For `--json` and the API."""
    return {
        "node": decision.node,
        "role": decision.role.value,
        "verdict": decision.verdict.value,
        "would_act": would_act(decision),
        "failing_s": round(decision.failing_s, 1),
        "due_in_s": None if decision.due_in_s is None else round(decision.due_in_s, 1),
        "reasons": [
            {"code": reason.code, "text": reason.text, "hint": reason.hint} for reason in decision.reasons
        ],
    }
