"""Which release of the agent is started: trials end one way or the other, the damaged is never run."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.plan import Observed, Update, plan
from agent.protocol import Desired, K3sState
from agent.releases import MAX_STARTS, Outcome, Start, Trial, decide, find_objection, parse_version

OLD, NEW = "0" * 64, "1" * 64
TRIAL = Trial(7, NEW, "0.2.0", OLD)


def intact(*releases: str) -> set[str]:
    return set(releases)


def test_without_a_link_the_agent_of_the_image_runs() -> None:
    assert decide(None, None, intact().__contains__) == Start(None)
    assert decide(None, TRIAL, intact(NEW).__contains__) == Start(None)


def test_proven_release_runs() -> None:
    assert decide(OLD, None, intact(OLD).__contains__) == Start(OLD)


def test_release_on_trial_is_given_up_after_three_starts() -> None:
    trial: Trial | None = TRIAL
    for number in range(MAX_STARTS):
        start = decide(NEW, trial, intact(OLD, NEW).__contains__)
        assert start == Start(NEW, dataclasses.replace(TRIAL, starts=number + 1))
        trial = start.trial
    start = decide(NEW, trial, intact(OLD, NEW).__contains__)
    assert (start.release, start.trial) == (OLD, None)
    assert start.outcome is not None
    assert not start.outcome.confirmed
    assert "ended 3 times" in start.outcome.reason


@pytest.mark.parametrize(
    ("trial", "files", "release", "reason"),
    [
        (dataclasses.replace(TRIAL, expired=True), intact(OLD, NEW), OLD, "not heard"),
        (TRIAL, intact(OLD), OLD, "damaged"),
        (dataclasses.replace(TRIAL, expired=True), intact(NEW), None, "not heard"),
        (dataclasses.replace(TRIAL, previous=None, expired=True), intact(NEW), None, "not heard"),
    ],
    ids=["time-is-over", "new-is-damaged", "old-is-damaged", "first-update"],
)
def test_going_back(trial: Trial, files: set[str], release: str | None, reason: str) -> None:
    start = decide(NEW, trial, files.__contains__)
    assert start.release == release
    assert start.outcome is not None
    assert reason in start.outcome.reason
    assert start.outcome.number == 7


def test_trial_that_was_not_switched_to_counts_for_nothing() -> None:
    assert decide(OLD, TRIAL, intact(OLD, NEW).__contains__) == Start(OLD)


def test_damaged_proven_release_is_not_run() -> None:
    start = decide(OLD, None, intact().__contains__)
    assert start.release is None
    assert start.outcome == Outcome(0, OLD[:12], False, "its file is damaged")


TRIALS = st.none() | st.builds(
    Trial,
    number=st.integers(1, 9),
    sha256=st.sampled_from([OLD, NEW]),
    version=st.just("0.2.0"),
    previous=st.sampled_from([None, OLD, NEW]),
    starts=st.integers(0, 5),
    expired=st.booleans(),
)


@given(st.sampled_from([None, OLD, NEW]), TRIALS, st.frozensets(st.sampled_from([OLD, NEW])))
def test_whatever_is_on_the_disk_only_an_intact_release_is_started(
    current: str | None, trial: Trial | None, files: frozenset[str]
) -> None:
    start = decide(current, trial, files.__contains__)
    assert start.release is None or start.release in files
    assert start.trial is None or start.trial.starts <= MAX_STARTS
    assert start.trial is None or start.outcome is None


@given(st.sampled_from([OLD, NEW]), TRIALS, st.frozensets(st.sampled_from([OLD, NEW])))
def test_starts_without_being_heard_come_to_rest(
    current: str, trial: Trial | None, files: frozenset[str]
) -> None:
    """Each start's decision becomes the next one's input: within a few the same release runs for ever."""
    link: str | None = current
    seen = []
    for _ in range(4 * MAX_STARTS):
        start = decide(link, trial, files.__contains__)
        link, trial = start.release, start.trial
        seen.append(link)
    assert trial is None
    assert len(set(seen[-MAX_STARTS:])) == 1


@pytest.mark.parametrize(
    ("running", "offered", "allowed", "objects"),
    [
        ("0.1.0", "0.1.1", False, False),
        ("0.1.0", "0.1.0", False, False),
        ("0.9.0", "0.10.0", False, False),
        ("0.2.0", "0.1.9", False, True),
        ("0.2.0", "0.1.9", True, False),
        ("0.2.0", "latest", True, True),
        ("unknown", "0.1.0", False, False),
    ],
)
def test_downgrades_need_an_order(running: str, offered: str, allowed: bool, objects: bool) -> None:
    found = find_objection(running=running, offered=offered, allow_downgrade=allowed)
    assert (found is not None) is objects


def test_versions() -> None:
    assert parse_version("1.20.3") == (1, 20, 3)
    assert parse_version("1.20.3-rc1+x") == (1, 20, 3)
    assert [parse_version(text) for text in ("", "1.2", "1.2.3.4", "v1.2.3", "1.2.3\n")] == [None] * 5


def test_update_is_carried_out_once_and_last() -> None:
    seen = Observed(
        enrolled=True,
        k3s=K3sState.RUNNING,
        desired=Desired(3, join=False),
        newest_generation=4,
        newest_update=2,
        done_update=1,
    )
    assert plan(seen) == (Update(2),)
    assert Update(2) not in plan(dataclasses.replace(seen, done_update=2))
    assert Update(2) not in plan(dataclasses.replace(seen, newest_update=0))
