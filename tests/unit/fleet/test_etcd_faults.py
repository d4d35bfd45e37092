"""What is wrong with etcd, at one look."""

from __future__ import annotations

import dataclasses

import pytest

from fleet.etcd.view import EtcdMember, EtcdView
from fleet.etcd.watch import faults_of

NAMES = ("s1", "s2", "s3")
MEMBERS = tuple(
    EtcdMember(id=number, name=f"{name}-0a1b2c3d", node=name, healthy=True)
    for number, name in enumerate(NAMES, 1)
)
VIEW = EtcdView(cluster_id=7, leader_id=1, members=MEMBERS)


def ill(number: int, problem: str) -> tuple[EtcdMember, ...]:
    changed = dataclasses.replace(MEMBERS[number], healthy=False, problem=problem)
    return (*MEMBERS[:number], changed, *MEMBERS[number + 1 :])


def test_nothing_is_said_of_one_that_is_well() -> None:
    assert faults_of(VIEW, NAMES, NAMES) == ()


def test_a_member_of_a_ready_server_has_to_be_well() -> None:
    view = dataclasses.replace(VIEW, members=ill(2, "its database is full"))
    (fault,) = faults_of(view, NAMES, NAMES)
    assert fault.subject == "s3"
    assert "its database is full" in fault.text
    assert "bramble logs s3" in fault.hint


def test_a_server_that_is_taken_down_is_left_out() -> None:
    view = dataclasses.replace(VIEW, members=ill(2, "no answer"))
    assert faults_of(view, NAMES, ("s1", "s2")) == ()


@pytest.mark.parametrize(
    ("changes", "subject", "words"),
    [
        ({"is_quorate": False, "leader_id": None}, "", "no quorum"),
        ({"leader_id": None}, "", "no leader"),
        ({"strangers": ("10.77.0.13:2379",)}, "10.77.0.13:2379", "another cluster"),
    ],
    ids=["quorum", "leader", "stranger"],
)
def test_what_ails_the_whole_is_said_once(changes: dict[str, object], subject: str, words: str) -> None:
    (fault,) = faults_of(dataclasses.replace(VIEW, **changes), NAMES, NAMES)  # type: ignore[arg-type]
    assert fault.subject == subject
    assert words in fault.text


def test_a_member_that_is_left_over_is_told_with_its_way_out() -> None:
    (fault,) = faults_of(VIEW, NAMES[:2], NAMES[:2])
    assert fault.subject == "3"
    assert "no declared server" in fault.text
    assert "bramble etcd remove 3" in fault.hint
