"""Whether a node would be re-imaged without anybody's word, as its page says it."""

from __future__ import annotations

import pytest

from bramble.dashboard.by_itself import by_itself
from fleet.policy.judge import Decision, Verdict
from fleet.reimage.problems import Problem
from fleet.spec.model import Role

OFF = Problem("off", "'policy.reimage.when_failed' is false", "Write it there.")
QUORUM = Problem("quorum", "etcd would stand still")


def decision(verdict: Verdict, *reasons: Problem, due_in_s: float | None = None) -> Decision:
    return Decision(
        node="n", role=Role.AGENT, verdict=verdict, reasons=reasons, failing_s=900.0, due_in_s=due_in_s
    )


@pytest.mark.parametrize(
    ("found", "tone", "answer"),
    [
        (decision(Verdict.WELL), "ready", "No: it is well"),
        (decision(Verdict.ACT), "attention", "Yes, now"),
        (decision(Verdict.HELD, OFF), "attention", "No, though it would be if the policy allowed it"),
        (decision(Verdict.HELD, OFF, QUORUM), "attention", "No, though it has failed (15 min)"),
        (decision(Verdict.FAILING, due_in_s=300.0), "waiting", "Not yet: it counts as failed in 5 min"),
        (decision(Verdict.BUSY), "working", "No: it is at work"),
        (decision(Verdict.LEFT), "waiting", "No: it is left to a person"),
    ],
)
def test_the_answer_comes_first(found: Decision, tone: str, answer: str) -> None:
    shown = by_itself(found)
    assert (shown.tone, shown.answer) == (tone, answer)


def test_every_reason_is_told_with_what_to_do() -> None:
    assert by_itself(decision(Verdict.HELD, OFF, QUORUM)).reasons == (
        (OFF.text, OFF.hint),
        (QUORUM.text, ""),
    )


def test_a_state_is_not_told_by_its_name_in_the_record() -> None:
    busy = Problem("busy", "it is reimage-requested, which ends by itself")
    assert by_itself(decision(Verdict.BUSY, busy)).reasons == (
        ("what is under way with it ends by itself", ""),
    )


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_has_an_answer(verdict: Verdict) -> None:
    assert by_itself(decision(verdict)).answer
