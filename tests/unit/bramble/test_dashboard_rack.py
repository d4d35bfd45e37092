"""Cards, groups and the one line above them."""

from __future__ import annotations

import html
import re

import pytest

from bramble.dashboard.node_page import stops_of
from bramble.dashboard.pages import MAX_CARDS, local_number, sections_of
from bramble.dashboard.rack import Card, Group, by_name, card_of, group_of, headline, model_title, words_of
from bramble.dashboard.words import ago, span, whole, without_login
from fleet.boards import BoardModel
from fleet.health.conditions import Condition
from fleet.health.desk import Held
from fleet.lifecycle import FAILED_TWIN, State
from fleet.printable import size_text
from fleet.store.glance import NodeGlance


def glance(name: str = "pi-1", state: State = State.READY, detail: str = "") -> NodeGlance:
    return NodeGlance(name, "pi5", "agent", state, 0.0, 1, detail, None)


def cards(**count: int) -> list[Card]:
    states = {"ready": State.READY, "lost": State.LOST, "imaging": State.IMAGING, "declared": State.DECLARED}
    return [
        card_of(glance(f"{name}-{number}", states[name]))
        for name, many in count.items()
        for number in range(many)
    ]


@pytest.mark.parametrize("state", list(State))
def test_every_state_has_a_group_and_words(state: State) -> None:
    assert group_of(state) in Group
    assert words_of(state)


def test_whatever_failed_needs_somebody_and_whatever_is_active_does_not() -> None:
    assert {group_of(state) for state in FAILED_TWIN.values()} == {Group.ATTENTION}
    waiting_for_people = {State.PENDING}
    assert {group_of(state) for state in FAILED_TWIN if state not in waiting_for_people} == {Group.WORKING}


@pytest.mark.parametrize(
    ("detail", "percent"),
    [("write 42 %", 42), ("verify 100 %", 100), ("find-disk", None), ("write 400 %", 100), ("1234 %", None)],
)
def test_the_percentage_is_read_from_the_detail(detail: str, percent: int | None) -> None:
    assert card_of(glance(state=State.IMAGING, detail=detail)).percent == percent


def test_a_percentage_in_what_ails_a_node_is_no_progress() -> None:
    card = card_of(glance(state=State.DEGRADED, detail="imagefs is 91 % full"))
    assert (card.detail, card.percent) == ("imagefs is 91 % full", None)


def test_a_condition_that_does_not_degrade_is_a_mark_on_a_ready_card() -> None:
    held = [Held(condition=Condition.THROTTLED, since=0.0, evidence="throttled 0x4")]
    card = card_of(glance(), held)
    assert (card.group, card.mark) == (Group.READY, "throttled")


def test_a_degraded_node_does_not_say_its_cause_twice() -> None:
    held = [Held(condition=Condition.UNDER_VOLTAGE, since=0.0, evidence="x")]
    assert card_of(glance(state=State.DEGRADED, detail="under-voltage"), held).mark == ""


@pytest.mark.parametrize(
    ("found", "held", "tone", "text"),
    [
        (cards(ready=3), 0, "ready", "All is well"),
        (cards(ready=3, declared=2), 0, "ready", "All is well"),
        (cards(ready=3, lost=1), 0, "attention", "lost-0 needs you"),
        (cards(ready=3, lost=2, imaging=1), 4, "attention", "2 nodes need you"),
        (cards(ready=3, imaging=1), 0, "working", "1 node at work"),
        (cards(ready=3, imaging=1), 1, "attention", "One board waits for a place in cluster.yaml"),
        (cards(declared=2), 0, "waiting", "Switch a board on"),
        ([], 0, "waiting", "No nodes yet"),
    ],
)
def test_the_headline_answers_whether_all_is_well(found: list[Card], held: int, tone: str, text: str) -> None:
    head = headline(found, held)
    assert (head.tone, head.text) == (tone, text)


@pytest.mark.parametrize(
    ("states", "text"),
    [
        ("ready ready ready", "All is well"),
        ("ready ready lost", "s2 needs you"),
        ("ready lost lost", "The cluster stands still"),
        ("draining ready ready", "1 node at work"),
        ("lost", "The cluster stands still"),
        ("degraded", "s0 needs you"),
        ("degraded lost ready", "2 nodes need you"),
        ("declared declared joining", "1 node at work"),
    ],
)
def test_lost_quorum_is_said_before_anything_else(states: str, text: str) -> None:
    found = [
        card_of(NodeGlance(f"s{number}", "pi5", "server", State(state), 0.0, 1, "", None))
        for number, state in enumerate(states.split())
    ]
    assert headline(found, 0).text == text


