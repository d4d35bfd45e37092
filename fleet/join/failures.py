"""What the control server does about each class of join failure. Pure.

The agent names the class (`agent.k3s` has the texts by which it knows them, and the one thing a person can
do); here stands what happens without a person. A class is answered once for an installation: what comes
back after that needs somebody to look.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final


class Answer(StrEnum):
    """What happens by itself."""

    WAIT = "wait"
    """k3s tries again on its own, and the cause passes or is mended elsewhere."""
    NEW_MATERIAL = "new-material"
    """New join material, once: another token, the node password as it should be, a stale member removed."""
    CLEAR_ETCD = "clear-etcd"
    """The same, and the node sets its old etcd data aside."""
    PERSON = "person"
    """Nothing: trying again cannot help."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One class.

    Attributes:
        alarms: It should be impossible, or somebody may be in between.
    """

    answer: Answer
    alarms: bool = False


FAILURES: Final[Mapping[str, Failure]] = {
    "unreachable": Failure(Answer.WAIT),
    "clock": Failure(Answer.WAIT),
    "ca_mismatch": Failure(Answer.PERSON, alarms=True),
    "token_rejected": Failure(Answer.NEW_MATERIAL),
    "node_password": Failure(Answer.NEW_MATERIAL, alarms=True),
    "duplicate_member": Failure(Answer.NEW_MATERIAL),
    "removed_member": Failure(Answer.CLEAR_ETCD),
    "unhealthy_cluster": Failure(Answer.WAIT),
    "too_many_learners": Failure(Answer.WAIT),
    "config_mismatch": Failure(Answer.PERSON),
    "cgroup_memory": Failure(Answer.PERSON),
    "snapshotter": Failure(Answer.PERSON),
    "disk_slow": Failure(Answer.WAIT),
    "ip_changed": Failure(Answer.PERSON),
    "version_skew": Failure(Answer.PERSON),
    "under_voltage": Failure(Answer.WAIT),
    # An agent joins anew (`JoinDesk._let_rejoin`). A server is for a person: its member is in etcd.
    "membership_lost": Failure(Answer.PERSON, alarms=True),
    "unknown": Failure(Answer.PERSON),
}
"""Every class that an agent reports, and the gates that keep it from joining."""


def failure_of(code: str) -> Failure | None:
    """None: the problem is no failure to join."""
    return FAILURES.get(code)


def join_failures_of(status: Mapping[str, Any] | None) -> Iterator[str]:
    """The classes that a node's last report names."""
    for problem in (status or {}).get("problems") or ():
        if problem["code"] in FAILURES:
            yield problem["code"]
