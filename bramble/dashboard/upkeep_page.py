"""What is done to the whole fleet, or by itself: the rollout, the fleet lock, the policy. Pure values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bramble.dashboard.rack import Card, Group, words_of
from fleet.lifecycle import State
from fleet.lock import Hold
from fleet.policy.words import span_text
from fleet.rollout.record import Phase, StepState

MAX_LINES: Final = 60
_TONES: Final[Mapping[str, str]] = {
    StepState.DONE: Group.READY,
    StepState.RUNNING: Group.WORKING,
    StepState.FAILED: Group.ATTENTION,
    StepState.WAITING: Group.WAITING,
    StepState.SKIPPED: Group.GONE,
}
_STEPS: Final[Mapping[str, str]] = {
    StepState.DONE: "has it",
    StepState.RUNNING: "under way",
    StepState.FAILED: "failed",
    StepState.WAITING: "waits",
    StepState.SKIPPED: "left the cluster",
}
_ORDER: Final = (StepState.FAILED, StepState.RUNNING, StepState.WAITING, StepState.DONE, StepState.SKIPPED)
"""What is shown where not all lines find room: what somebody has to look at first."""
SHOWN_VERDICTS: Final = ("act", "held", "failing")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLine:
    """One node of a rollout. `percent`: of what its board does now; None where nothing is measured."""

    node: str
    role: str
    tone: str
    step: str
    doing: str
    percent: int | None
    took: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutShown:
    """The last rollout, open or ended.

    Attributes:
        counts: How many nodes have it, are under way, and so on, in words.
        left: How long it takes yet, in words; empty where nobody can say.
        hidden: Nodes for which there is no line.
    """

    number: int
    image: str
    k3s: str
    phase: Phase
    tone: str
    title: str
    reason: str
    by: str
    requested_at: float
    closed_at: float | None
    order: str
    done: int
    total: int
    counts: str
    left: str
    lines: tuple[StepLine, ...]
    hidden: int


@dataclass(frozen=True, slots=True)
class Head:
    """The page in one line. `tone` is a group's name."""

    tone: str
    text: str
    more: str


def rollout_shown(
    view: Mapping[str, Any] | None, cards: Mapping[str, Card], now: float
) -> RolloutShown | None:
    """What the rollouts' desk tells, with what each board does now.

    Args:
        view: Of `RolloutDesk.view`; None: there was none yet.
        cards: By node.
    """
    if view is None:
        return None
    phase, steps = Phase(view["phase"]), view["steps"]
    lines = [_line(step, cards.get(step["node"]), now) for step in steps]
    shown = lines if len(lines) <= MAX_LINES else _most_wanted(lines, steps)
    count = Counter(step["state"] for step in steps)
    left = view["time_left_s"]
    return RolloutShown(
        number=view["number"],
        image=view["image"][:12],
        k3s=view["k3s_version"],
        phase=phase,
        tone=_tone(phase).value,
        title=_title(view, phase),
        reason=view["reason"],
        by=view["by"],
        requested_at=view["requested_at"],
        closed_at=view["closed_at"],
        order=view["order"],
        done=view["done"],
        total=view["total"],
        counts=_counts(count),
        left=f"about {span_text(left)} left" if left is not None else "",
        lines=tuple(shown),
        hidden=len(lines) - len(shown),
    )


_COUNTED: Final = (
    (StepState.DONE, "has it", "have it"),
    (StepState.RUNNING, "under way", "under way"),
    (StepState.WAITING, "waits", "wait"),
    (StepState.FAILED, "failed", "failed"),
    (StepState.SKIPPED, "left the cluster", "left the cluster"),
)


def _counts(count: Mapping[str, int]) -> str:
    found = ((count[state], one, many) for state, one, many in _COUNTED)
    return ", ".join(f"{number} {one if number == 1 else many}" for number, one, many in found if number)


def _tone(phase: Phase) -> Group:
    match phase:
        case Phase.RUNNING:
            return Group.WORKING
        case Phase.STOPPED | Phase.PAUSED:
            return Group.ATTENTION
        case Phase.DONE:
            return Group.READY
        case Phase.ABORTED:
            return Group.GONE


