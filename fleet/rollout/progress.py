"""What comes next in a rollout. Pure: the rollout, what is seen of its nodes, and the time.

The canary goes alone and must have been Ready for the soak time; then the roles go in their order, servers
one by one, agents up to the batch. The first node that fails stops it, and so does one that fails afterwards
on the new image. Nothing is skipped in silence: a node that is not Ready when its turn comes is waited for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from fleet.lifecycle import REIMAGING, State
from fleet.policy.words import span_text
from fleet.reimage.kinds import Outcome
from fleet.rollout.record import Phase, Rollout, Step, StepState
from fleet.spec.model import Role

UNWELL_S: Final = 300.0
"""A node on the new image may be degraded for so long: its pods start, a probe hiccups."""
_STUCK: Final = frozenset(state for state in State if state.value.startswith("failed-")) | {State.QUARANTINED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What is seen of a node now.

    Attributes:
        since: When it entered its state, UTC seconds.
        order: Number of its newest re-image; None: it never had one.
        ordered_by: Who ordered that.
        outcome: How it ended; None: it is open, or there is none.
        reason: In words.
    """

    state: State
    since: float
    image_id: str | None
    order: int | None = None
    ordered_by: str = ""
    outcome: Outcome | None = None
    is_open: bool = False
    reason: str = ""


def observe(rollout: Rollout, sights: Mapping[str, Sight], now: float) -> Rollout:
    """Take what is seen into account: steps end, and the rollout with them.

    Args:
        sights: Every declared node; one that is not among them left the cluster.
    """
    steps = tuple(_observe_step(rollout, step, sights.get(step.node), now) for step in rollout.steps)
    rollout = replace(rollout, steps=steps)
    if rollout.phase is not Phase.RUNNING:
        return rollout
    failure = _failure(rollout, sights, now)
    if failure:
        return replace(rollout, phase=Phase.STOPPED, reason=failure)
    if all(step.state in (StepState.DONE, StepState.SKIPPED) for step in steps):
        done = sum(step.state is StepState.DONE for step in steps)
        text = f"{done} of {len(steps)} nodes hold the image"
        return replace(rollout, phase=Phase.DONE, reason=text, closed_at=now)
    return rollout


def _observe_step(rollout: Rollout, step: Step, sight: Sight | None, now: float) -> Step:
    if step.state in (StepState.DONE, StepState.SKIPPED):
        return step
    if sight is None or sight.state is State.DECOMMISSIONED:
        return replace(step, state=StepState.SKIPPED, ended=now, reason="it left the cluster")
    has_image = sight.image_id == rollout.image_id and sight.state is State.READY and not sight.is_open
    if has_image:
        # Also where somebody else's re-image, or a failed step's second try, brought it.
        return replace(step, state=StepState.DONE, ended=now, reason="")
    ours = sight.ordered_by == rollout.orders_by and sight.order is not None
    if ours and sight.is_open and step.state is not StepState.FAILED:
        if sight.state in _STUCK:
            why = f"its re-image {sight.order} came to nothing ({sight.state})"
            return replace(step, state=StepState.FAILED, number=sight.order, ended=now, reason=why)
        # Adopts an order that was written before the step was: the server ended in between.
        began = step.began if step.began is not None else now
        return replace(step, state=StepState.RUNNING, number=sight.order, began=began, reason="")
    if step.state is StepState.RUNNING:
        return replace(step, state=StepState.FAILED, ended=now, reason=_why_failed(sight))
    return step


def _why_failed(sight: Sight) -> str:
    if sight.outcome is Outcome.DONE:
        return f"it is '{sight.state}' after its re-image"
    return sight.reason or f"its re-image ended: {sight.outcome or 'it is gone'}"


def _failure(rollout: Rollout, sights: Mapping[str, Sight], now: float) -> str:
    """Why the rollout must stop; empty where it need not."""
    for step in rollout.steps:
        if step.state is StepState.FAILED:
            return f"{step.node} failed: {step.reason}"
        sight = sights.get(step.node)
        if step.state is not StepState.DONE or sight is None or sight.state in REIMAGING:
            continue
        lost = sight.state is State.LOST or sight.state in _STUCK
        if lost or (sight.state is State.DEGRADED and now - sight.since > UNWELL_S):
            return f"{step.node}, which has the new image, is '{sight.state}'"
    return ""


