"""What a re-image took, from the order's row and the node's timeline."""

from __future__ import annotations

import pytest

from benchmarks.cases.reimage import table_of
from benchmarks.reimaging import Reimage, seconds_in_states, seconds_in_steps

ORDER = {
    "requested_at": 100.0,
    "closed_at": 200.0,
    "steps": {"imaging": 130.0, "preflight": 100.0, "joining": 190.0, "draining": 101.0},
}


def event(at: float, step: str | None, kind: str = "install") -> dict[str, object]:
    return {"at": at, "kind": kind, "detail": {} if step is None else {"step": step}}


def test_a_state_lasts_until_the_next_one_is_entered_and_the_last_one_to_the_end() -> None:
    found = seconds_in_states(ORDER)
    assert list(found) == ["preflight", "draining", "imaging", "joining"]
    assert list(found.values()) == [1.0, 29.0, 60.0, 10.0]


def test_what_is_no_part_is_overhead() -> None:
    done = Reimage(
        states=seconds_in_states(ORDER), steps={"write": 40.0}, total_s=100.0, gap_s=0.5, asked=9, by_server=9
    )
    assert done.parts_s == 99.0
    assert done.overhead == pytest.approx(1 / 99)
    assert [name for name, _seconds in done.rows()] == [
        "(preflight)",
        "drain",
        "transfer, write and verify",
        "– of it write",
        "join",
    ]
    assert "1.0% above the sum of its parts" in done.lines()[-2]
    table = table_of(done)
    assert [row.samples for row in table.rows[:3]] == [(100.0,), (99.0,), (1.0,)]
    assert "overhead 1.0%, the limit is 15%" in table.rows[1].note


def test_steps_of_an_earlier_installation_and_lines_of_others_do_not_count() -> None:
    events = [
        event(40.0, "write"),
        event(50.0, None),
        event(131.0, None),  # the plan is given
        event(132.0, "find-disk"),
        event(135.0, "write"),
        event(150.0, None, kind="health"),
        event(160.0, "verify"),
        event(165.0, None),  # all is written
    ]
    assert seconds_in_steps(events, since=100.0) == {"find-disk": 3.0, "write": 25.0, "verify": 5.0}
