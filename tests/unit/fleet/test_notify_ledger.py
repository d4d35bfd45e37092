"""What is told, to whom, and how often."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.attention import Finding, Urgency
from fleet.notify.ledger import (
    GIVE_UP_S,
    MAX_WAITING,
    QUIET_S,
    SAME_ALARM_S,
    SETTLE_S,
    Alarm,
    Kind,
    Ledger,
    advance,
    delivered,
    from_json,
    take,
    to_json,
)
from fleet.spec.notify_model import Level, WebhookChannel

T = 1_800_000_000.0


def channel(name: str = "hook", level: Level = Level.ALL, *, resolved: bool = True) -> WebhookChannel:
    return WebhookChannel(
        name=name, level=level, resolved=resolved, url="https://x/", url_file=None, secret_file=Path("k")
    )


def lost(name: str = "n", urgency: Urgency = Urgency.NOW) -> Finding:
    return Finding(
        code="lost",
        subject=name,
        urgency=urgency,
        text=f"{name} is lost",
        hint="Look",
        command="bramble show n",
    )


HOOK = channel()


def told(ledger: Ledger, name: str = "hook") -> list[tuple[Kind, str]]:
    return [(notice.kind, notice.subject) for notice in take(ledger, name)]


def after(*steps: tuple[float, list[Finding]], ledger: Ledger | None = None) -> Ledger:
    ledger = ledger or Ledger()
    for at, found in steps:
        ledger = advance(ledger, found, [], [HOOK], T + at)
    return ledger


def test_a_problem_that_lasts_is_told_once() -> None:
    steps = [(at, [lost()]) for at in (0.0, 10.0, SETTLE_S, SETTLE_S + 5, 9000.0)]
    assert told(after(*steps)) == [(Kind.PROBLEM, "n")]


def test_a_problem_that_passes_is_no_news() -> None:
    assert told(after((0, [lost()]), (SETTLE_S - 1, []), (SETTLE_S * 3, []))) == []


def test_what_is_over_is_told_once_it_stays_over() -> None:
    begun = after((0, [lost()]), (SETTLE_S, [lost()]))
    assert told(after((100, []), (100 + SETTLE_S - 1, []), ledger=begun)) == [(Kind.PROBLEM, "n")]
    ended = after((100, []), (100 + SETTLE_S, []), (9000, []), ledger=begun)
    assert told(ended) == [(Kind.PROBLEM, "n"), (Kind.RESOLVED, "n")]
    one, other = take(ended, "hook")
    assert one.key == other.key
    assert one.id != other.id
    assert (other.hint, other.command) == ("", "")


def test_a_problem_that_is_gone_for_a_moment_goes_on() -> None:
    ledger = after(
        (0, [lost()]), (SETTLE_S, [lost()]), (100, []), (110, [lost()]), (100 + SETTLE_S, [lost()])
    )
    assert told(ledger) == [(Kind.PROBLEM, "n")]


def test_one_that_comes_and_goes_is_told_no_more_than_every_quarter_of_an_hour() -> None:
    ledger = Ledger()
    for at in range(0, 3600, 10):
        holds = (at // 100) % 2 == 0
        ledger = advance(ledger, [lost()] if holds else [], [], [HOOK], T + at)
    problems = [notice.at for notice in take(ledger, "hook") if notice.kind is Kind.PROBLEM]
    assert 1 < len(problems) <= 3600 / QUIET_S
    assert all(later - earlier >= QUIET_S for earlier, later in itertools.pairwise(problems))


@pytest.mark.parametrize(
    ("level", "resolved", "expected"),
    [
        (
            Level.ALL,
            True,
            [(Kind.PROBLEM, "a"), (Kind.PROBLEM, "b"), (Kind.RESOLVED, "a"), (Kind.RESOLVED, "b")],
        ),
        (Level.NOW, True, [(Kind.PROBLEM, "a"), (Kind.RESOLVED, "a")]),
        (Level.ALL, False, [(Kind.PROBLEM, "a"), (Kind.PROBLEM, "b")]),
    ],
)
def test_a_channel_gets_what_it_asked_for(
    level: Level, resolved: bool, expected: list[tuple[Kind, str]]
) -> None:
    wanted = [channel("c", level, resolved=resolved)]
    both, ledger = [lost("a"), lost("b", Urgency.SOON)], Ledger()
    for at, found in ((0.0, both), (SETTLE_S, both), (100.0, []), (100 + SETTLE_S, [])):
        ledger = advance(ledger, found, [], wanted, T + at)
    assert sorted(told(ledger, "c")) == sorted(expected)


def test_an_alarm_is_told_at_once_and_to_every_level() -> None:
    alarm = Alarm(id=7, subject="n", text="its disk was copied", hint="Look", at=T)
    ledger = advance(Ledger(), [], [alarm], [channel("c", Level.NOW)], T)
    (notice,) = take(ledger, "c")
    assert (notice.kind, notice.text) == (Kind.ALARM, "n: its disk was copied")


def test_the_same_alarm_is_told_again_only_hours_later() -> None:
    def alarm(number: int, text: str = "copied") -> Alarm:
        return Alarm(id=number, subject="n", text=text, hint="", at=T)

    ledger = advance(Ledger(), [], [alarm(1), alarm(2)], [HOOK], T)
    ledger = advance(ledger, [], [alarm(3), alarm(4, "moved")], [HOOK], T + SAME_ALARM_S - 1)
    ledger = advance(ledger, [], [alarm(5)], [HOOK], T + SAME_ALARM_S)
    assert [notice.text for notice in take(ledger, "hook")] == ["n: copied", "n: moved", "n: copied"]


def test_what_was_delivered_waits_no_more_and_only_for_that_channel() -> None:
    channels = [channel("a"), channel("b")]
    ledger = Ledger()
    for at in (0.0, SETTLE_S):
        ledger = advance(ledger, [lost()], [], channels, T + at)
    ledger = delivered(ledger, "a", take(ledger, "a"))
    assert (told(ledger, "a"), told(ledger, "b")) == ([], [(Kind.PROBLEM, "n")])


def test_yesterday_and_too_much_are_dropped_and_counted() -> None:
    alarms = [Alarm(id=n, subject=f"n{n}", text="x", hint="", at=T) for n in range(MAX_WAITING + 50)]
    ledger = advance(Ledger(), [], alarms, [HOOK], T)
    assert len(take(ledger, "hook")) == MAX_WAITING
    assert take(ledger, "hook")[-1].subject == f"n{MAX_WAITING + 49}"
    assert ledger.dropped == {"hook": 50}
    ledger = advance(ledger, [], [], [HOOK], T + GIVE_UP_S)
    assert take(ledger, "hook") == ()
    assert ledger.dropped == {"hook": MAX_WAITING + 50}


def test_what_waits_for_a_channel_that_is_gone_is_dropped() -> None:
    ledger = after((0, [lost()]), (SETTLE_S, [lost()]))
    assert advance(ledger, [lost()], [], [channel("other")], T + 60).waiting == ()


names = st.sampled_from(["a", "b", "c"])
looks = st.lists(st.tuples(st.floats(1, 600), st.sets(names)), max_size=40)


@given(looks)
def test_problems_and_ends_take_turns_and_survive_the_store(steps: list[tuple[float, set[str]]]) -> None:
    ledger, now = Ledger(), T
    for wait, holding in steps:
        now += wait
        ledger = advance(ledger, [lost(name) for name in sorted(holding)], [], [HOOK], now)
        assert from_json(to_json(ledger)) == ledger
    ids = [notice.id for notice in take(ledger, "hook")]
    assert len(ids) == len(set(ids))
    for name in "abc":
        kinds = [notice.kind for notice in take(ledger, "hook") if notice.subject == name]
        expected = [Kind.PROBLEM, Kind.RESOLVED] * len(kinds)
        assert kinds == expected[: len(kinds)]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", '{"told": 3}', json.dumps({**dataclasses.asdict(Ledger()), "waiting": [{}]})]
)
def test_what_cannot_be_read_is_an_empty_ledger(text: str) -> None:
    assert from_json(text) == Ledger()
