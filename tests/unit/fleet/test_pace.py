"""How often nodes report: a fleet's reports together, and everything that relies on the interval."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.service import MAX_INTERVAL_S as AGENT_MAX_INTERVAL_S
from fleet.api.silence import SILENCE_S
from fleet.errands import ANSWER_TIMEOUT_S, EXPIRES_S
from fleet.health.conditions import BAD_SAMPLES, LATELY_S
from fleet.health.pace import (
    JOINING_INTERVAL_S,
    MAX_INTERVAL_S,
    REPORTS_PER_S,
    STEADY_INTERVAL_S,
    pace_of,
)
from fleet.spec.validate.policy import MIN_AFTER_S

LARGEST = 15_000
"""Nodes whose reports keep to the rate; ten thousand are what a server is meant for."""


@pytest.mark.parametrize(
    ("installed", "steady_s", "queue_s", "silence_s"),
    [
        (0, 10, 3, 35),
        (750, 10, 3, 35),
        (2_500, 10, 10, 35),
        (5_000, 20, 20, 65),
        (10_000, 40, 40, 125),
        (1_000_000, 60, 60, 185),
    ],
)
def test_larger_fleets_report_less_often(
    installed: int, steady_s: float, queue_s: float, silence_s: float
) -> None:
    pace = pace_of(installed)
    assert (pace.steady_s, pace.queue_s, pace.silence_s) == (steady_s, queue_s, silence_s)


@given(st.integers(0, LARGEST))
def test_a_fleet_s_reports_together_keep_to_the_rate(installed: int) -> None:
    pace = pace_of(installed)
    assert installed / pace.steady_s <= REPORTS_PER_S * (1 + 1e-9)
    assert installed / pace.queue_s <= REPORTS_PER_S * (1 + 1e-9)


@given(st.integers(0, LARGEST), st.floats(0.34, 1.0))
def test_a_node_that_was_told_before_the_fleet_shrank_is_not_taken_for_silent(
    installed: int, left: float
) -> None:
    assert pace_of(int(installed * left)).silence_s > pace_of(installed).steady_s


def test_what_relies_on_the_interval_bears_the_longest_one() -> None:
    longest = pace_of(1_000_000)
    assert longest.steady_s == MAX_INTERVAL_S > STEADY_INTERVAL_S > JOINING_INTERVAL_S
    assert longest.steady_s <= AGENT_MAX_INTERVAL_S, "an agent would shorten it"
    assert longest.steady_s < SILENCE_S, "a kept connection would be closed between two reports"
    assert longest.steady_s * BAD_SAMPLES < LATELY_S, "a counter that grew would never be heard thrice"
    assert longest.silence_s < MIN_AFTER_S, "a node would be re-imaged as soon as it is lost"
    assert longest.steady_s < ANSWER_TIMEOUT_S < EXPIRES_S, "nobody would wait for a node's log lines"
