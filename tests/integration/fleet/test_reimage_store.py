"""Orders to re-image as the store keeps them: one open one for each node, progress that only grows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fakes_fleet
import pytest
from fakes_fleet import NOW, cluster_spec, node_spec, open_fleet
from node_records import reimage_record

from fleet.reimage.kinds import Outcome
from fleet.store.database import Store, StoreError

pytestmark = pytest.mark.integration
NODE = "pi5-1"
ORDER = reimage_record(NODE, by="socket", why="its disk is worn")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    open_fleet(tmp_path, cluster_spec(node_spec(NODE, 1))).store.close()
    opened = Store.open(fakes_fleet.store_place(tmp_path))
    yield opened
    opened.close()


def test_an_order_is_read_as_it_was_written(store: Store) -> None:
    with store.write() as tx:
        tx.add_reimage(ORDER)
    with store.read() as reader:
        assert reader.open_reimage(NODE) == ORDER
        assert reader.open_reimages() == {NODE: ORDER}
        assert reader.reimage(NODE, 1) == ORDER
        assert reader.reimage(NODE, 2) is None


def test_progress_is_added_to_what_is_known_by_now(store: Store) -> None:
    with store.write() as tx:
        tx.add_reimage(ORDER)
        tx.note_reimage(ORDER, node_uid="u1")
        tx.note_reimage(ORDER, snapshot="s1")  # by somebody who holds the order as it was at first
        noted = tx.note_reimage(ORDER, node_uid="u2")
    assert noted.progress == {"node_uid": "u2", "snapshot": "s1"}


def test_a_node_has_one_open_order_and_keeps_the_closed_ones(store: Store) -> None:
    with store.write() as tx:
        tx.add_reimage(ORDER)
    with pytest.raises(StoreError), store.write() as tx:
        tx.add_reimage(replace(ORDER, number=2))
    with store.write() as tx:
        tx.close_reimage(ORDER, Outcome.CANCELLED, "changed my mind", NOW + 1)
        tx.add_reimage(replace(ORDER, number=2, requested_at=NOW + 2))
    with store.read() as reader:
        assert [order.number for order in reader.reimages()] == [2, 1]
        assert {name: order.number for name, order in reader.newest_reimages().items()} == {NODE: 2}
        closed = reader.reimage(NODE, 1)
        assert closed is not None
        assert (closed.outcome, closed.reason, closed.closed_at) == (
            Outcome.CANCELLED,
            "changed my mind",
            NOW + 1,
        )


def test_the_reserved_number_opens_as_the_only_intent(store: Store) -> None:
    with store.write() as tx:
        number = tx.next_intent_number(NODE)
        tx.skip_intents(NODE, number, "kept for a re-image", NOW)
        other = tx.open_new_intent(NODE, NOW, 60.0, "a card")
        tx.open_reserved_intent(NODE, number, NOW + 5, 60.0, "anew")
        intent = tx.open_intent(NODE)
    assert other.number == number + 1
    assert intent is not None
    assert (intent.number, intent.expires, intent.installation) == (number, NOW + 65, "anew")


@pytest.mark.parametrize("later_s", [0.0, -3600.0], ids=["one moment", "a clock that was set back"])
def test_the_newest_order_has_the_highest_number_whatever_the_clock_said(
    store: Store, later_s: float
) -> None:
    with store.write() as tx:
        for number in (1, 2):
            order = replace(ORDER, number=number, requested_at=NOW + (number - 1) * later_s)
            tx.add_reimage(order)
            tx.close_reimage(order, Outcome.CANCELLED, "", NOW)
    with store.read() as reader:
        assert reader.newest_reimages()[NODE] == reader.reimages(NODE)[0]
        assert reader.newest_reimages()[NODE].number == 2
