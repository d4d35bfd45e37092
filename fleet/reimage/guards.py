"""What keeps any node from being re-imaged now, whoever asks: the fleet lock and budget, the node's own
health, the maintenance windows. Pure.

A person who orders a re-image stands beside it, so windows do not bind people; a brown-out binds everybody.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fleet.lock import Hold, find_problems
from fleet.policy.windows import is_open, next_opening
from fleet.reimage.problems import Problem
from fleet.spec.model import ClusterSpec, ReimagePolicy, Role

POLICY: Final = "policy"
ROLLOUT: Final = "rollout"
"""Who orders a re-image, where it is no person."""


def problems(
    *,
    name: str,
    role: Role,
    by: str,
    obstacle: str | None,
    holds: Iterable[Hold],
    spec: ClusterSpec,
    now: float,
) -> tuple[Problem, ...]:
    """Everything that stands against it now.

    Args:
        by: Who orders it: a person, `policy`, or `rollout`.
        obstacle: What forbids to write to the node, as `fleet.health.desk.find_write_obstacle` tells it.
    """
    policy = spec.policy.reimage
    found = [*find_problems(name, role, holds, max_parallel=policy.max_parallel), *writing_problems(obstacle)]
    if is_unattended(by):
        found += window_problems(policy, spec.image.timezone, now)
    return tuple(found)


def is_unattended(by: str) -> bool:
    """Whether nobody may be looking on: then maintenance windows count."""
    return by in (POLICY, ROLLOUT) or by.startswith(f"{ROLLOUT} ")


def writing_problems(obstacle: str | None) -> tuple[Problem, ...]:
    """Whether an image may be written to the node."""
    if obstacle is None:
        return ()
    return (
        Problem(
            "health",
            f"no image may be written to it now: {obstacle}",
            "Mend that first: a write under brown-out, or to a failing disk, ends in a board that is dead.",
        ),
    )


def window_problems(policy: ReimagePolicy, default_zone: str, now: float) -> tuple[Problem, ...]:
    """Whether something may begin that nobody looks on at."""
    try:
        if is_open(policy.windows, default_zone, now):
            return ()
        opening = next_opening(policy.windows, default_zone, now)
    except ZoneInfoNotFoundError as error:
        # It was there when cluster.yaml was checked. Closed is the safe side.
        return (
            Problem(
                "window",
                f"whether a maintenance window is open cannot be told: this machine knows no {error.args[0]}",
                "Install package 'tzdata'.",
            ),
        )
    when = "none opens within two weeks"
    if opening is not None:
        wall = datetime.fromtimestamp(opening, UTC).astimezone(ZoneInfo(default_zone))
        when = f"the next one opens {wall:%a %Y-%m-%d %H:%M %Z}"
    return (
        Problem(
            "window",
            f"no maintenance window is open ('policy.reimage.windows'), {when}",
            "Wait for it, or order the node's re-image yourself.",
        ),
    )
