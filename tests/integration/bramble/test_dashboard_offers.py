"""What the dashboard offers for a node follows from the desks' own rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fakes_fleet import Fleet, cluster_spec, node_spec, open_fleet
from node_records import reimage_record

from bramble.dashboard.actions import ACTIONS, Action, offered
from fleet.lifecycle import LEAVING, State
from fleet.refusal import RefusedError
from fleet.reimage import progress
from fleet.store.tables import nodes
from fleet.views import NodeView, node_view

pytestmark = pytest.mark.integration

NODE = node_spec("pi-1", 1)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = open_fleet(tmp_path, cluster_spec(NODE))
    try:
        yield fleet
    finally:
        fleet.store.close()


def put(fleet: Fleet, state: State, **known: Any) -> NodeView:
    """The node is in a state, under an order with such a progress."""
    order = reimage_record(NODE.name, 7, requested_at=fleet.clock(), progress=known)
    with fleet.store.write() as tx:
        tx.connection.execute(sa.update(nodes).values(state=state.value, since=fleet.clock()))
        tx.add_reimage(order)
    with fleet.store.read() as reader:
        return node_view(reader.require_node(NODE.name))


def names(fleet: Fleet, node: NodeView) -> set[str]:
    return {action.name for action in offered(fleet.controller, node)}


@pytest.mark.parametrize("state", sorted({*LEAVING, State.MEMBER_REMOVED, State.FAILED_MEMBER_REMOVED}))
def test_calling_off_is_offered_as_long_as_nothing_was_removed(fleet: Fleet, state: State) -> None:
    assert "cancel" in names(fleet, put(fleet, state))
    assert "being called off" in fleet.controller.reimages.cancel(NODE.name, "ann")


@pytest.mark.parametrize("state", [State.MEMBER_REMOVED, State.FAILED_MEMBER_REMOVED])
def test_a_server_whose_member_may_be_gone_is_not_called_off(fleet: Fleet, state: State) -> None:
    node = put(fleet, state, **{progress.ASKED: fleet.clock()})
    assert "cancel" not in names(fleet, node)
    with pytest.raises(RefusedError, match="it left its cluster"):
        fleet.controller.reimages.cancel(NODE.name, "ann")


def test_what_is_being_called_off_is_not_offered_again(fleet: Fleet) -> None:
    assert "cancel" not in names(fleet, put(fleet, State.DRAINING, **{progress.CANCEL: "ann"}))


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.name)
def test_every_question_names_the_node(action: Action) -> None:
    verb = action.title(NODE.name)
    assert verb.count(NODE.name) == 1
    assert "…" not in verb