def _title(view: Mapping[str, Any], phase: Phase) -> str:
    number, share = view["number"], f"{view['done']} of {view['total']} nodes have it"
    match phase:
        case Phase.RUNNING:
            return f"Rollout {number}: {share}"
        case Phase.STOPPED:
            return f"Rollout {number} has stopped: {share}"
        case Phase.PAUSED:
            return f"Rollout {number} is paused: {share}"
        case Phase.DONE:
            return f"Rollout {number} is done"
        case Phase.ABORTED:
            return f"Rollout {number} was aborted: {share}"


def _line(step: Mapping[str, Any], card: Card | None, now: float) -> StepLine:
    is_running = step["state"] == StepState.RUNNING
    began = step["began"]
    detail = ""
    if card is not None and card.detail:
        detail = f": {', '.join(filter(None, (card.detail, card.left)))}"
    return StepLine(
        node=step["node"],
        role=step["role"],
        tone=_TONES[step["state"]],
        step=_STEPS[step["state"]],
        doing=f"{card.words}{detail}" if card is not None else "gone",
        percent=card.percent if card is not None and is_running else None,
        took=span_text((step["ended"] or now) - began) if began is not None else "",
        note=step["reason"] or ("goes first and is watched" if step["canary"] else ""),
    )


def _most_wanted(lines: Sequence[StepLine], steps: Sequence[Mapping[str, Any]]) -> list[StepLine]:
    """As many as find room, in the order of the rollout."""
    rank = {state: place for place, state in enumerate(_ORDER)}
    places = sorted(range(len(lines)), key=lambda place: (rank[steps[place]["state"]], place))
    return [lines[place] for place in sorted(places[:MAX_LINES])]


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldLine:
    """A node that holds a place of the fleet lock."""

    node: str
    role: str
    number: int
    by: str
    taken_at: float
    doing: str
    is_stuck: bool


def hold_line(hold: Hold) -> HoldLine:
    return HoldLine(
        node=hold.node,
        role=hold.role.value,
        number=hold.number,
        by=hold.by,
        taken_at=hold.taken_at,
        doing=words_of(State(hold.state)),
        is_stuck=hold.stuck,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A node that has failed, or is about to have: what policy does about it, and every reason."""

    node: str
    role: str
    tone: str
    word: str
    reasons: tuple[tuple[str, str], ...]


def judged(view: Mapping[str, Any]) -> list[Judged]:
    """Of the policy's decisions those of which there is something to say, the most urgent first."""
    found = [one for one in view["decisions"] if one["verdict"] in SHOWN_VERDICTS]
    found.sort(key=lambda one: (SHOWN_VERDICTS.index(one["verdict"]), one["node"]))
    return [
        Judged(
            node=one["node"],
            role=one["role"],
            tone=(Group.WAITING if one["verdict"] == "failing" else Group.ATTENTION).value,
            word=_word(one),
            reasons=tuple((reason["text"], reason["hint"]) for reason in one["reasons"]),
        )
        for one in found
    ]


def _word(decision: Mapping[str, Any]) -> str:
    if decision["verdict"] == "act":
        return "is re-imaged now"
    if decision["verdict"] == "failing":
        due = decision["due_in_s"]
        return f"counts as failed in {span_text(due)}" if due is not None else "is failing"
    return "would be re-imaged" if decision["would_act"] else "has failed, and is left alone"


def head_of(rollout: RolloutShown | None, holds: Sequence[HoldLine], failed: Sequence[Judged]) -> Head:
    """What to say above all: what needs a person first."""
    if rollout is not None and rollout.phase in (Phase.STOPPED, Phase.PAUSED):
        return Head(rollout.tone, rollout.title, rollout.reason)
    stuck = [hold.node for hold in holds if hold.is_stuck]
    if stuck:
        who = f"{stuck[0]} keeps" if len(stuck) == 1 else f"{len(stuck)} nodes keep"
        return Head(
            Group.ATTENTION.value,
            f"{who} others back",
            "A re-image came to nothing and holds the fleet lock.",
        )
    if rollout is not None and rollout.phase is Phase.RUNNING:
        return Head(rollout.tone, rollout.title, "; ".join(filter(None, (rollout.left, rollout.reason))))
    if failed:
        who = f"{failed[0].node} {failed[0].word}" if len(failed) == 1 else f"{len(failed)} nodes have failed"
        return Head(failed[0].tone, who, "Below is what Bramble does about it by itself.")
    if holds:
        return Head(
            Group.WORKING.value, f"{len(holds)} re-imaged now", ", ".join(one.node for one in holds[:5])
        )
    return Head(Group.READY.value, "Nothing is under way", "No node is re-imaged, and none has failed.")
