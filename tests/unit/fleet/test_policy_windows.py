"""Maintenance windows: their text, and the moments at which they are open, across changes of the clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.policy.windows import is_open, next_opening
from fleet.spec.values import ValueFault
from fleet.spec.window_text import parse_window
from fleet.spec.windows import DAYS, Window

MADRID = "Europe/Madrid"


def at(text: str) -> float:
    """UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "days", "written"),
    [
        ("sat,sun 01:00-05:00", {5, 6}, "sat,sun 01:00-05:00"),
        ("MON-Fri 1:30-5:00 Europe/Madrid", {0, 1, 2, 3, 4}, "mon-fri 01:30-05:00 Europe/Madrid"),
        ("daily 22:00-04:00", set(range(7)), "daily 22:00-04:00"),
        ("sat-mon 00:00-24:00", {5, 6, 0}, "mon,sat,sun 00:00-24:00"),
        ("sun 01:00-05:00", {6}, "sun 01:00-05:00"),
    ],
)
def test_text_is_read_and_written(text: str, days: set[int], written: str) -> None:
    window = parse_window(text)
    assert window.days == days
    assert str(window) == written
    assert parse_window(written) == window


@given(
    st.frozensets(st.integers(0, 6), min_size=1),
    st.integers(0, 1439),
    st.integers(1, 1440),
    st.sampled_from([None, MADRID, "Etc/UTC"]),
)
def test_what_is_written_reads_back(days: frozenset[int], start: int, end: int, zone: str | None) -> None:
    if start != end:
        window = Window(days=days, start=start, end=end, zone=zone)
        assert parse_window(str(window)) == window


@pytest.mark.parametrize("text", ["", "daily", "daily 1-5", "daily 01:00-05:00 a b", "mon-xxx 01:00-05:00"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueFault):
        parse_window(text)


def test_no_window_is_always_open() -> None:
    assert is_open((), MADRID, at("2026-11-26T12:00"))
    assert next_opening((), MADRID, at("2026-11-26T12:00")) is None


@pytest.mark.parametrize(
    ("text", "moment", "expected"),
    [
        # 2026-11-28 is a Saturday; Madrid is an hour ahead of UTC in winter.
        ("sat 01:00-05:00", "2026-11-28T00:00", True),
        ("sat 01:00-05:00", "2026-11-27T23:59", False),
        ("sat 01:00-05:00", "2026-11-28T03:59:59", True),
        ("sat 01:00-05:00", "2026-11-28T04:00", False),
        ("sat 01:00-05:00 Etc/UTC", "2026-11-28T04:00", True),
        # Over midnight: the night that begins on Friday.
        ("fri 22:00-04:00", "2026-11-28T02:59", True),
        ("fri 22:00-04:00", "2026-11-27T02:59", False),
        ("fri 22:00-04:00", "2026-11-28T21:30", False),
    ],
)
def test_wall_clock_decides(text: str, moment: str, expected: bool) -> None:
    assert is_open((parse_window(text),), MADRID, at(moment)) is expected


def test_hour_that_the_clock_leaves_out_is_in_no_window() -> None:
    """Madrid, 2027-03-28: 01:59:59 CET is followed by 03:00 CEST (01:00 UTC)."""
    inside = parse_window("sun 02:15-02:45")
    across = parse_window("sun 01:30-02:30")
    for minute in range(-120, 180):
        assert not is_open((inside,), MADRID, at("2027-03-28T01:00") + 60 * minute)
    assert is_open((across,), MADRID, at("2027-03-28T00:59:59"))
    assert not is_open((across,), MADRID, at("2027-03-28T01:00"))
    assert next_opening((inside,), MADRID, at("2027-03-27T12:00")) == at("2027-04-04T00:15")


def test_hour_that_the_clock_shows_twice_is_in_its_window_twice() -> None:
    """Madrid, 2026-10-25: 02:59:59 CEST is followed by 02:00 CET (01:00 UTC)."""
    window = parse_window("sun 02:00-02:30")
    assert is_open((window,), MADRID, at("2026-10-25T00:10"))
    assert not is_open((window,), MADRID, at("2026-10-25T00:40"))
    assert is_open((window,), MADRID, at("2026-10-25T01:10"))
    assert next_opening((window,), MADRID, at("2026-10-24T23:00")) == at("2026-10-25T00:00")
    assert next_opening((window,), MADRID, at("2026-10-25T00:40")) == at("2026-10-25T01:00")


def test_window_that_starts_in_the_missing_hour_opens_when_the_clock_jumps_into_it() -> None:
    window = parse_window("sun 02:30-05:00")
    assert next_opening((window,), MADRID, at("2027-03-28T00:00")) == at("2027-03-28T01:00")


ZONES = [MADRID, "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Etc/UTC"]


@given(
    st.sampled_from(ZONES),
    st.integers(int(at("2026-01-01T00:00")) // 60, int(at("2028-01-01T00:00")) // 60),
    st.frozensets(st.integers(0, 6), min_size=1),
    st.integers(0, 95),
    st.integers(1, 96),
)
def test_next_opening_is_the_first_minute_that_is_open(
    zone: str, minute: int, days: frozenset[int], start: int, end: int
) -> None:
    """Against a walk in steps of a quarter of an hour, which is what all clocks of today change by."""
    if start == end:
        return
    window = Window(days=days, start=15 * start, end=15 * end, zone=zone)
    now = float(minute // 15 * 15 * 60)
    found = next_opening((window,), "Etc/UTC", now)
    was_open, expected = is_open((window,), "Etc/UTC", now), None
    for step in range(1, 9 * 96):
        moment = now + step * 900
        opens = is_open((window,), "Etc/UTC", moment)
        if opens and not was_open:
            expected = moment
            break
        was_open = opens
    if expected is not None:
        assert found == expected
    else:  # open all week, or its one night is left out
        assert found is None or found - now >= timedelta(days=8).total_seconds()
    if found is not None:
        wall = datetime.fromtimestamp(found, ZoneInfo(zone))
        assert wall.weekday() in days or (wall - timedelta(days=1)).weekday() in days


def test_days_are_those_of_python() -> None:
    names = [datetime(2026, 11, 23 + offset, tzinfo=UTC).strftime("%a").casefold() for offset in range(7)]
    assert tuple(names) == DAYS
