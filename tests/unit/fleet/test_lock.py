"""The fleet lock: who may be taken down beside whom."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from node_records import record, reimage_record

from fleet.lifecycle import State
from fleet.lock import Hold, find_problems, hold_of
from fleet.reimage.kinds import Outcome
from fleet.spec.model import Role
from fleet.store.records import HoldRecord

SERVER, AGENT = Role.SERVER, Role.AGENT


def hold(node: str, role: Role, *, stuck: bool = False) -> Hold:
    state = "failed-imaging" if stuck else "draining"
    return Hold(node=node, role=role, number=3, taken_at=1.0, by="socket", stuck=stuck, state=state)


def codes(node: str, role: Role, *holds: Hold, parallel: int = 1) -> list[str]:
    return [problem.code for problem in find_problems(node, role, holds, max_parallel=parallel)]


@pytest.mark.parametrize(
    ("role", "others", "parallel", "expected"),
    [
        (SERVER, (), 1, []),
        (SERVER, (hold("s2", SERVER),), 9, ["lock"]),
        (SERVER, (hold("s2", SERVER, stuck=True),), 9, ["lock"]),
        (SERVER, (hold("a1", AGENT),), 9, ["lock"]),
        (SERVER, (hold("a1", AGENT, stuck=True),), 9, []),
        (AGENT, (hold("s2", SERVER),), 9, ["lock"]),
        (AGENT, (hold("s2", SERVER, stuck=True),), 9, []),
        (AGENT, (hold("a1", AGENT),), 1, ["budget"]),
        (AGENT, (hold("a1", AGENT),), 2, []),
        (AGENT, (hold("a1", AGENT), hold("a2", AGENT)), 2, ["budget"]),
        (AGENT, (hold("a1", AGENT, stuck=True),), 9, ["lock"]),
        (AGENT, (hold("a1", AGENT, stuck=True), hold("a2", AGENT)), 1, ["lock", "budget"]),
        (AGENT, (hold("a1", AGENT, stuck=True), hold("s1", SERVER)), 1, ["lock", "lock"]),
    ],
)  # fmt: skip
def test_who_may_go_down_beside_whom(
    role: Role, others: tuple[Hold, ...], parallel: int, expected: list[str]
) -> None:
    assert codes("me", role, *others, parallel=parallel) == expected


def test_a_node_that_holds_its_place_keeps_it() -> None:
    assert codes("s1", SERVER, hold("s1", SERVER)) == []
    assert codes("a1", AGENT, hold("a1", AGENT)) == []


def test_reason_names_the_holder_and_the_way_on() -> None:
    (under_way,) = find_problems("s1", SERVER, [hold("s2", SERVER)], max_parallel=1)
    assert "s2 holds the fleet lock: its re-image 3 is under way (draining)" in under_way.text
    assert "bramble cancel s2" in under_way.hint
    (stuck,) = find_problems("s1", SERVER, [hold("s2", SERVER, stuck=True)], max_parallel=1)
    assert "came to nothing (failed-imaging)" in stuck.text
    assert "bramble lock release s2" in stuck.hint


names = st.sampled_from([f"s{number}" for number in range(3)] + [f"a{number}" for number in range(5)])


@given(st.lists(names, max_size=30), st.integers(1, 4), st.sets(names))
def test_whoever_asks_in_whatever_order_the_limits_hold(
    asking: list[str], parallel: int, failing: set[str]
) -> None:
    """Servers alone; agents up to the limit, and none beside a failed one of theirs."""
    holds: list[Hold] = []
    for name in asking:
        role = SERVER if name.startswith("s") else AGENT
        if any(held.node == name for held in holds) or codes(name, role, *holds, parallel=parallel):
            continue
        holds.append(hold(name, role, stuck=name in failing))
        moving = [held for held in holds if not held.stuck]
        servers = [held for held in holds if held.role is SERVER]
        assert len(servers) <= 1
        assert len([held for held in moving if held.role is AGENT]) <= parallel
        if any(held.role is SERVER for held in moving):
            assert len(moving) == 1
        assert len([held for held in holds if held.role is AGENT and held.stuck]) <= 1


ORDER = reimage_record("pi4-1", 3, by="policy", was=State.LOST)
ROW = HoldRecord(node="pi4-1", number=3, taken_at=5.0)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("outcome", [None, *Outcome])
def test_a_place_is_kept_until_its_owner_ends_well(state: State, outcome: Outcome | None) -> None:
    closed = None if outcome is None else 9.0
    node = record("pi4-1", AGENT, state)
    found = hold_of(ROW, node, replace(ORDER, outcome=outcome, closed_at=closed))
    ended_well = outcome in (Outcome.DONE, Outcome.CANCELLED, Outcome.FAILED)
    back = outcome is Outcome.ABANDONED and state is State.READY
    if ended_well or back or state is State.DECOMMISSIONED:
        assert found is None
    else:
        assert found is not None
        assert (found.node, found.number, found.by, found.state) == ("pi4-1", 3, "policy", state.value)
        failed = state.value.startswith("failed-") or state is State.QUARANTINED
        assert found.stuck is (outcome is Outcome.ABANDONED or failed)


def test_a_row_without_its_node_or_order_counts_for_nothing() -> None:
    assert hold_of(ROW, None, ORDER) is None
    assert hold_of(ROW, record("pi4-1", AGENT, State.LOST), None) is None
