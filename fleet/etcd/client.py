"""The cluster's etcd as one: asks whichever members answer, and each member about itself.

Knows no roles and takes no decisions: whether something may be done is `fleet.reimage.server_checks`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from fleet.etcd.call import Connection, Endpoint, tls_context
from fleet.etcd.errors import EtcdError, EtcdRefusedError, NotThisClusterError
from fleet.etcd.messages import MemberListResponse, RawMember, StatusResponse
from fleet.etcd.view import EtcdMember, EtcdView, hex_id, node_of
from fleet.k3s.material import ClientIdentity
from fleet.quorum import quorum_of

STATUS_S: Final = 2.0
"""A member on a Pi answers for itself in milliseconds; one that needs seconds is not well."""
LIST_S: Final = 4.0
GRACE_S: Final = 1.0
"""For the other members, once one has answered: a frozen one would make every look take seconds."""
LEADER_S: Final = 10.0
"""etcd's own limit for a transfer is its election timeout, 5 s in k3s."""
REMOVE_S: Final = 60.0
MEMBER_NOT_FOUND: Final = "etcdserver: member not found"


class EtcdClient:
    """One cluster's etcd.

    Args:
        nodes: Servers by node name, with the address of each; its member is asked there first.
    """

    def __init__(
        self, nodes: Mapping[str, str], identity: ClientIdentity, *, port: int = Endpoint("").port
    ) -> None:
        self._nodes = {name: Endpoint(address, port) for name, address in nodes.items()}
        self._tls: ssl.SSLContext = tls_context(identity)

    async def observe(self) -> EtcdView:
        """Who is in the cluster, and how each member is. Takes a few seconds where members are silent.

        Raises:
            EtcdError: No member answers at all.
        """
        listed, is_quorate, strangers = await self._members()
        asked = await asyncio.gather(*(self._ask(member) for member in listed.members))
        statuses = dict(zip((member.id for member in listed.members), asked, strict=True))
        cluster_id = listed.header.cluster_id
        leader = _agreed_leader(listed.members, statuses.values(), cluster_id)
        members = tuple(
            self._judge(member, statuses[member.id], cluster_id, leader) for member in listed.members
        )
        return EtcdView(
            cluster_id=cluster_id,
            leader_id=leader,
            members=members,
            is_quorate=is_quorate,
            strangers=tuple(dict.fromkeys((*strangers, *_strangers(listed.members, statuses, cluster_id)))),
        )

    async def move_leader(self, away_from: int) -> int:
        """Have another voter lead, if `away_from` does; the id of who leads then.

        The most advanced healthy voter is chosen: the transfer waits for it to catch up.

        Raises:
            EtcdError: Nobody leads, nobody else can, or etcd refuses.
        """
        view = await self.observe()
        leader = view.leader
        if leader is None:
            raise EtcdError(
                "etcd has no leader, so none can be moved", "More than half of its servers have to be up."
            )
        if leader.id != away_from:
            return leader.id
        able = [member for member in view.voters if member.healthy and member.id != away_from]
        if not able:
            raise EtcdError(
                f"{leader.node or leader.name} leads etcd and no other voter is healthy",
                "Bring another server back first.",
            )
        chosen = max(able, key=lambda member: (member.raft_index, member.id))
        async with self._connect(self._endpoints_of(leader)[0]) as connection:
            try:
                await connection.move_leader(chosen.id, LEADER_S)
            except EtcdRefusedError as error:
                if error.words != "etcdserver: not leader":  # it was moved meanwhile
                    raise
        return await self._leader_after(away_from)

    async def remove_member(self, member_id: int, cluster_id: int) -> None:
        """Take a member out of etcd. The fallback where k3s does not do it; one that is gone is no error.

        Raises:
            NotThisClusterError: What answers is not the cluster that the member was seen in.
            EtcdError: No quorum, or a refusal.
        """
        view = await self.observe()
        if view.cluster_id != cluster_id:
            raise NotThisClusterError(
                f"etcd is cluster {hex_id(view.cluster_id)} now, the member was seen in {hex_id(cluster_id)}",
                "Nothing was removed. Was the cluster restored meanwhile?",
            )
        others = [member for member in view.voters if member.healthy and member.id != member_id]
        if not others:
            raise EtcdError(
                "no other member of etcd is healthy enough to remove one",
                "Bring the other servers back first.",
            )
        async with self._connect(self._endpoints_of(others[0])[0]) as connection:
            try:
                await connection.remove(member_id, REMOVE_S)
            except EtcdRefusedError as error:
                if error.words != MEMBER_NOT_FOUND:
                    raise

    async def remembers(self, member: EtcdMember, member_id: int) -> bool:
        """Whether a member's own list still has another one, whatever the cluster agreed on.

        Raises:
            EtcdError: It does not answer.
        """
        async with self.connect_to(member) as connection:
            listed = await connection.members(linearizable=False, timeout_s=LIST_S)
        return any(one.id == member_id for one in listed.members)

    def connect_to(self, member: EtcdMember) -> Connection:
        """A connection to one member, for its snapshot."""
        return self._connect(self._endpoints_of(member)[0])

    async def _leader_after(self, away_from: int) -> int:
        """The transfer is done when the others follow the new leader."""
        try:
            async with asyncio.timeout(LEADER_S):
                while True:
                    view = await self.observe()
                    if view.leader_id is not None and view.leader_id != away_from:
                        return view.leader_id
                    await asyncio.sleep(0.1)
        except TimeoutError as error:
            raise EtcdError(f"etcd has agreed on no other leader within {LEADER_S:.0f} s") from error

    async def _members(self) -> tuple[MemberListResponse, bool, tuple[str, ...]]:
        """The list that a quorum agrees on, or else the best recollection; and who is of another cluster.

        All are asked at once: a member that is cut off answers for itself as if nothing were wrong.
        """
        endpoints = list(self._nodes.values())
        agreed, own = await asyncio.gather(
            _first_and_more([self._list(one, linearizable=True) for one in endpoints]),
            _first_and_more([self._list(one, linearizable=False) for one in endpoints]),
        )
        answers = _answered(endpoints, agreed)
        is_quorate = bool(answers)
        answers = answers or _answered(endpoints, own)
        if not answers:
            reasons = dict.fromkeys(answer.message for answer in own if isinstance(answer, EtcdError))
            raise EtcdError(
                "; ".join(reasons) or "no server of the cluster has a known address",
                "Are the servers up, and is tcp port 2379 open between them and this machine?",
            )
        counts = Counter(answer.header.cluster_id for _, answer in answers)
        cluster_id = counts.most_common(1)[0][0]
        strangers = tuple(str(one) for one, answer in answers if answer.header.cluster_id != cluster_id)
        chosen = max(
            (answer for _, answer in answers if answer.header.cluster_id == cluster_id),
            key=lambda answer: answer.header.raft_term,
        )
        return chosen, is_quorate, strangers

    async def _list(self, endpoint: Endpoint, *, linearizable: bool) -> MemberListResponse | EtcdError:
        try:
            async with self._connect(endpoint) as connection:
                return await connection.members(linearizable=linearizable, timeout_s=LIST_S)
        except EtcdError as error:
            return error

    async def _ask(self, member: RawMember) -> StatusResponse | EtcdError:
        """What it says of itself, at the first of its addresses that answers."""
        reason = EtcdError("it has not started yet")
        try:
            for endpoint in map(Endpoint.parse, member.client_urls):
                try:
                    async with self._connect(endpoint) as connection:
                        return await connection.status(STATUS_S)
                except EtcdError as error:
                    reason = error
        except EtcdError as error:
            return error
        return reason

    def _judge(
        self, member: RawMember, said: StatusResponse | EtcdError, cluster_id: int, leader: int | None
    ) -> EtcdMember:
        problem = _problem(member, said, cluster_id, leader)
        status = said if isinstance(said, StatusResponse) else None
        return EtcdMember(
            id=member.id,
            name=member.name,
            node=self._node_of(member),
            peer_urls=member.peer_urls,
            client_urls=member.client_urls,
            is_learner=member.is_learner,
            healthy=not problem,
            problem=problem,
            db_bytes=status.db_bytes if status else 0,
            raft_index=status.applied_index if status else 0,
            revision=status.header.revision if status else 0,
            version=status.version if status else "",
        )

    def _node_of(self, member: RawMember) -> str:
        named = node_of(member.name)
        if named:
            return named
        hosts = {name: endpoint.host for name, endpoint in self._nodes.items()}
        for url in (*member.peer_urls, *member.client_urls):
            for name, host in hosts.items():
                if url.startswith((f"https://{host}:", f"https://[{host}]:")):
                    return name
        return ""

    def _endpoints_of(self, member: EtcdMember) -> Sequence[Endpoint]:
        found = [Endpoint.parse(url) for url in member.client_urls]
        if not found:
            raise EtcdError(f"member {hex_id(member.id)} of etcd has no address yet")
        return found

    def _connect(self, endpoint: Endpoint) -> Connection:
        return Connection(endpoint, self._tls)


