"""When a maintenance window is open. Pure; the time zone database is the machine's, through `zoneinfo`.

A window is open whenever the wall clock of its zone shows a time that lies in it. So nothing has to be
decided where clocks change: an hour that a clock leaves out is in no window, and one that it shows twice is
in it twice. `next_opening` finds the moment by the clock's own changes.

A window limits when something begins. What has begun goes on to its end: a node half-way is worse off than
one that is busy a quarter of an hour after five.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from fleet.spec.windows import MINUTES_OF_A_DAY, Window

_LOOK_AHEAD_DAYS: Final = 15
"""A weekly window whose one night is left out by the clocks opens again a week later."""
_HOUR_S: Final = 3600.0


def is_open(windows: Sequence[Window], default_zone: str, now: float) -> bool:
    """Whether something may begin now. No window at all means at any time.

    Args:
        now: UTC seconds since 1970.

    Raises:
        zoneinfo.ZoneInfoNotFoundError: The machine does not know a zone; 'bramble check' would have said so.
    """
    return not windows or any(_is_in(window, _wall_clock(window, default_zone, now)) for window in windows)


def next_opening(windows: Iterable[Window], default_zone: str, now: float) -> float | None:
    """When the first window that is closed now opens, UTC seconds; None: none does within two weeks."""
    found = [
        moment for window in windows for moment in [_opening(window, default_zone, now)] if moment is not None
    ]
    return min(found, default=None)


def _opening(window: Window, default_zone: str, now: float) -> float | None:
    candidates = sorted(moment for moment in _edges(window, default_zone, now) if moment > now)
    was_open = _is_in(window, _wall_clock(window, default_zone, now))
    for moment in candidates:
        opens = _is_in(window, _wall_clock(window, default_zone, moment))
        if opens and not was_open:
            return moment
        was_open = opens
    return None


def _edges(window: Window, default_zone: str, now: float) -> Iterator[float]:
    """Every moment at which the window may open or close: its own times, and the changes of the clock."""
    zone = _zone(window, default_zone)
    midnight = datetime.fromtimestamp(now, zone).replace(
        hour=0, minute=0, second=0, microsecond=0, tzinfo=None
    )
    for day in range(-1, _LOOK_AHEAD_DAYS):
        for minutes in (window.start, window.end):
            wall = midnight + timedelta(days=day, minutes=minutes)
            for fold in (0, 1):
                yield wall.replace(tzinfo=zone, fold=fold).timestamp()
    hours = _LOOK_AHEAD_DAYS * 24
    for hour in range(hours):
        begin, end = now + hour * _HOUR_S, now + (hour + 1) * _HOUR_S
        if _offset(zone, begin) != _offset(zone, end):
            yield _change_between(zone, begin, end)


def _change_between(zone: ZoneInfo, begin: float, end: float) -> float:
    """The first whole second at which the zone's offset is another than at `begin`."""
    before, low, high = _offset(zone, begin), int(begin), int(end) + 1
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(zone, middle) == before:
            low = middle
        else:
            high = middle
    return float(high)


def _offset(zone: ZoneInfo, moment: float) -> timedelta | None:
    return datetime.fromtimestamp(moment, UTC).astimezone(zone).utcoffset()


def _wall_clock(window: Window, default_zone: str, now: float) -> datetime:
    return datetime.fromtimestamp(now, _zone(window, default_zone))


def _zone(window: Window, default_zone: str) -> ZoneInfo:
    return ZoneInfo(window.zone or default_zone)


def _is_in(window: Window, wall: datetime) -> bool:
    minutes, today = wall.hour * 60 + wall.minute, wall.weekday()
    if window.end > window.start:
        return today in window.days and window.start <= minutes < window.end
    yesterday = (today - 1) % 7
    began_today = today in window.days and window.start <= minutes < MINUTES_OF_A_DAY
    return began_today or (yesterday in window.days and minutes < window.end)
