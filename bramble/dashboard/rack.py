"""The rack at a glance: each node as a card in one of five groups. Pure.

A card's words and its group follow from the node's state here and nowhere else; the page shows them, and the
stream sends them again when they differ.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

from bramble.dashboard.alerts import ClusterGlance
from fleet.attention import MEMBERS, NEEDS_A_PERSON
from fleet.boards import BoardError, BoardModel
from fleet.health.conditions import TRAITS
from fleet.health.desk import Held
from fleet.lifecycle import FAILED_TWIN, State
from fleet.quorum import quorum_of
from fleet.spec.model import Role
from fleet.store.glance import NodeGlance

DENSE: Final = 120
"""From so many nodes on cards say only what differs between them."""
_PARTS: Final = re.compile(r"(\D*)(\d*)")
_PERCENT: Final = re.compile(r"\b(\d{1,3}) ?%")


class Group(StrEnum):
    """Where a card stands; in the order of the page."""

    ATTENTION = "attention"
    WORKING = "working"
    READY = "ready"
    WAITING = "waiting"
    GONE = "gone"

    @property
    def heading(self) -> str:
        return {
            Group.ATTENTION: "Needs you",
            Group.WORKING: "At work",
            Group.READY: "Ready",
            Group.WAITING: "Not started",
            Group.GONE: "Decommissioned",
        }[self]


_WORDS: Final[Mapping[State, str]] = {
    State.DECLARED: "not switched on yet",
    State.NETBOOTING: "boots the installer",
    State.PENDING: "waits for your approval",
    State.IMAGING: "is being installed",
    State.FLASHED: "disk is written; switch it on",
    State.FIRST_BOOT: "boots its disk",
    State.JOINING: "joins the cluster",
    State.READY: "ready",
    State.DEGRADED: "unwell",
    State.LOST: "is silent",
    State.FAILED_NETBOOT: "did not boot",
    State.FAILED_IMAGING: "was not installed",
    State.FAILED_FIRST_BOOT: "did not come up",
    State.FAILED_JOINING: "did not join",
    State.REIMAGE_REQUESTED: "is to be installed anew",
    State.PREFLIGHT: "is checked before it is taken down",
    State.CORDONED: "gets no new pods",
    State.DRAINING: "hands its pods over",
    State.LEADER_MOVED: "hands the lead of etcd over",
    State.SNAPSHOTTED: "etcd is saved elsewhere",
    State.MEMBER_REMOVED: "leaves etcd",
    State.NODE_DELETED: "leaves the cluster",
    State.REBOOT_TO_INSTALLER: "restarts into the installer",
    State.QUARANTINED: "is quarantined",
    State.DECOMMISSIONED: "decommissioned",
}


def group_of(state: State) -> Group:
    """The group of a state. One that a newer lifecycle adds is placed by what it is."""
    if state is State.READY:
        return Group.READY
    if state in NEEDS_A_PERSON:
        return Group.ATTENTION
    if state.is_active:
        return Group.WORKING
    return Group.GONE if state is State.DECOMMISSIONED else Group.WAITING


def words_of(state: State) -> str:
    """What a node in this state does, for people."""
    deed = next((active for active, failed in FAILED_TWIN.items() if failed is state), None)
    if state not in _WORDS and deed is not None and deed in _WORDS:
        return f"stuck: {_WORDS[deed]}"
    return _WORDS.get(state, state.value.replace("-", " "))


@dataclass(frozen=True, slots=True)
class Card:
    """One node on the page.

    Attributes:
        detail: What is under way, or what is wrong.
        percent: How far that is, 0–100; None where nothing is measured.
        mark: Conditions of a node that do not put it into another group; empty for none.
        left: How long what is under way takes yet; empty where nobody knows.
    """

    name: str
    group: Group
    state: str
    words: str
    detail: str
    percent: int | None
    mark: str
    model: str
    role: str
    since: float
    left: str = ""

    def patch(self) -> list[Any]:
        """What can change on a page, in the order that `live.js` reads."""
        return [
            self.name,
            self.group.value,
            self.words,
            self.detail,
            self.percent,
            self.mark,
            self.left,
        ]


def percent_of(state: State, detail: str) -> int | None:
    """How far it is, 0–100; None where nothing is measured. What ails a node may name a percentage, too."""
    found = _PERCENT.search(detail) if state.is_active else None
    return min(int(found[1]), 100) if found else None


def card_of(node: NodeGlance, held: Sequence[Held] = (), left: str = "") -> Card:
    """The card of a node with its conditions."""
    mark = ", ".join(TRAITS[one.condition].words for one in held)
    return Card(
        name=node.name,
        group=group_of(node.state),
        state=node.state.value,
        words=words_of(node.state),
        detail=node.detail,
        percent=percent_of(node.state, node.detail),
        mark="" if mark == node.detail else mark,
        model=model_title(node.board),
        role=node.role,
        since=node.since,
        left=left,
    )


@lru_cache(maxsize=10_000)
def by_name(name: str) -> tuple[tuple[str, int], ...]:
    """Sorts `pi4-worker-2` before `pi4-worker-10`, as people count."""
    return tuple((text, int(number or 0)) for text, number in _PARTS.findall(name))


@lru_cache(maxsize=256)
def model_title(board: str) -> str:
    """`Raspberry Pi 5 Model B` as `Pi 5`: it stands on every card."""
    try:
        title = BoardModel.parse(board).title
    except BoardError:
        return board
    short = title.removeprefix("Raspberry Pi ").removesuffix(" Model B")
    module = short.removeprefix("Compute Module ")
    return f"Pi {short}" if module == short else f"CM{module}"


@dataclass(frozen=True, slots=True)
class Headline:
    """The answer to "is everything all right?", in one line. `tone` is a group's name."""

    tone: str
    text: str
    more: str


