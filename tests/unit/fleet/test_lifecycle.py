"""The lifecycle's table: what may follow what, and that nothing under way lasts for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.lifecycle import (
    FAILED_TWIN,
    GONE,
    LEAVING,
    REIMAGE_FROM,
    REIMAGING,
    TRANSITIONS,
    WAY_BACK,
    Happening,
    IllegalTransitionError,
    Standing,
    State,
    advance,
    allows,
    check,
    limit_s,
)
from fleet.spec.model import Role

ROLES = st.sampled_from(Role)


def standing(state: State, *, since: float = 0.0, attempt: int = 1) -> Standing:
    return Standing(state=state, since=since, progressed_at=since, attempt=attempt)


@pytest.mark.parametrize("happening", Happening)
def test_every_happening_is_in_the_table(happening: Happening) -> None:
    assert TRANSITIONS[happening]


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("happening", Happening)
def test_a_step_is_taken_exactly_if_the_table_has_it(state: State, happening: Happening) -> None:
    if allows(state, happening):
        assert advance(standing(state), happening, 1.0).state is TRANSITIONS[happening][state]
    else:
        with pytest.raises(IllegalTransitionError, match=f"'{state}' cannot take '{happening}'"):
            advance(standing(state), happening, 1.0)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("state", State)
def test_exactly_the_active_states_have_a_limit_and_a_failed_twin(state: State, role: Role) -> None:
    limit = limit_s(state, role)
    assert (limit is not None) is state.is_active
    assert (state in FAILED_TWIN) is state.is_active
    if limit is not None:
        assert check(standing(state), role, limit) is None
        assert check(standing(state), role, limit + 1) is Happening.TIMED_OUT
        assert FAILED_TWIN[state].value.startswith("failed-")


@pytest.mark.parametrize("state", State)
def test_every_failed_state_has_a_way_back(state: State) -> None:
    if state.value.startswith("failed-"):
        ways = {steps[state] for steps in TRANSITIONS.values() if state in steps}
        assert ways - {state, State.DECOMMISSIONED, State.QUARANTINED}


def test_every_state_can_be_reached_and_left() -> None:
    reached = {State.DECLARED} | {state for steps in TRANSITIONS.values() for state in steps.values()}
    left = {state for steps in TRANSITIONS.values() for state in steps}
    assert reached == left == set(State)


def test_nothing_but_an_order_leads_an_installed_node_back_to_imaging() -> None:
    """Second power-on: no observation takes an installed node back to its installer."""
    orders = {Happening.REMOVED, Happening.RESTORED_BLANK, Happening.RELEASED, Happening.REIMAGE_ORDERED}
    orders |= {Happening.STARTED_OVER, Happening.AWAITED_AGAIN}
    observations = set(Happening) - orders
    seen = {state for state in State if state.is_installed} - REIMAGING
    frontier = set(seen)
    while frontier:
        frontier = {
            TRANSITIONS[happening][state]
            for happening in observations
            for state in frontier
            if allows(state, happening)
        } - seen
        seen |= frontier
    assert not {state for state in seen if state.awaits_install}


def _reachable(start: State, happenings: set[Happening]) -> set[State]:
    seen, frontier = set[State](), {start}
    while frontier:
        seen |= frontier
        frontier = {
            TRANSITIONS[happening][state]
            for happening in happenings
            for state in frontier
            if allows(state, happening)
        } - seen
    return seen


def test_a_reimage_takes_every_step_in_its_order() -> None:
    """And none of them can come before its turn."""
    agent = (
        Happening.REIMAGE_ORDERED,
        Happening.CHECKS_BEGAN,
        Happening.CHECKS_PASSED,
        Happening.CORDON_SEEN,
        Happening.AGENT_DRAINED,
        Happening.NODE_GONE,
        Happening.BOOT_STARTED,
        Happening.ADMITTED,
        Happening.INSTALLED,
        Happening.ENROLLED,
        Happening.BECAME_READY,
    )
    servers_only = (
        Happening.SERVER_DRAINED,
        Happening.LEADER_ELSEWHERE,
        Happening.SNAPSHOT_KEPT,
        Happening.MEMBER_GONE,
    )
    server = (*agent[:4], *servers_only, *agent[5:])
    for road in (agent, server):
        node, passed = standing(State.READY), [State.READY]
        for happening in road:
            node = advance(node, happening, 1.0)
            passed.append(node.state)
        assert node.state is State.READY
        until_installer = road[: road.index(Happening.ADMITTED)]
        for position, happening in enumerate(until_installer):
            assert not any(allows(state, happening) for state in passed[:position])


@pytest.mark.parametrize("state", sorted(LEAVING))
def test_a_reimage_can_be_called_off_until_something_was_removed(state: State) -> None:
    for was in REIMAGE_FROM:
        assert advance(standing(state), WAY_BACK[was], 1.0).state is was


@pytest.mark.parametrize("state", sorted(REIMAGING - LEAVING))
def test_nothing_but_a_fresh_join_leads_back_to_ready_after_the_removal(state: State) -> None:
    without_a_join = set(Happening) - {
        Happening.ENROLLED,
        # Before anybody was asked to remove its member: the order's row tells (`fleet.reimage.progress`).
        Happening.HELD_BACK,
        # A recovery is called off: only what had not left its cluster is put back (`fleet.recovery.undo`).
        Happening.TAKEN_BACK,
        # After the installation: a person flashes a card, takes the node out of cluster.yaml, orders again.
        Happening.HANDED_OUT,
        Happening.REMOVED,
        Happening.REIMAGE_ORDERED,
    }
    assert State.READY not in _reachable(state, without_a_join)
    assert not any(allows(state, back) for back in WAY_BACK.values())


@pytest.mark.parametrize("state", sorted(GONE))
def test_a_node_is_offered_no_installer_before_its_turn(state: State) -> None:
    assert state.is_installed
    assert not state.awaits_install
    assert not allows(state, Happening.BOOT_STARTED)


def test_the_attempts_of_a_reimage_count_from_nothing() -> None:
    assert advance(standing(State.NODE_DELETED, attempt=3), Happening.NODE_GONE, 1.0).attempt == 0


def test_a_boot_while_pending_is_no_attempt() -> None:
    assert advance(standing(State.PENDING, attempt=1), Happening.BOOT_STARTED, 1.0).attempt == 1
    assert advance(standing(State.IMAGING, attempt=1), Happening.BOOT_STARTED, 1.0).attempt == 2


def test_progress_keeps_since_and_renews_the_limit() -> None:
    moved = advance(standing(State.IMAGING, since=5.0), Happening.PROGRESSED, 9.0)
    assert (moved.since, moved.progressed_at) == (5.0, 9.0)


@given(
    steps=st.lists(st.tuples(st.sampled_from(Happening), st.floats(0, 4000)), max_size=40),
    role=ROLES,
)
def test_any_story_without_further_events_comes_to_rest(
    steps: list[tuple[Happening, float]], role: Role
) -> None:
    now = 0.0
    node = standing(State.DECLARED, attempt=0)
    for happening, wait in steps:
        now += wait
        overdue = check(node, role, now)
        if overdue is not None:
            node = advance(node, overdue, now)
            assert not node.state.is_active
        if allows(node.state, happening):
            before = node
            node = advance(node, happening, now)
            assert node.progressed_at == now
            assert node.since <= now
            assert node.attempt in (0, before.attempt, before.attempt + 1)
    limit = limit_s(node.state, role)
    if limit is not None:
        happening_then = check(node, role, now + limit + 1)
        assert happening_then is Happening.TIMED_OUT
        node = advance(node, happening_then, now + limit + 1)
    assert not node.state.is_active
    assert check(node, role, now + 1e9) is None
