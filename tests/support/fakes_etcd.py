"""The servers' etcd as plain memory: members that vote, lead, die and are removed, and data to be saved.

It keeps the rules of etcd's quorum, and says when somebody asks for what would end it. Every call can be the
last one of the caller's process (`calls_left`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fakes_cluster import ClusterMemory
from fakes_kube_memory import CutOffError

from fleet.etcd.errors import EtcdError, NotThisClusterError
from fleet.etcd.messages import Header, SnapshotResponse
from fleet.etcd.view import EtcdMember, EtcdView
from fleet.kube.client import KubeRefusedError
from fleet.quorum import quorum_of

CLUSTER = 77
PREFIX = "etcd.k3s.cattle.io"


def database(text: bytes = b"") -> bytes:
    """A file that looks like etcd's, with its digest."""
    pages = (bytes(16) + b"\xed\xda\x0c\xed" + text).ljust(5 * 4096, b"\0")
    return pages + hashlib.sha256(pages).digest()


@dataclass
class EtcdMemory:
    """`on_remove` is called with the id of a member that is being removed, before it is."""

    members: dict[str, EtcdMember] = field(default_factory=dict)
    leader: str = ""
    calls_left: int | None = None
    data: bytes = field(default_factory=database)
    strangers: tuple[str, ...] = ()
    removed: list[int] = field(default_factory=list)
    moves: list[str] = field(default_factory=list)
    forgetful: bool = False
    """Each member still lists what was removed, as if it had not heard yet."""
    on_remove: Callable[[int], None] = lambda _member: None
    _last: int = 0

    def make(self, _nodes: Mapping[str, str], _identity: object) -> Any:
        """In the place of `EtcdClient`."""
        return self

    def join(self, node: str) -> EtcdMember:
        """A fresh member of a node, which votes."""
        self._last += 1
        member = EtcdMember(
            id=self._last,
            name=f"{node}-{self._last:08x}",
            node=node,
            peer_urls=(f"https://{node}:2380",),
            client_urls=(f"https://{node}:2379",),
            healthy=True,
            raft_index=100,
            version="3.5.1",
        )
        self.members[member.name] = member
        self.leader = self.leader or member.name
        return member

    def of(self, node: str) -> EtcdMember:
        (found,) = [member for member in self.members.values() if member.node == node]
        return found

    def set_health(self, node: str, healthy: bool) -> None:
        """A member dies, or comes back; a leader that dies is followed by another one if there can be one."""
        member = self.of(node)
        problem = "" if healthy else "no answer in time"
        self.members[member.name] = dataclasses.replace(member, healthy=healthy, problem=problem)
        self._elect()

    def has_quorum(self) -> bool:
        voters = [member for member in self.members.values() if not member.is_learner]
        return sum(member.healthy for member in voters) >= quorum_of(len(voters))

    def remove(self, member: EtcdMember) -> None:
        """What MemberRemove does, and what k3s does by it.

        A removal that would leave the others without a quorum is a mistake, whoever asked for it.
        """
        assert self.has_quorum(), "etcd can not agree on a removal"
        self.on_remove(member.id)
        del self.members[member.name]
        self.removed.append(member.id)
        assert self.has_quorum(), f"the quorum ended with the removal of {member.name}"
        self._elect()

    def _elect(self) -> None:
        healthy = [name for name, member in self.members.items() if member.healthy]
        if self.leader not in healthy:
            self.leader = healthy[0] if healthy and self.has_quorum() else ""

    def _called(self) -> None:
        if self.calls_left is not None:
            if self.calls_left == 0:
                raise CutOffError
            self.calls_left -= 1

    # --- the client

    async def observe(self) -> EtcdView:
        self._called()
        if not any(member.healthy for member in self.members.values()):
            raise EtcdError("no member answers")
        quorate = self.has_quorum()
        return EtcdView(
            cluster_id=CLUSTER,
            leader_id=self.members[self.leader].id if quorate and self.leader else None,
            members=tuple(self.members.values()),
            is_quorate=quorate,
            strangers=self.strangers,
        )

    async def move_leader(self, away_from: int) -> int:
        self._called()
        able = [member for member in self.members.values() if member.healthy and member.id != away_from]
        if self.members[self.leader].id == away_from:
            if not able:
                raise EtcdError("no other voter is healthy")
            self.leader = able[0].name
            self.moves.append(able[0].node)
        return self.members[self.leader].id

    async def remove_member(self, member_id: int, cluster_id: int) -> None:
        self._called()
        if cluster_id != CLUSTER:
            raise NotThisClusterError("another cluster")
        for member in list(self.members.values()):
            if member.id == member_id:
                self.remove(member)

    async def remembers(self, _member: EtcdMember, member_id: int) -> bool:
        self._called()
        return self.forgetful or any(member.id == member_id for member in self.members.values())

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        yield self

    def connect_to(self, _member: EtcdMember) -> Any:
        return self._connection()

    async def snapshot(self, _silence_s: float) -> AsyncIterator[SnapshotResponse]:
        self._called()
        half = len(self.data) // 2
        for piece, left in ((self.data[:half], len(self.data) - half), (self.data[half:], 0)):
            yield SnapshotResponse(Header(), left, piece)


@dataclass
class ServersMemory(ClusterMemory):
    """The Kubernetes API with leases, and with what k3s does about members."""

    leases: dict[str, dict[str, Any]] = field(default_factory=dict)
    k3s_works: bool = True

    async def lease(self, name: str) -> dict[str, Any] | None:
        self._called()
        return self.leases.get(name)

    async def give_lease(self, name: str, seen: Mapping[str, Any], holder: str) -> None:
        self._called(f"lease {name} to {holder}")
        if self.leases[name]["metadata"] != seen["metadata"]:
            raise KubeRefusedError("the object has been modified", 409)
        version = str(int(seen["metadata"]["resourceVersion"]) + 1)
        self.leases[name] = {"metadata": {"resourceVersion": version}, "spec": {"holderIdentity": holder}}

    def describe(self, member: EtcdMember) -> None:
        """k3s names the member on its Node."""
        node = self.seen[member.node]
        annotations = {**node.annotations, f"{PREFIX}/node-name": member.name}
        annotations.pop(f"{PREFIX}/remove", None)
        annotations.pop(f"{PREFIX}/removed-node-name", None)
        self.seen[member.node] = dataclasses.replace(node, annotations=annotations)

    def look(self, etcd: EtcdMemory) -> None:
        """What k3s's controllers do when they look: remove members that are marked."""
        if not self.k3s_works or not etcd.has_quorum():
            return
        for name, node in list(self.seen.items()):
            member = etcd.members.get(node.annotations.get(f"{PREFIX}/node-name", ""))
            if node.annotations.get(f"{PREFIX}/remove") == "true" and member is not None:
                etcd.remove(member)
                annotations = {**node.annotations, f"{PREFIX}/removed-node-name": member.name}
                del annotations[f"{PREFIX}/node-name"]
                self.seen[name] = dataclasses.replace(node, annotations=annotations)
