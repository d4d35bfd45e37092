"""Who may join when."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from node_records import record

from fleet.join.preparation import needs_token
from fleet.join.state import JoinState
from fleet.join.turn import slow_disk_text, turn_of
from fleet.lifecycle import State
from fleet.spec.model import JoinPolicy, Role, SlowDisk
from fleet.store.records import NodeRecord

S1 = record("s1", Role.SERVER, State.JOINING)
S1_UP = record("s1", Role.SERVER, State.READY, allowed=True)
S2 = record("s2", Role.SERVER, State.JOINING)
S2_BUSY = record("s2", Role.SERVER, State.JOINING, allowed=True)
S3 = record("s3", Role.SERVER, State.JOINING)
A1 = record("a1", Role.AGENT, State.JOINING)


@pytest.mark.parametrize(
    ("node", "others", "founder", "founded", "allowed", "reason"),
    [
        (S1, [S1, A1], None, False, True, "founds the cluster"),
        (S1, [S1, A1], "s1", False, True, "founds the cluster"),
        (S2, [S1, S2], "s1", False, False, "(s1) is not Ready yet"),
        (A1, [A1], None, False, False, "no server is up"),
        (A1, [S1, A1], "s1", False, False, "(s1) is not Ready yet"),
        (A1, [S1_UP, A1], "s1", True, True, "a server is Ready"),
        (S2, [S1_UP, S2], "s1", True, True, "no other server is joining"),
        (S3, [S1_UP, S2_BUSY, S3], "s1", True, False, "server s2 is joining"),
        (A1, [S1_UP, S2_BUSY, A1], "s1", True, True, "a server is Ready"),
        (S1, [S1, A1], "s1", True, False, "no server is Ready"),
    ],
)
def test_turn(
    node: NodeRecord, others: list[NodeRecord], founder: str | None, founded: bool, allowed: bool, reason: str
) -> None:
    turn = turn_of(node, others, founder=founder, founded=founded)
    assert turn.allowed is allowed
    assert reason in turn.reason


def told(node: NodeRecord, **status: object) -> NodeRecord:
    return dataclasses.replace(node, status=status)


def turn_in_running_cluster(node: NodeRecord, *others: NodeRecord, policy: JoinPolicy | None = None) -> str:
    """The reason of a wait; empty: it may join."""
    turn = turn_of(node, [*others, node], founder="s1", founded=True, policy=policy or JoinPolicy())
    return "" if turn.allowed else turn.reason


def test_agents_join_in_batches_and_a_failed_one_holds_no_place() -> None:
    policy = JoinPolicy(batch=2)
    busy = [record(f"b{number}", Role.AGENT, State.JOINING, allowed=True) for number in range(2)]
    waiting = turn_in_running_cluster(A1, S1_UP, *busy, policy=policy)
    assert waiting == "2 agents are joining, 2 at a time"
    failed = record("b0", Role.AGENT, State.FAILED_JOINING, allowed=True)
    assert turn_in_running_cluster(A1, S1_UP, failed, busy[1], policy=policy) == ""
    assert turn_in_running_cluster(S2, S1_UP, *busy, policy=policy) == ""


@pytest.mark.parametrize(
    ("node", "own", "server", "reason"),
    [
        (A1, "v1.33.5+k3s1", "v1.33.5+k3s1", ""),
        (A1, "v1.34.1+k3s1", "v1.33.5+k3s1", "version_skew: its k3s v1.34.1+k3s1 is newer"),
        (S2, "v1.34.1+k3s1", "v1.33.5+k3s1", ""),
        (S2, "v1.35.1+k3s1", "v1.33.5+k3s1", "version_skew: its k3s v1.35.1+k3s1 leaves out"),
        (A1, "nonsense", "v1.33.5+k3s1", ""),
        (A1, "v1.34.1+k3s1", None, ""),
    ],
)
def test_versions_that_do_not_go_together_wait(
    node: NodeRecord, own: str, server: str | None, reason: str
) -> None:
    running = told(S1_UP, k3s_version=server)
    found = turn_in_running_cluster(told(node, k3s_version=f"k3s version {own} (abc)"), running)
    assert found.startswith(reason) if reason else found == ""


@pytest.mark.parametrize(
    ("node", "sync_ms", "slow_disk", "waits", "warns"),
    [
        (S2, 3.0, SlowDisk.REFUSE, False, False),
        (S2, 40.0, SlowDisk.REFUSE, False, True),
        (S2, 140.0, SlowDisk.REFUSE, True, True),
        (S2, 140.0, SlowDisk.WARN, False, True),
        (S2, None, SlowDisk.REFUSE, False, False),
        (A1, 140.0, SlowDisk.REFUSE, False, False),
    ],
)
def test_disk_that_is_too_slow_for_etcd(
    node: NodeRecord, sync_ms: float | None, slow_disk: SlowDisk, waits: bool, warns: bool
) -> None:
    measured = told(node, disk_sync_ms=sync_ms)
    reason = turn_in_running_cluster(measured, S1_UP, policy=JoinPolicy(slow_disk=slow_disk))
    assert reason.startswith("disk_slow: its disk takes 140 ms") is waits
    assert (slow_disk_text(measured) is not None) is warns


def test_founder_is_held_by_its_disk_too() -> None:
    slow = told(S1, disk_sync_ms=400.0)
    turn = turn_of(slow, [slow], founder=None, founded=False, policy=JoinPolicy(slow_disk=SlowDisk.REFUSE))
    assert not turn.allowed


@given(
    roles=st.lists(st.tuples(st.sampled_from(Role), st.sampled_from(State), st.booleans()), max_size=6),
    founder=st.none() | st.sampled_from(["n0", "n1"]),
)
def test_nobody_founds_a_second_cluster(roles: list[tuple[Role, State, bool]], founder: str | None) -> None:
    nodes = [
        record(f"n{number}", role, state, allowed=allowed)
        for number, (role, state, allowed) in enumerate(roles)
    ]
    for node in nodes:
        assert not turn_of(node, nodes, founder=founder, founded=True).founds
        if turn_of(node, nodes, founder=founder, founded=False).founds:
            assert node.role is Role.SERVER
            assert founder in (None, node.name)


def test_who_waits_for_a_server_that_failed_is_told_what_helps() -> None:
    failed = record("s2", Role.SERVER, State.FAILED_JOINING, allowed=True)
    reason = turn_in_running_cluster(S3, S1_UP, failed)
    assert reason.startswith("server s2 failed to join")
    assert "'bramble revoke s2'" in reason


def test_node_without_a_certificate_keeps_no_token() -> None:
    joining = record("a1", Role.AGENT, State.JOINING, allowed=True)
    assert not needs_token(joining, JoinState())
    assert needs_token(dataclasses.replace(joining, certificate="c1"), JoinState())
