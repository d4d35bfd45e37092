"""Where the other rooms of a re-image plug in: what is checked before, a server's steps, the way in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from fleet.kube.client import KubeNode
from fleet.reimage.drain import Load
from fleet.reimage.kinds import ReimageKind
from fleet.reimage.problems import Problem
from fleet.spec.model import ClusterSpec, NodeSpec
from fleet.store.records import NodeRecord, ReimageRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What is known when it is asked whether a node may be taken down.

    Attributes:
        by: Who orders it: a person, `policy`, `rollout`.
        spec: How the node is declared; None: it is not.
        nodes: Every node's record, this one included.
        orders: The open orders of all nodes, by name.
        listing: The Node objects; None: the Kubernetes API does not answer.
        silence: Why it does not; empty where it does.
        load: What is on the node; None: it is not known.
        silent: Neither its kubelet nor its agent is heard of.
    """

    kind: ReimageKind
    by: str
    force: bool
    image_id: str | None
    node: NodeRecord
    spec: NodeSpec | None
    cluster: ClusterSpec
    nodes: tuple[NodeRecord, ...]
    orders: Mapping[str, ReimageRecord]
    listing: Mapping[str, KubeNode] | None
    silence: str
    load: Load | None
    silent: bool
    now: float


@dataclass(frozen=True, slots=True)
class Findings:
    """Why it may not be, and what to know if it is."""

    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()

    def __add__(self, other: Findings) -> Findings:
        return Findings(self.problems + other.problems, self.warnings + other.warnings)


Check = Callable[[Situation], Awaitable[Findings]]
"""May ask the cluster; raises `FleetError` where it can not tell, which counts as a problem."""


@dataclass(frozen=True, slots=True)
class Done:
    """A server's step was seen to be done; `note` is written down with it."""

    text: str
    note: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NotYet:
    """A step is under way, or can not be done now; `note` is written down before it is asked again."""

    why: str
    note: Mapping[str, Any] = field(default_factory=dict)


class ServerSteps(Protocol):
    """What only servers need. Each looks first, does what is missing, and may be asked again at any time.

    All may raise `FleetError`: it is tried again until the state's limit.
    """

    async def move_leader(self, order: ReimageRecord, node: NodeRecord) -> Done | NotYet:
        """Another member leads etcd, and the API's own address is elsewhere."""
        ...

    async def snapshot(self, order: ReimageRecord, node: NodeRecord) -> Done | NotYet:
        """A snapshot is kept off the node. The note has all that the removal needs: member and cluster id."""
        ...

    async def remove_member(self, order: ReimageRecord, node: NodeRecord) -> Done | NotYet:
        """Its member is gone from etcd, which was seen."""
        ...

    async def obstacle(self, order: ReimageRecord, node: NodeRecord) -> str:
        """Why etcd can not change its members at this moment; "" it can."""
        ...


class WayIn(Protocol):
    """Gets a board whose intent is open to start from the network."""

    async def enter(self, order: ReimageRecord, node: NodeRecord) -> NotYet:
        """Do the next thing, or wait; what is to be remembered is in the note."""
        ...