async def _first_and_more(
    questions: Sequence[Coroutine[Any, Any, MemberListResponse | EtcdError]],
) -> list[MemberListResponse | EtcdError]:
    """The answers in their order: those that come until a moment after the first good one."""
    tasks = [asyncio.create_task(question) for question in questions]
    waiting: set[asyncio.Future[MemberListResponse | EtcdError]] = set(tasks)
    try:
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if any(isinstance(task.result(), MemberListResponse) for task in done):
                break
        if waiting:
            await asyncio.wait(waiting, timeout=GRACE_S)
        return [task.result() if task.done() else EtcdError("no answer in time") for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _answered(
    endpoints: Iterable[Endpoint], answers: Iterable[MemberListResponse | EtcdError]
) -> list[tuple[Endpoint, MemberListResponse]]:
    pairs = zip(endpoints, answers, strict=True)
    return [(one, answer) for one, answer in pairs if isinstance(answer, MemberListResponse)]


def _agreed_leader(
    members: Iterable[RawMember], statuses: Iterable[StatusResponse | EtcdError], cluster_id: int
) -> int | None:
    """Whom more than half of the voters call their leader: one that is cut off still calls the last one."""
    votes: Counter[int] = Counter()
    voters = 0
    for member, said in zip(members, statuses, strict=True):
        if member.is_learner:
            continue
        voters += 1
        if isinstance(said, StatusResponse) and said.leader and said.header.cluster_id == cluster_id:
            votes[said.leader] += 1
    if not votes:
        return None
    leader, count = votes.most_common(1)[0]
    return leader if count >= quorum_of(voters) else None


def _strangers(
    members: Iterable[RawMember], statuses: Mapping[int, StatusResponse | EtcdError], cluster_id: int
) -> Iterator[str]:
    """Members' addresses where another cluster's etcd answered: its list may have come too late to count."""
    for member in members:
        said = statuses[member.id]
        if isinstance(said, StatusResponse) and said.header.cluster_id != cluster_id:
            yield str(Endpoint.parse(member.client_urls[0]))


def _problem(member: RawMember, said: StatusResponse | EtcdError, cluster_id: int, leader: int | None) -> str:
    """Why a member does not count as healthy; "" if it does."""
    if isinstance(said, EtcdError):
        return said.message
    if said.header.cluster_id != cluster_id:
        return f"at its address answers etcd of another cluster, {hex_id(said.header.cluster_id)}"
    if said.header.member_id != member.id:
        return f"at its address answers another member, {hex_id(said.header.member_id)}"
    if said.errors:
        return f"it says: {'; '.join(said.errors)[:200]}"
    if leader is not None and said.leader != leader:
        return "it follows no leader" if not said.leader else "it follows another leader than the others do"
    return "" if said.leader else "it follows no leader"
