"""May a server leave? Every combination of members that live and die, and each rule by itself."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.etcd.view import EtcdMember, EtcdView
from fleet.quorum import quorum_of
from fleet.reimage.server_checks import (
    MAX_LAG,
    SNAPSHOT_AGE_S,
    KeptSnapshot,
    ServerSituation,
    Stage,
    ghosts,
    problems,
    warnings,
)

NOW = 1_800_000_000.0
CLUSTER = 77
KEPT = KeptSnapshot(id="20261126T040000Z-0a1b2c", taken_at=NOW - 60, cluster_id=CLUSTER, has_keys=True)


def member(number: int, **changes: Any) -> EtcdMember:
    whole = EtcdMember(
        id=number,
        name=f"s{number}-{number:08x}",
        node=f"s{number}",
        peer_urls=(f"https://10.0.0.{number}:2380",),
        healthy=True,
        raft_index=1000,
    )
    if changes.get("healthy") is False:
        changes.setdefault("problem", "no answer in time")
    return dataclasses.replace(whole, **changes)


def view(*members: EtcdMember, leader: int | None = -1, **changes: Any) -> EtcdView:
    voters = [one for one in members if not one.is_learner]
    able = [one for one in voters if one.healthy]
    has_quorum = len(able) >= quorum_of(len(voters))
    if leader == -1:
        leader = able[0].id if has_quorum else None
    changes.setdefault("is_quorate", has_quorum)
    return EtcdView(cluster_id=CLUSTER, leader_id=leader, members=members, **changes)


def situation(seen: EtcdView | None, **changes: Any) -> ServerSituation:
    names = tuple(dict.fromkeys(one.node for one in seen.members)) if seen else ("s1", "s2", "s3")
    whole = ServerSituation(
        node="s1",
        servers=names,
        founded=True,
        view=seen,
        member_id=None,
        cluster_id=None,
        snapshot=KEPT,
        ready=frozenset(names),
        now=NOW,
    )
    return dataclasses.replace(whole, **changes)


def codes(asked: ServerSituation, stage: Stage = Stage.REMOVAL) -> list[str]:
    found = problems(asked, stage)
    assert all(problem.text and problem.hint for problem in found)
    return [problem.code for problem in found]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7])
def test_every_combination_of_living_and_dead_servers(count: int) -> None:
    """What is let go leaves a quorum behind and had one before; what is refused had a reason."""
    for alive in itertools.product((True, False), repeat=count):
        seen = view(*(member(number, healthy=up) for number, up in enumerate(alive, 1)))
        allowed = not codes(situation(seen))
        others = sum(alive[1:])
        could = sum(alive) >= quorum_of(count) and count > 1 and others >= quorum_of(count - 1)
        if allowed:
            assert could, alive
        if could and (all(alive) or not alive[0]):
            assert allowed, (alive, codes(situation(seen)))
        if alive[0] and not all(alive):
            assert not allowed, alive


def test_a_healthy_cluster_of_three_lets_one_go_without_a_word() -> None:
    seen = view(member(1), member(2), member(3))
    assert codes(situation(seen), Stage.BEFORE) == []
    assert codes(situation(seen)) == []
    assert [one.code for one in warnings(situation(seen))] == ["no-spare"]


def test_the_only_server_is_refused_with_the_runbook() -> None:
    (problem,) = problems(situation(view(member(1))), Stage.BEFORE)
    assert problem.code == "last-server"
    assert "docs/recovery.md" in problem.hint


def test_one_of_two_goes_while_it_lives_and_is_refused_when_dead() -> None:
    both = situation(view(member(1), member(2)))
    assert codes(both) == []
    assert "single" in [one.code for one in warnings(both)]
    (problem,) = problems(situation(view(member(1, healthy=False), member(2))), Stage.BEFORE)
    assert problem.code == "two-servers"
    assert "--cluster-reset" in problem.hint
    assert codes(situation(view(member(1), member(2, healthy=False)))) == ["no-leader", "peer"]


def test_two_servers_failing_at_once_are_both_refused() -> None:
    for number in (1, 2):
        seen = view(member(1, healthy=False), member(2, healthy=False), member(3))
        assert codes(situation(seen, node=f"s{number}")) == ["no-leader"]


def test_of_five_with_two_dead_a_dead_one_goes_and_a_living_one_stays() -> None:
    seen = view(member(1), member(2), member(3), member(4, healthy=False), member(5, healthy=False))
    assert codes(situation(seen, node="s4")) == []
    assert set(codes(situation(seen, node="s1"))) == {"quorum-after", "peer"}


def test_a_learner_in_the_cluster_holds_everybody_but_itself() -> None:
    seen = view(member(1), member(2), member(3), member(4, is_learner=True))
    assert codes(situation(seen)) == ["learner"]
    assert codes(situation(seen, node="s4")) == []


def test_a_member_that_lags_behind_holds_a_removal() -> None:
    seen = view(member(1), member(2), member(3, raft_index=1000 - MAX_LAG - 1))
    assert codes(situation(seen)) == ["lag"]


def test_no_answer_no_leader_and_no_agreement_are_three_things() -> None:
    assert codes(situation(None, silence="nobody answers")) == ["etcd"]
    members = (member(1), member(2), member(3))
    assert codes(situation(view(*members, leader=None))) == ["no-leader"]
    assert codes(situation(view(*members, is_quorate=False))) == ["no-leader"]


def test_another_cluster_than_the_order_was_begun_in_is_refused() -> None:
    seen = view(member(1), member(2), member(3))
    assert codes(situation(seen, cluster_id=CLUSTER)) == []
    assert codes(situation(seen, cluster_id=CLUSTER + 1)) == ["other-cluster"]


def test_two_clusters_at_the_servers_addresses_are_refused() -> None:
    seen = view(member(1), member(2), member(3), strangers=("10.0.0.3:2379",))
    assert codes(situation(seen)) == ["two-clusters"]


def test_two_members_of_one_node_are_refused_until_the_order_names_one() -> None:
    twin = member(9, name="s1-00000009", node="s1", healthy=False)
    seen = view(member(1), member(2), member(3), twin)
    asked = situation(seen)
    assert "twins" in codes(asked)
    assert ghosts(seen, asked.servers) == (twin,)
    only = dataclasses.replace(asked, member_id=9, cluster_id=CLUSTER)
    assert codes(only) == []


def test_a_member_that_joined_afresh_is_not_the_one_that_was_meant() -> None:
    """The order's member is gone and the node has another: nothing is removed, so nothing is weighed."""
    seen = view(member(1), member(2), member(3))
    asked = situation(seen, member_id=5, cluster_id=CLUSTER)
    assert codes(asked) == []
    assert "no-member" in [one.code for one in warnings(asked)]


