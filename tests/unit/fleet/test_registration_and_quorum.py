"""Which server a node is told, and which servers may leave."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.join.preparation import members_of, untold_of
from fleet.join.registration import ServerSeen, choose_server
from fleet.kube.objects import ETCD_ROLE, KubeNode
from fleet.quorum import Member, quorum_of, removal_problem


def seen(name: str, up: bool = True) -> ServerSeen:
    return ServerSeen(name, f"https://{name}:6443", up)


def test_present_server_is_kept_while_it_is_up() -> None:
    servers = [seen("s1"), seen("s2"), seen("s3")]
    for server in servers:
        assert choose_server("a1", server.url, servers) == server.url


def test_server_that_went_away_is_replaced() -> None:
    assert choose_server("a1", "https://s1:6443", [seen("s1", up=False), seen("s2")]) == "https://s2:6443"


def test_server_that_is_away_is_kept_where_nobody_else_is_up() -> None:
    assert choose_server("a1", "https://s1:6443", [seen("s1", up=False)]) == "https://s1:6443"


def test_server_that_is_no_longer_declared_is_forgotten() -> None:
    assert choose_server("s2", "https://gone:6443", [seen("s2")]) is None


def test_a_server_is_never_told_itself() -> None:
    assert choose_server("s1", None, [seen("s1")]) is None
    assert choose_server("s1", "https://s1:6443", [seen("s1"), seen("s2")]) == "https://s2:6443"


def test_virtual_address_comes_before_every_server() -> None:
    assert choose_server("a1", "https://s1:6443", [seen("s1")], "https://vip:6443") == "https://vip:6443"


def test_nodes_are_spread() -> None:
    servers = [seen("s1"), seen("s2"), seen("s3")]
    assert {choose_server(f"a{n}", None, servers) for n in range(30)} == {one.url for one in servers}


def member(name: str, *, votes: bool = True, healthy: bool = True) -> Member:
    return Member(name=name, votes=votes, healthy=healthy)


@pytest.mark.parametrize(
    ("dead", "count", "leaving", "problem"),
    [
        ([], 3, ["s0"], None),
        (["s0"], 3, ["s0"], None),
        (["s0"], 3, ["s1"], "of the 2 servers that stay only 1 are healthy (s0 not)"),
        (["s0", "s1"], 3, ["s0"], "only 1 of 3 servers are healthy, 2 are needed"),
        ([], 2, ["s0"], None),
        (["s0"], 2, ["s0"], "only 1 of 2 servers are healthy"),
        ([], 1, ["s0"], "no server would be left"),
        ([], 3, ["s0", "s1", "s2"], "no server would be left"),
        ([], 3, ["s0", "s1"], None),
        ([], 3, ["agent"], None),
        (["s0"], 5, ["s0", "s1"], None),
        ([], 0, ["s0"], None),
    ],
)
def test_who_may_leave(dead: list[str], count: int, leaving: list[str], problem: str | None) -> None:
    members = [member(f"s{n}", healthy=f"s{n}" not in dead) for n in range(count)]
    found = removal_problem(members, leaving)
    assert (found is None) if problem is None else (found is not None and problem in found)


def test_learner_may_always_leave() -> None:
    members = [member("s0"), member("s1", healthy=False), member("s2", votes=False, healthy=False)]
    assert removal_problem(members, ["s2"]) is None


@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), max_size=7),
    st.sets(st.integers(0, 6), max_size=7),
)
def test_what_stays_can_always_decide(states: list[tuple[bool, bool]], leaving: set[int]) -> None:
    members = [member(f"s{n}", votes=votes, healthy=healthy) for n, (votes, healthy) in enumerate(states)]
    names = {f"s{n}" for n in leaving}
    if removal_problem(members, names) is not None:
        return
    staying = [one for one in members if one.votes and one.name not in names]
    if any(one.votes and one.name in names for one in members):
        assert sum(one.healthy for one in staying) >= quorum_of(len(staying)) >= 1


def listed(name: str, *, ready: bool = True, votes: bool | None = None, etcd: bool = True) -> KubeNode:
    labels = {ETCD_ROLE: "true"} if etcd else {}
    return KubeNode(name, ready=ready, reason="", version="v1.21.3+k3s1", votes=votes, labels=labels)


def test_where_nobody_says_who_votes_every_server_with_etcd_does() -> None:
    """Releases before v1.25.16: without this, nothing would keep the last healthy member from going."""
    nodes = [listed("s1"), listed("s2", ready=False), listed("a1", etcd=False)]
    assert members_of({node.name: node for node in nodes}) == [member("s1"), member("s2", healthy=False)]


def test_where_it_is_said_who_votes_nodes_without_etcd_are_no_members() -> None:
    nodes = [listed("s1", votes=True), listed("s2", votes=False), listed("a1", etcd=False)]
    listing = {node.name: node for node in nodes}
    assert members_of(listing) == [member("s1"), member("s2", votes=False)]
    assert untold_of(listing) == ()


def test_a_server_of_an_old_release_beside_newer_ones_makes_the_count_of_votes_unknown() -> None:
    nodes = [listed("s1", votes=True), listed("s2", votes=True), listed("s3"), listed("a1", etcd=False)]
    assert untold_of({node.name: node for node in nodes}) == ("s3",)
    old = [listed("s1"), listed("s2")]
    assert untold_of({node.name: node for node in old}) == ()
