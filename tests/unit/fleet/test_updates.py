"""Rollouts in waves: who is told when, what halts them, and that they end."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.protocol import Problem
from fleet.lifecycle import State
from fleet.spec.model import Role
from fleet.updates.waves import (
    PATIENCE_S,
    SOAK_S,
    NodeSight,
    Release,
    Rollout,
    advance,
    find_refusal,
    parse,
    render,
)

NEW = "a" * 64
RELEASE = Release(version="0.2.0", sha256=NEW, size_bytes=100)


def fleet(agents: int, servers: int = 0) -> dict[str, NodeSight]:
    nodes = [
        NodeSight(name=f"{role.value}-{number:02}", role=role, state=State.READY, release="old")
        for role, count in ((Role.AGENT, agents), (Role.SERVER, servers))
        for number in range(count)
    ]
    return {node.name: node for node in nodes}


def order(nodes: dict[str, NodeSight]) -> Rollout:
    return Rollout(number=1, release=RELEASE, targets=tuple(nodes))


def take(nodes: dict[str, NodeSight], rollout: Rollout) -> None:
    for name in rollout.told:
        nodes[name] = replace(nodes[name], release=NEW)


def test_one_then_a_tenth_then_all_and_servers_one_by_one() -> None:
    nodes = fleet(agents=30, servers=3)
    rollout, now, waves = order(nodes), 0.0, list[int]()
    while not rollout.is_done:
        before = len(rollout.told)
        rollout = advance(rollout, nodes.values(), now)
        if len(rollout.told) > before:
            waves.append(len(rollout.told) - before)
        take(nodes, rollout)
        now += 30
        assert now < 3600
    assert waves == [1, 4, 25, 1, 1, 1]
    assert not rollout.halted
    assert sorted(rollout.told)[-3:] == ["server-00", "server-01", "server-02"]


def test_next_wave_waits_until_the_first_has_done_well_for_a_while() -> None:
    nodes = fleet(agents=5)
    rollout = advance(order(nodes), nodes.values(), 0.0)
    assert list(rollout.told) == ["agent-00"]
    take(nodes, rollout)
    rollout = advance(rollout, nodes.values(), 10.0)
    assert advance(rollout, nodes.values(), 10.0 + SOAK_S - 1).told.keys() == {"agent-00"}
    assert len(advance(rollout, nodes.values(), 10.0 + SOAK_S).told) == 2


def test_release_that_goes_away_again_has_not_done_well() -> None:
    nodes = fleet(agents=5)
    rollout = advance(order(nodes), nodes.values(), 0.0)
    take(nodes, rollout)
    rollout = advance(rollout, nodes.values(), 10.0)
    nodes["agent-00"] = replace(nodes["agent-00"], release="old")
    rollout = advance(rollout, nodes.values(), 20.0)
    assert rollout.taken == {}
    assert len(advance(rollout, nodes.values(), 10.0 + SOAK_S).told) == 1


@pytest.mark.parametrize("code", ["agent_rolled_back", "agent_update_refused"])
def test_one_refusal_halts_it_for_all(code: str) -> None:
    nodes = fleet(agents=5)
    rollout = advance(order(nodes), nodes.values(), 0.0)
    rollout = advance(replace(rollout, refused={"agent-00": code}), nodes.values(), 30.0)
    assert rollout.halted == f"agent-00 did not keep it ({code})"
    take(nodes, rollout)
    assert len(advance(rollout, nodes.values(), 9e9).told) == 1


def test_node_that_reports_and_does_not_take_it_halts_it() -> None:
    nodes = fleet(agents=2)
    rollout = advance(order(nodes), nodes.values(), 0.0)
    assert not advance(rollout, nodes.values(), PATIENCE_S).halted
    assert "agent-00 reports another release" in advance(rollout, nodes.values(), PATIENCE_S + 1).halted


def test_lost_node_is_not_waited_for_and_comes_later() -> None:
    nodes = fleet(agents=3)
    rollout = advance(order(nodes), nodes.values(), 0.0)
    nodes["agent-00"] = replace(nodes["agent-00"], state=State.LOST)
    rollout = advance(rollout, nodes.values(), PATIENCE_S + 1)
    assert not rollout.halted
    assert len(rollout.told) == 2
    nodes = {name: replace(node, state=State.READY, release=NEW) for name, node in nodes.items()}
    for now in (2000.0, 2100.0, 2200.0):
        rollout = advance(rollout, nodes.values(), now)
    assert rollout.is_done


def test_nothing_is_written_under_brown_out_and_nobody_is_told_while_lost() -> None:
    nodes = fleet(agents=2)
    nodes["agent-00"] = replace(nodes["agent-00"], obstacle="under-voltage")
    nodes["agent-01"] = replace(nodes["agent-01"], state=State.LOST)
    assert advance(order(nodes), nodes.values(), 0.0).told == {}


def test_node_that_left_the_cluster_is_not_waited_for() -> None:
    nodes = fleet(agents=2)
    rollout = advance(order(nodes), nodes.values(), 0.0)
    del nodes["agent-00"]
    rollout = advance(rollout, nodes.values(), 10.0)
    assert rollout.targets == ("agent-01",)
    assert "agent-01" in rollout.told


def test_refusals_are_of_this_order() -> None:
    rollout = Rollout(number=12, release=RELEASE, targets=())
    assert find_refusal(rollout, [Problem("agent_rolled_back", "order 12: agent 0.2.0", "")]) is not None
    assert find_refusal(rollout, [Problem("agent_rolled_back", "order 1: agent 0.2.0", "")]) is None
    assert find_refusal(rollout, [Problem("eeprom_refused", "order 12: x", "")]) is None


def test_rollout_survives_the_store() -> None:
    rollout = Rollout(
        number=3, release=RELEASE, targets=("a", "b"), told={"a": 1.0}, refused={"a": "x"}, halted="why"
    )
    assert parse(render(rollout)) == rollout


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from(["take", "lose", "return", "nothing"])), max_size=80
    )
)
def test_never_more_than_one_node_before_the_first_has_proved_it(steps: list[tuple[int, str]]) -> None:
    nodes = fleet(agents=7, servers=3)
    names = sorted(nodes)
    rollout, now = order(nodes), 0.0
    for index, deed in steps:
        node = nodes[names[index]]
        if deed == "take" and node.name in rollout.told and node.state is State.READY:
            nodes[node.name] = replace(node, release=NEW)
        elif deed == "lose":
            nodes[node.name] = replace(node, state=State.LOST)
        elif deed == "return":
            nodes[node.name] = replace(node, state=State.READY)
        before, now = rollout, now + 20
        rollout = advance(rollout, nodes.values(), now)
        assert rollout.told.keys() >= before.told.keys()
        unproved = [
            name
            for name in before.told
            if nodes[name].state is not State.LOST and now - rollout.taken.get(name, now) < SOAK_S
        ]
        if unproved:
            assert rollout.told == before.told
        servers = [name for name in rollout.told.keys() - before.told.keys() if name.startswith("server")]
        assert len(servers) <= 1
