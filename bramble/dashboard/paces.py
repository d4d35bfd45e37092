"""How long a step that tells its percentage takes yet, from how fast it went so far. Pure.

The steps of an installation differ too much to tell of one from another, so what is told is of the present
step alone, and nothing before enough of it was seen.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

SEEN_S: Final = 4.0
SEEN_PERCENT: Final = 2
STALE_S: Final = 60.0
"""Who did not get on for so long stands still: no time is told."""


@dataclass(slots=True)
class _Course:
    step: str
    began: float
    first: int
    last: int
    moved: float


class Paces:
    """What was seen of each node's present step. `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._courses: dict[str, _Course] = {}

    def look(self, name: str, detail: str, percent: int | None, now: float) -> str:
        """Take one look into account; the time left in words, empty where it is not known."""
        if percent is None:
            self._courses.pop(name, None)
            return ""
        step, _, _ = detail.partition(" ")
        course = self._courses.get(name)
        if course is None or course.step != step or percent < course.last:
            self._courses[name] = _Course(step, now, percent, percent, now)
            return ""
        if percent > course.last:
            course.last, course.moved = percent, now
        if now - course.moved > STALE_S:
            return ""
        passed, gained = course.moved - course.began, course.last - course.first
        if passed < SEEN_S or gained < SEEN_PERCENT:
            return ""
        return left_text((100 - course.last) * passed / gained - (now - course.moved))

    def keep(self, names: Collection[str]) -> None:
        """Forget all others."""
        for name in self._courses.keys() - set(names):
            del self._courses[name]


def left_text(seconds: float) -> str:
    """`3 min left`; in whole minutes, so that it does not flicker."""
    if seconds <= 0:
        return ""
    if seconds < 60:
        return "under a minute left"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min left" if minutes < 120 else f"{round(minutes / 60)} h left"