_QUIET: Final = ClusterGlance()


def headline(cards: Iterable[Card], held: int, cluster: ClusterGlance = _QUIET) -> Headline:
    """What to say above the cards.

    Args:
        held: Boards that wait and are no node's.
        cluster: What else is the matter.
    """
    cards = list(cards)
    count = Counter(card.group for card in cards)
    total = len(cards) - count[Group.GONE]
    summary = f"{count[Group.READY]} of {total} {_plural(total, 'node')} ready"
    if _stands_still(cards):
        return Headline(
            Group.ATTENTION.value, "The cluster stands still", "Too few servers are ready for etcd."
        )
    troubled = [card for card in cards if card.group is Group.ATTENTION]
    if held:
        waits = "one board waits" if held == 1 else f"{held} boards wait"
        waits = f"{waits} for a place in cluster.yaml"
    if troubled:
        summary = f"{summary}; {waits}" if held else summary
        names = f"{troubled[0].name} needs you" if len(troubled) == 1 else f"{len(troubled)} nodes need you"
        return Headline(Group.ATTENTION.value, names, summary)
    if cluster.findings:
        return Headline(Group.ATTENTION.value, "The cluster needs you", summary)
    if held:
        return Headline(Group.ATTENTION.value, f"{waits[:1].upper()}{waits[1:]}", summary)
    if count[Group.WORKING]:
        busy = count[Group.WORKING]
        return Headline(Group.WORKING.value, f"{busy} {_plural(busy, 'node')} at work", summary)
    if total and count[Group.READY] == total:
        return Headline(Group.READY.value, "All is well", summary)
    if count[Group.READY]:
        return Headline(Group.READY.value, "All is well", f"{summary}; the rest were never switched on")
    if total:
        return Headline(
            Group.WAITING.value, "Switch a board on", f"{total} {_plural(total, 'node')} declared"
        )
    return Headline(
        Group.WAITING.value, "No nodes yet", "Declare one in cluster.yaml, and 'bramble apply' it."
    )


def _stands_still(cards: Sequence[Card]) -> bool:
    """Whether more servers are away than etcd can do without; not before there were any. One that is degraded
    may well be up."""
    members = [card for card in cards if card.role == Role.SERVER and card.state in MEMBERS]
    up = sum(card.state in (State.READY, State.DEGRADED) for card in members)
    return bool(members) and up < quorum_of(len(members))


def _plural(count: int, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"
