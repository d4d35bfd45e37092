"""May a server leave etcd now? Pure arithmetic over its members.

Removing a member is itself a write: it needs more than half of the present voters. Afterwards the rest must
have more than half of its own number healthy, or the cluster stands still.

Source: measured with etcd 3.5.1: of two voters with one dead, `member remove` hangs for ever; of three with
    one dead it succeeds, and adding before removing is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A server as etcd counts it.

    Attributes:
        votes: It is a voter, not a learner.
        healthy: It answers now.
    """

    name: str
    votes: bool
    healthy: bool


def quorum_of(voters: int) -> int:
    """How many of so many voters must agree."""
    return voters // 2 + 1


def removal_problem(members: Iterable[Member], leaving: Iterable[str]) -> str | None:
    """Why these servers may not be taken out, one after the other; None: they may.

    Args:
        leaving: Names; those that are no members do not matter.
    """
    voters = [member for member in members if member.votes]
    names = {name for name in leaving if any(member.name == name for member in voters)}
    if not names:
        return None
    healthy = [member for member in voters if member.healthy]
    if len(healthy) < quorum_of(len(voters)):
        return (
            f"only {len(healthy)} of {len(voters)} servers are healthy, {quorum_of(len(voters))} are needed "
            "to change etcd's members"
        )
    staying = [member for member in voters if member.name not in names]
    if not staying:
        return "no server would be left: the cluster's state is on them"
    able = [member for member in staying if member.healthy]
    if len(able) < quorum_of(len(staying)):
        dead = ", ".join(sorted(member.name for member in staying if not member.healthy))
        return (
            f"of the {len(staying)} servers that stay only {len(able)} are healthy ({dead} not), "
            f"{quorum_of(len(staying))} are needed"
        )
    return None
