"""A node that causes lines without end fills no disk, and pushes out nothing that tells against it."""

from __future__ import annotations

from collections import Counter

import pytest
import sqlalchemy as sa
from fakes_fleet import Fleet
from fleet_story import AGENT

from fleet.store.errors import StoreError
from fleet.store.tables import events
from fleet.timeline import Entry, Kind
from fleet.timeline_limit import INTERVAL_S, LIMITED

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("backend")]

KEPT = (Kind.ALARM, Kind.ADMISSION, Kind.AUDIT)


def write(fleet: Fleet, node: str, count: int, *kinds: Kind) -> None:
    with fleet.store.write_batch() as tx:
        for number in range(count):
            for kind in kinds:
                tx.add_event(Entry(kind=kind, text=str(number)), 1.0, node=node)


def counts(fleet: Fleet, node: str) -> Counter[str]:
    with fleet.store.read() as reader:
        query = sa.select(events.c.kind).where(events.c.node == node)
        return Counter(reader.connection.execute(query).scalars())


def tick(fleet: Fleet) -> None:
    fleet.clock.advance(INTERVAL_S)
    fleet.controller.tick()


def test_newest_lines_of_what_a_node_causes_are_kept_and_all_that_tells_against_it(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.timeline_limit.MAX_NODE_EVENTS", 20)
    tick(fleet)
    write(fleet, "pi4-1", 15, *LIMITED, *KEPT)
    tick(fleet)
    assert {kind: counts(fleet, "pi4-1")[kind] for kind in (Kind.JOIN, *KEPT)} == dict.fromkeys(
        (Kind.JOIN, *KEPT), 15
    )
    write(fleet, "pi4-1", 15, *LIMITED, *KEPT)
    write(fleet, "pi5-1", 19, Kind.JOIN)
    tick(fleet)
    assert {kind: counts(fleet, "pi4-1")[kind] for kind in LIMITED} == dict.fromkeys(LIMITED, 20)
    assert {kind: counts(fleet, "pi4-1")[kind] for kind in KEPT} == dict.fromkeys(KEPT, 30)
    assert counts(fleet, "pi5-1")[Kind.JOIN] == 19
    with fleet.store.read() as reader:
        newest = [event.text for event in reader.timeline(node="pi4-1") if event.kind == Kind.HEALTH]
    assert newest == [str(number) for number in (*range(10, 15), *range(15))]


def test_limit_holds_over_a_store_that_was_away(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.timeline_limit.MAX_NODE_EVENTS", 5)
    write(fleet, AGENT.name, 9, Kind.JOIN)

    def fail(*_args: object) -> None:
        raise StoreError("it is away", "Ask again.", fleet.store.place)

    with monkeypatch.context() as patch:
        patch.setattr("fleet.store.transaction.Transaction.trim_events", fail)
        with pytest.raises(StoreError):
            tick(fleet)
    assert counts(fleet, AGENT.name)[Kind.JOIN] == 9
    tick(fleet)
    assert counts(fleet, AGENT.name)[Kind.JOIN] == 5