@dataclass(frozen=True, slots=True)
class Next:
    """Nodes that may be ordered now, and where there are none: what is waited for."""

    nodes: tuple[str, ...]
    waits_for: str = ""


def next_nodes(rollout: Rollout, sights: Mapping[str, Sight], watched_s: float) -> Next:
    """What may be ordered now. Guards (lock, windows, health, drains) are asked by whoever orders it.

    Args:
        watched_s: For how long the canary was seen to be Ready, `fleet.rollout.soak`.
    """
    if rollout.phase is not Phase.RUNNING:
        return Next((), rollout.reason)
    running = [step for step in rollout.steps if step.state is StepState.RUNNING]
    left = soak_left_s(rollout, sights, watched_s)
    if left is not None:
        if left == float("inf"):
            return Next((), f"{rollout.canary}, the canary, has to be Ready")
        return Next((), f"{rollout.canary}, the canary, is watched for another {span_text(left)}")
    waiting = [step for step in rollout.steps if step.state is StepState.WAITING]
    canary = rollout.step(rollout.canary)
    if canary is not None and canary.state is StepState.WAITING:
        waiting = [canary]
    elif canary is not None and canary.state is StepState.RUNNING:
        waiting = []
    if not waiting:
        return Next((), ", ".join(f"{step.node} is under way" for step in running))
    role = waiting[0].role
    others = [step.node for step in running if step.role is not role]
    if others:
        return Next((), f"{', '.join(others)} is under way, and {role}s go after that")
    room = _room(rollout, role, waiting[0]) - len(running)
    if room <= 0:
        return Next((), ", ".join(f"{step.node} is under way" for step in running))
    group = [step.node for step in waiting if step.role is role]
    able = [name for name in group if sights[name].state is State.READY and not sights[name].is_open]
    if not able and not running:
        texts = ", ".join(f"{name} is '{sights[name].state}'" for name in group)
        return Next((), f"{texts}: mend it, decommission it, or abort")
    return Next(tuple(able[:room]), ", ".join(f"{step.node} is under way" for step in running))


def _room(rollout: Rollout, role: Role, first: Step) -> int:
    alone = role is Role.SERVER or first.node == rollout.canary
    return 1 if alone else rollout.max_parallel


def soak_left_s(rollout: Rollout, sights: Mapping[str, Sight], watched_s: float) -> float | None:
    """How long the canary is watched yet: infinite while it is not Ready; None: that is over, or it has not
    gone yet."""
    step = rollout.step(rollout.canary)
    if step is None or step.state is not StepState.DONE:
        return None
    others = [other for other in rollout.steps if other.node != step.node]
    if any(other.began is not None for other in others):
        return None
    sight = sights.get(step.node)
    if sight is None:
        return None
    if sight.state is not State.READY:
        return float("inf")
    left = rollout.soak_s - watched_s
    return left if left > 0 else None


def time_left_s(rollout: Rollout, sights: Mapping[str, Sight], now: float, watched_s: float) -> float | None:
    """How long it will take yet, from the nodes that are done; None before one is, or where it has ended."""
    spans: dict[Role, list[float]] = {Role.SERVER: [], Role.AGENT: []}
    for step in rollout.steps:
        if step.state is StepState.DONE and step.began is not None and step.ended is not None:
            spans[step.role].append(step.ended - step.began)
    measured = [span for role in spans.values() for span in role]
    if not measured or not rollout.phase.is_open:
        return None
    soak = soak_left_s(rollout, sights, watched_s) or 0.0
    left = soak if soak != float("inf") else rollout.soak_s
    for role, known in spans.items():
        mean = sum(known or measured) / len(known or measured)
        at_once = 1 if role is Role.SERVER else rollout.max_parallel
        waiting = sum(step.role is role and step.state is StepState.WAITING for step in rollout.steps)
        begun = [
            step.began
            for step in rollout.steps
            if step.role is role and step.state is StepState.RUNNING and step.began is not None
        ]
        left += mean * -(-waiting // at_once)
        left += max((max(mean - (now - moment), 0.0) for moment in begun), default=0.0)
    return left


def resume(rollout: Rollout, now: float) -> Rollout:
    """Go on where it was paused or stopped: what failed gets another turn."""
    steps = tuple(
        replace(step, state=StepState.WAITING, number=None, began=None, ended=None, reason="")
        if step.state is StepState.FAILED
        else step
        for step in rollout.steps
    )
    return replace(rollout, phase=Phase.RUNNING, reason="", steps=steps)