def test_boards_without_a_node_are_not_forgotten_over_nodes_that_need_somebody() -> None:
    found = cards(ready=1, lost=2)
    assert headline(found, 0).more == "1 of 3 nodes ready"
    assert headline(found, 1).more == "1 of 3 nodes ready; one board waits for a place in cluster.yaml"
    assert headline(found, 2).more.endswith("; 2 boards wait for a place in cluster.yaml")


def test_a_decommissioned_node_is_not_missed() -> None:
    found = [*cards(ready=2), card_of(glance("old", State.DECOMMISSIONED))]
    assert headline(found, 0).more == "2 of 2 nodes ready"


def test_where_not_all_cards_find_room_those_that_need_somebody_do() -> None:
    sections = sections_of(cards(ready=MAX_CARDS, lost=3))
    shown = {section.group: len(section.cards) for section in sections}
    assert shown[Group.ATTENTION] == 3
    assert sum(shown.values()) == MAX_CARDS
    assert {section.group: section.hidden for section in sections}[Group.READY] == 3


def test_names_are_in_the_order_in_which_people_count() -> None:
    names = ["pi-2", "pi-10", "pi-1", "10-a", "9-b", "pi", "pi-2b"]
    assert sorted(names, key=by_name) == ["9-b", "10-a", "pi", "pi-1", "pi-2", "pi-2b", "pi-10"]


@pytest.mark.parametrize(
    ("board", "title"), [("pi5", "Pi 5"), ("pi4", "Pi 4"), ("cm5", "CM5"), ("vax", "vax")]
)
def test_models_are_short(board: str, title: str) -> None:
    assert model_title(board) == title


def test_every_model_has_a_short_title() -> None:
    titles = {model_title(model.yaml_name) for model in BoardModel}
    assert len(titles) == len(BoardModel)
    assert max(map(len, titles)) <= 12


@pytest.mark.parametrize(
    ("state", "standings"),
    [
        (State.DECLARED, "ahead ahead ahead ahead ahead"),
        (State.PENDING, "here ahead ahead ahead ahead"),
        (State.IMAGING, "done here ahead ahead ahead"),
        (State.FAILED_IMAGING, "done failed ahead ahead ahead"),
        (State.QUARANTINED, "failed ahead ahead ahead ahead"),
        (State.READY, "done done done done done"),
        (State.LOST, "done done done done failed"),
        (State.DRAINING, "done here ahead ahead ahead ahead ahead"),
        (State.FAILED_MEMBER_REMOVED, "done done failed ahead ahead ahead ahead"),
        (State.DECOMMISSIONED, ""),
    ],
)
def test_the_way_shows_where_a_node_is(state: State, standings: str) -> None:
    assert " ".join(stop.standing for stop in stops_of(state)) == standings


def test_figures_in_words() -> None:
    assert [span(value) for value in (-3, 59, 61, 7200, 90000)] == ["0 s", "59 s", "1 min", "2 h", "1 d"]
    assert [size_text(value) for value in (0, 512, 4096, 3 << 30)] == ["0 B", "512 B", "4.0 KiB", "3.0 GiB"]
    assert ago(100.0, 103.0) == "just now"
    assert ago(100.0, 50.0) == "just now"  # the browser's and the node's clocks differ
    assert ago(100.0, 400.0) == "5 min ago"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("https://me:secret@mirror.invalid/k3s", "https://***@mirror.invalid/k3s"),
        ("curl -u https://token@10.0.0.1/on", "curl -u https://***@10.0.0.1/on"),
        ("https://mirror.invalid/a@b", "https://mirror.invalid/a@b"),
        ("postgresql://a:b@h/d", "postgresql://***@h/d"),
        (7080, "7080"),
    ],
)
def test_a_login_in_a_url_is_not_shown(value: object, shown: str) -> None:
    assert without_login(value) == shown


@pytest.mark.parametrize("text", ["", "-1", "x", "1" * 30, "\N{SUPERSCRIPT TWO}"])
def test_what_is_no_number_is_none(text: str) -> None:
    assert local_number(text) is None


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("waits (key 5e31-8f8c-f9cb-e249-a308).", ["5e31-8f8c-f9cb-e249-a308"]),
        ("run 'bramble approve pi5-1'.", ["pi5-1"]),
        ("bcm2712-rpi-5-b.dtb: sent; e-mail, re-image 3", ["bcm2712-rpi-5-b.dtb"]),
        ("<b>a-1</b> & b-2-", ["a-1", "b-2"]),
        ("", []),
    ],
    ids=["fingerprint", "name", "file", "markup", "nothing"],
)
def test_names_and_fingerprints_are_kept_in_one_piece(text: str, pieces: list[str]) -> None:
    shown = str(whole(text))
    assert re.findall(r'<span class="whole">(.*?)</span>', shown) == pieces
    assert html.unescape(re.sub(r"</?span[^>]*>", "", shown)) == text
