"""What the policy would do with one node now, as its page says it: an answer, and every reason. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bramble.dashboard.rack import Group
from fleet.policy.judge import Decision, Verdict, would_act
from fleet.policy.words import span_text

_WORDS: Final[Mapping[str, str]] = {
    "busy": "what is under way with it ends by itself",
    "no-member": "it is no member of the cluster",
}
"""In place of reasons that name the state: the page says that above, and in words."""


@dataclass(frozen=True, slots=True)
class ByItself:
    """Whether a node is re-imaged without anybody's word. `reasons`: each with what to do, or ""."""

    tone: str
    answer: str
    reasons: tuple[tuple[str, str], ...]


def by_itself(decision: Decision) -> ByItself:
    """The policy's decision in words."""
    tone, answer = _answer(decision)
    return ByItself(
        tone.value, answer, tuple((_WORDS.get(one.code, one.text), one.hint) for one in decision.reasons)
    )


def _answer(decision: Decision) -> tuple[Group, str]:
    match decision.verdict:
        case Verdict.ACT:
            return Group.ATTENTION, "Yes, now"
        case Verdict.HELD if would_act(decision):
            return Group.ATTENTION, "No, though it would be if the policy allowed it"
        case Verdict.HELD:
            return Group.ATTENTION, f"No, though it has failed ({span_text(decision.failing_s)})"
        case Verdict.FAILING:
            due = "" if decision.due_in_s is None else f" in {span_text(decision.due_in_s)}"
            return Group.WAITING, f"Not yet: it counts as failed{due}"
        case Verdict.WELL:
            return Group.READY, "No: it is well"
        case Verdict.BUSY:
            return Group.WORKING, "No: it is at work"
        case Verdict.LEFT:
            return Group.WAITING, "No: it is left to a person"
