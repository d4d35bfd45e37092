"""A maintenance window as people write it: `sat,sun 01:00-05:00 Europe/Madrid`. Pure.

`fleet.spec.window_text` reads one; `fleet.policy.windows` tells when it is open.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
"""In the order of `datetime.weekday`."""
DAILY: Final = "daily"
MINUTES_OF_A_DAY: Final = 24 * 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Times of the week at which Bramble may begin to re-image without being asked.

    Attributes:
        days: Weekdays on which it opens, 0 for Monday.
        start, end: Minutes since midnight of the zone's wall clock; `end` is not in it. An end that is not
            after the start is of the next day.
        zone: IANA name; None: the cluster's time zone.
    """

    days: frozenset[int]
    start: int
    end: int
    zone: str | None

    def __str__(self) -> str:
        times = f"{_time(self.start)}-{_time(self.end)}"
        return " ".join(filter(None, (_days_text(self.days), times, self.zone)))


def _time(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _days_text(days: Iterable[int]) -> str:
    """Shortest of what can be read: runs of three and more as a range."""
    chosen = sorted(days)
    if len(chosen) == len(DAYS):
        return DAILY
    runs: list[list[int]] = []
    for day in chosen:
        if runs and runs[-1][-1] == day - 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    parts = []
    for run in runs:
        if len(run) > 2:
            parts.append(f"{DAYS[run[0]]}-{DAYS[run[-1]]}")
        else:
            parts += [DAYS[day] for day in run]
    return ",".join(parts)
