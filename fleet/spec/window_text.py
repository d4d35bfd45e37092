"""The text of a maintenance window → `Window`. Pure."""

from __future__ import annotations

import re
from typing import Any, Final

from fleet.spec.values import ValueFault, expect_text, suggest
from fleet.spec.windows import DAILY, DAYS, MINUTES_OF_A_DAY, Window

_SHAPE: Final = "days, times and a time zone, like 'sat,sun 01:00-05:00 Europe/Madrid'"
_TIMES: Final = re.compile(r"(\d{1,2}):(\d{2})-(\d{1,2}):(\d{2})", re.ASCII)


def parse_window(value: Any) -> Window:
    """A window's text.

    Raises:
        ValueFault: It is none; all parts are looked at in order, the first fault is told.
    """
    text = expect_text(value, _SHAPE)
    words = text.split()
    if not 2 <= len(words) <= 3:
        raise ValueFault(f"{text!r} is not a window, expected {_SHAPE}", "The time zone may be left out.")
    days = _parse_days(words[0])
    start, end = _parse_times(words[1])
    return Window(days=days, start=start, end=end, zone=words[2] if len(words) == 3 else None)


def _parse_days(word: str) -> frozenset[int]:
    if word.casefold() == DAILY:
        return frozenset(range(len(DAYS)))
    found: set[int] = set()
    for part in word.casefold().split(","):
        first, dash, last = part.partition("-")
        start, end = _day(first, word), _day(last, word) if dash else _day(first, word)
        # 'sat-mon' goes over the end of the week.
        found |= {(start + step) % len(DAYS) for step in range((end - start) % len(DAYS) + 1)}
    return frozenset(found)


def _day(name: str, word: str) -> int:
    if name not in DAYS:
        raise ValueFault(
            f"{name!r} in {word!r} is no weekday",
            f"{suggest(name, DAYS)} Write 'daily', 'mon-fri' or 'sat,sun'.",
        )
    return DAYS.index(name)


def _parse_times(word: str) -> tuple[int, int]:
    match = _TIMES.fullmatch(word)
    if match is None:
        raise ValueFault(f"{word!r} is not a span of times like 01:00-05:00")
    from_hour, from_minute, to_hour, to_minute = map(int, match.groups())
    start, end = from_hour * 60 + from_minute, to_hour * 60 + to_minute
    if from_minute > 59 or to_minute > 59 or start >= MINUTES_OF_A_DAY or end > MINUTES_OF_A_DAY:
        raise ValueFault(f"{word!r} has a time that no clock shows", "A day goes from 00:00 to 24:00.")
    if start == end:
        raise ValueFault(f"the span {word!r} is empty", "Write 00:00-24:00 for a whole day.")
    return start, end
