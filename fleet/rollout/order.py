"""In which order a fleet gets another image, and what stands against beginning. Pure.

    k3s gets newer    servers first, one by one: an agent must not be newer than a server
    k3s gets older    agents first, for the same reason; servers within their minor release only
    k3s stays         agents first: a lost agent costs its workload a moment, a server costs etcd its margin,
                      and by then every agent has proven the image

The canary is the first node of that order, so it is of the role that goes first.

Source: Kubernetes "Version Skew Policy"; k3s documentation, "Upgrades".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from fleet.images import ImageFacts
from fleet.k3s.versions import K3sVersion, skew_between
from fleet.lifecycle import State
from fleet.reimage.problems import Problem
from fleet.spec.model import Role

SERVERS_FIRST: Final = "servers first, because agents must not run a newer k3s than servers"
AGENTS_FIRST: Final = "agents first, because servers must not run an older k3s than agents"
AGENTS_BEFORE: Final = "agents first, so that the image is proven before etcd loses a member for a while"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A node before the rollout.

    Attributes:
        image_id: What its disk holds; None: it is not known.
        k3s: The release that it reported last.
        unobserved: The record is a backup's, and it was not heard of since.
    """

    node: str
    role: Role
    state: State
    image_id: str | None
    k3s: K3sVersion | None
    unobserved: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Nodes in their order, why, and what stands against it."""

    nodes: tuple[Candidate, ...]
    order: str
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]

    @property
    def canary(self) -> str:
        return self.nodes[0].node if self.nodes else ""


def plan(
    candidates: Iterable[Candidate],
    image: ImageFacts,
    *,
    canary: str | None,
    max_parallel: int,
    allowed_parallel: int,
) -> Plan:
    """The order for an image.

    Args:
        candidates: Every declared node.
        canary: The node that a person wants first; None: the order's first.
        allowed_parallel: `policy.reimage.max_parallel`.
    """
    everybody = sorted(candidates, key=lambda one: one.node)
    members = [one for one in everybody if _is_member(one)]
    wanted = [one for one in members if one.image_id != image.id]
    servers_first, order = _first(image, members)
    nodes = sorted(wanted, key=lambda one: ((one.role is Role.SERVER) is not servers_first, one.node))
    problems = [*_version_problems(image, members), *_state_problems(wanted)]
    if canary is not None:
        problems += _canary_problems(canary, nodes, everybody, order)
        nodes.sort(key=lambda one: one.node != canary)
    if max_parallel > allowed_parallel:
        problems.append(
            Problem(
                "budget",
                f"{max_parallel} agents at a time are more than the {allowed_parallel} of "
                "'policy.reimage.max_parallel'",
                "Ask for fewer, or change cluster.yaml and run 'bramble apply'.",
            )
        )
    if not wanted:
        problems.append(Problem("nothing", f"all nodes that have joined hold image {image.short} already"))
    return Plan(tuple(nodes), order, tuple(problems), _warnings(everybody, nodes))


def _is_member(one: Candidate) -> bool:
    """It was installed once, and is to come back where it is being installed again."""
    if one.state in (State.DECLARED, State.DECOMMISSIONED):
        return False
    return one.image_id is not None or one.state.is_installed


def _first(image: ImageFacts, members: Sequence[Candidate]) -> tuple[bool, str]:
    """Whether servers go first, and why."""
    version = K3sVersion.find(image.k3s_version)
    servers = [one.k3s for one in members if one.role is Role.SERVER and one.k3s is not None]
    if version is None or not servers:
        return False, AGENTS_BEFORE
    if version > min(servers):
        return True, SERVERS_FIRST
    if version < max(servers):
        return False, AGENTS_FIRST
    return False, AGENTS_BEFORE


def _version_problems(image: ImageFacts, members: Sequence[Candidate]) -> list[Problem]:
    version = K3sVersion.find(image.k3s_version)
    servers = [one.k3s for one in members if one.role is Role.SERVER and one.k3s is not None]
    if version is None or not servers:
        return []
    skew = skew_between(version, servers, is_server=True)
    if skew is None:
        return []
    return [Problem("version", f"image {image.short}: {skew}", "Take a release of the next minor version.")]


def _state_problems(wanted: Sequence[Candidate]) -> list[Problem]:
    found = []
    for one in wanted:
        if one.role is Role.SERVER and one.state is not State.READY:
            found.append(
                Problem(
                    "server",
                    f"server {one.node} is '{one.state}': etcd has no margin to lose another one",
                    f"Mend it first: 'bramble show {one.node}'.",
                )
            )
        if one.unobserved:
            found.append(
                Problem(
                    "unobserved",
                    f"the record was restored from a backup and {one.node} was not heard of since",
                    "Wait until it reports.",
                )
            )
    return found


def _canary_problems(
    canary: str, nodes: Sequence[Candidate], everybody: Sequence[Candidate], order: str
) -> list[Problem]:
    known = {one.node: one for one in everybody}
    if canary not in known:
        return [Problem("canary", f"there is no node {canary!r}", "'bramble nodes' lists them.")]
    if canary not in {one.node for one in nodes}:
        why = f"is '{known[canary].state}'" if nodes else "has the image"
        why = "has the image already" if known[canary].state is State.READY else why
        return [Problem("canary", f"{canary} cannot go first: it {why}")]
    if nodes and known[canary].role is not nodes[0].role:
        return [
            Problem(
                "canary",
                f"{canary} cannot go first, it is of role {known[canary].role}: {order}",
                f"Take {nodes[0].node}, or another {nodes[0].role}.",
            )
        ]
    return []


def _warnings(everybody: Sequence[Candidate], nodes: Sequence[Candidate]) -> tuple[Problem, ...]:
    found = [
        Problem(
            "state",
            f"{one.node} is '{one.state}': the rollout waits for it when its turn has come",
            f"'bramble show {one.node}' tells what it lacks.",
        )
        for one in nodes
        if one.state is not State.READY and one.role is Role.AGENT
    ]
    outside = [one.node for one in everybody if not _is_member(one) and one.state is not State.DECOMMISSIONED]
    if outside:
        names = ", ".join(outside)
        found.append(Problem("outside", f"never installed, and not part of the rollout: {names}"))
    return tuple(found)
