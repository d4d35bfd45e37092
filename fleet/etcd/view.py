"""etcd as it was seen at one moment. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdMember:
    """One member.

    Attributes:
        name: As etcd has it, `<node>-<8 hex>`; empty for one that was added and never started.
        node: The node that it belongs to, from its name; for a nameless one the node at its address, or "".
        peer_urls: Where other members reach it.
        healthy: It answered for itself just now, as a member of this cluster, with a leader and no alarm.
        problem: Why it is not healthy; "" otherwise.
        db_bytes: Size of its database file; 0 unknown.
        raft_index: The last entry of the log that it has applied; 0 unknown.
        revision: How often its data was written; 0 unknown.
    """

    id: int
    name: str
    node: str
    peer_urls: tuple[str, ...] = ()
    client_urls: tuple[str, ...] = ()
    is_learner: bool = False
    healthy: bool = False
    problem: str = ""
    db_bytes: int = 0
    raft_index: int = 0
    revision: int = 0
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdView:
    """The members and what each says of itself.

    Attributes:
        leader_id: Whom more than half of the voters follow; None: nobody.
        is_quorate: The list of members is the cluster's, agreed on by a quorum just now. Else it is one
            member's recollection.
        strangers: Addresses where the etcd of another cluster answers, though one of this cluster should.
    """

    cluster_id: int
    leader_id: int | None
    members: tuple[EtcdMember, ...]
    is_quorate: bool = True
    strangers: tuple[str, ...] = ()

    @property
    def voters(self) -> tuple[EtcdMember, ...]:
        return tuple(member for member in self.members if not member.is_learner)

    @property
    def learners(self) -> tuple[EtcdMember, ...]:
        return tuple(member for member in self.members if member.is_learner)

    @property
    def leader(self) -> EtcdMember | None:
        return next((member for member in self.members if member.id == self.leader_id), None)

    def find(self, member_id: int) -> EtcdMember | None:
        return next((member for member in self.members if member.id == member_id), None)

    def of_node(self, node: str) -> tuple[EtcdMember, ...]:
        """Its members: one, or none; two only where something went wrong before."""
        return tuple(member for member in self.members if member.node == node)


def hex_id(value: int) -> str:
    """A member's or a cluster's id as etcdctl prints it."""
    return f"{value:x}"


def node_of(name: str) -> str:
    """The node that a member's name was made from; "" for a name that k3s did not make."""
    head, hyphen, tail = name.rpartition("-")
    is_suffix = len(tail) == 8 and all(letter in "0123456789abcdef" for letter in tail)
    return head if hyphen and head and is_suffix else ""
