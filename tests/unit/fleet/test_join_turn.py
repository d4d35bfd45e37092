"""Who may join when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.joining import turn_of
from fleet.lifecycle import Standing, State
from fleet.secret import Secret
from fleet.spec.model import Role
from fleet.store.records import NodeRecord


def record(name: str, role: Role, state: State, *, allowed: bool = False) -> NodeRecord:
    return NodeRecord(
        name=name,
        uuid=name,
        role=role,
        board="pi5",
        standing=Standing(state=state, since=0.0, progressed_at=0.0),
        detail="",
        serial=None,
        mac=None,
        image_id=None,
        disk_signature=None,
        certificate=None,
        previous_certificate=None,
        agent_key=None,
        pending_key=None,
        approved_key=None,
        generation=1,
        join_allowed=allowed,
        node_password=Secret("p"),
        boot_id=None,
        boots=0,
        status=None,
        status_sequence=0,
        status_at=None,
    )


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