def test_a_ghost_is_told_with_what_to_do_and_holds_healthy_servers() -> None:
    dead = member(4, healthy=False)
    seen = view(member(1), member(2), member(3), dead)
    asked = situation(seen, servers=("s1", "s2", "s3"))
    (problem,) = [one for one in problems(asked, Stage.BEFORE) if one.code == "ghost"]
    assert "kubectl delete node s4" in problem.hint
    assert "bramble etcd remove 4" in problem.hint
    lives = view(member(1), member(2), member(3), member(4), member(5))
    alive = situation(lives, servers=("s1", "s2", "s3", "s5"))
    assert codes(alive) == []
    assert "ghost" in [one.code for one in warnings(alive)]


@pytest.mark.parametrize(
    ("kept", "code"),
    [
        (None, "snapshot"),
        (dataclasses.replace(KEPT, taken_at=NOW - SNAPSHOT_AGE_S - 1), "snapshot"),
        (dataclasses.replace(KEPT, cluster_id=CLUSTER + 1), "snapshot"),
        (dataclasses.replace(KEPT, has_keys=False), "snapshot-keys"),
    ],
    ids=["none", "old", "another cluster's", "without keys"],
)
def test_without_a_way_back_nothing_is_removed(kept: KeptSnapshot | None, code: str) -> None:
    asked = situation(view(member(1), member(2), member(3)), snapshot=kept)
    assert codes(asked) == [code]
    assert codes(asked, Stage.BEFORE) == []  # it is taken on the way


def test_the_apis_address_has_to_have_somewhere_to_go() -> None:
    seen = view(member(1), member(2), member(3))
    vip = {"vip": "10.0.0.99", "vip_holder": "s1"}
    assert codes(situation(seen, **vip, vip_is_movable=True), Stage.BEFORE) == []
    assert codes(situation(seen, **vip, vip_is_movable=True), Stage.REMOVAL) == ["vip"]
    assert codes(situation(seen, **vip), Stage.BEFORE) == ["vip"]
    alone = situation(seen, **vip, vip_is_movable=True, ready=frozenset({"s1"}))
    assert codes(alone, Stage.BEFORE) == ["vip"]
    assert codes(situation(seen, vip="10.0.0.99", vip_holder="s2")) == []


def test_nobody_may_be_left_who_finds_the_cluster_only_there() -> None:
    asked = situation(view(member(1), member(2), member(3)), told_to_come_here=("a1", "a2"))
    assert codes(asked, Stage.BEFORE) == []
    assert codes(asked) == ["registration"]


def test_a_founder_that_may_found_again_is_refused() -> None:
    asked = situation(view(member(1), member(2), member(3)), may_found_again=True)
    assert codes(asked, Stage.BEFORE) == ["cluster-init"]


def test_another_server_on_its_way_is_waited_for() -> None:
    asked = situation(view(member(1), member(2), member(3)), others_away=(("s2", "imaging"),))
    assert codes(asked, Stage.BEFORE) == ["server-away"]


def test_before_the_cluster_exists_there_is_nothing_to_lose() -> None:
    assert codes(situation(None, founded=False)) == []


members = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=7
)  # healthy, learner, nameless


@given(members, st.booleans())
def test_what_is_let_go_never_ends_the_quorum(drawn: list[tuple[bool, bool, bool]], dead: bool) -> None:
    seen = view(
        *(
            member(
                number,
                healthy=healthy,
                is_learner=learner and number > 1,
                name="" if nameless else f"s{number}-{number:08x}",
            )
            for number, (healthy, learner, nameless) in enumerate(drawn, 1)
        )
    )
    asked = situation(seen)
    if codes(asked):
        return
    voters = [one for one in seen.voters if one.node != "s1"]
    assert voters
    assert sum(one.healthy for one in voters) >= quorum_of(len(voters))
    assert sum(one.healthy for one in seen.voters) >= quorum_of(len(seen.voters))
