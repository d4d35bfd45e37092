"""For how long the canary was watched being Ready. Pure.

Counted from look to look, as `fleet.policy.evidence` does and for its reasons: a clock that is set forward,
and hours in which no server looked, prove nothing of the new image. A server that starts counts anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fleet.lifecycle import State
from fleet.policy.evidence import MAX_STEP_S
from fleet.rollout.progress import Sight
from fleet.rollout.record import Rollout, StepState


@dataclass(frozen=True, slots=True)
class Soak:
    """What was seen of the canary up to `seen_at`, the `now` of the last look.

    Attributes:
        rollout: Its number; 0: none.
        since: When the canary became Ready, UTC seconds: another time is another beginning.
    """

    rollout: int = 0
    since: float = 0.0
    watched_s: float = 0.0
    seen_at: float = 0.0


def watch(soak: Soak, rollout: Rollout, sights: Mapping[str, Sight], now: float) -> Soak:
    """Take one look into account."""
    step, sight = rollout.step(rollout.canary), sights.get(rollout.canary)
    if step is None or step.state is not StepState.DONE or sight is None or sight.state is not State.READY:
        return Soak()
    if (soak.rollout, soak.since) != (rollout.number, sight.since):
        return Soak(rollout.number, sight.since, 0.0, now)
    passed = min(max(now - soak.seen_at, 0.0), MAX_STEP_S)
    return replace(soak, watched_s=soak.watched_s + passed, seen_at=now)
