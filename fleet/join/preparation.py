"""What has to exist in the cluster before a node joins, and what must be gone once it has.

Before a node is handed its material: its password (so that its name is its own), a bootstrap token for an
    agent, and, for a server that was installed again, the end of its old etcd member. Afterwards, whenever
    Kubernetes is asked: tokens of nodes that do not join any more are deleted. Each step may be repeated,
    and a crash between two of them costs nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from agent.protocol import K3sState
from fleet import events
from fleet.ground import Ground
from fleet.join.desk import JoinDesk
from fleet.join.secrets import (
    NODE_LABEL,
    SALT_BYTES,
    TOKEN_RENEW_BEFORE_S,
    TOKEN_TTL_S,
    BootstrapToken,
    accepts_password,
    bootstrap_token_object,
    expires_at,
    node_password_name,
    node_password_object,
)
from fleet.join.state import JoinState
from fleet.join.turn import HAS_JOINED, WANTS_TO_JOIN
from fleet.k3s.versions import K3sVersion
from fleet.kube.client import KubeApi, KubeError, KubeNode
from fleet.kube.door import KubeDoor
from fleet.kube.objects import ETCD_ROLE
from fleet.quorum import Member, removal_problem
from fleet.refusal import RefusedError
from fleet.spec.model import Role
from fleet.store.records import NodeRecord
from fleet.timeline import Entry

log = logging.getLogger(__name__)

_NEVER_STARTED: Final = (K3sState.ABSENT.value, K3sState.INACTIVE.value)


async def _nothing(_name: str) -> None:
    """Nobody else has a say."""


class JoinPreparation:
    """Makes and removes what a join needs in the cluster."""

    def __init__(self, ground: Ground, joins: JoinDesk, door: KubeDoor) -> None:
        self._ground = ground
        self._joins = joins
        self._door = door
        self.before_server: Callable[[str], Awaitable[None]] = _nothing
        """Called with a server's name; raises `RefusedError` where it may not found, restore or join now."""

    async def prepare(self, certificate: str | None) -> None:
        """Make everything that the caller's join material relies on. The founder needs nothing: it makes the
        cluster.

        Raises:
            RefusedError: It may not join now; or the cluster does not answer, or its members must not
                change now.
        """
        node, join = self._joins.joiner(certificate)
        if node.role is Role.SERVER:
            await self.before_server(node.name)
        if self._joins.founds(node):
            return
        try:
            async with self._door.open() as (api, listing):
                if node.role is Role.SERVER:
                    await self._end_old_membership(api, listing, node)
                await self._make_password(api, node)
                token = self._joins.token_of(node, join)
                if token is not None:
                    await self._make_token(api, node, token)
        except KubeError as error:
            raise RefusedError(
                503,
                "cluster",
                f"the cluster can not be told of {node.name} yet: {error.message}",
                "It is tried again; is a server of the cluster up?",
            ) from error

    async def tidy(self, api: KubeApi, listing: Mapping[str, KubeNode]) -> None:
        """Delete the tokens that nobody needs any more.

        A node that is Ready needs its token until it has said that it flushed what stands in for it: a
        power cut in the first seconds takes the kubelet's certificate, and with it the way back.

        Raises:
            KubeError: The API refuses; the next round tries again.
        """
        made = await api.bootstrap_tokens()
        if not made:
            return
        with self._ground.store.read() as reader:
            current = {
                token.object_name
                for node in reader.nodes()
                for join in [JoinState.load(reader, node.name)]
                if needs_token(node, join)
                for token in [self._joins.token_of(node, join)]
                if token is not None
            }
        now = self._ground.clock()
        for secret in made:
            if secret["metadata"]["name"] in current and expires_at(secret) > now:
                continue
            await api.delete_secret(secret)
            self._say(secret["metadata"].get("labels", {}).get(NODE_LABEL), events.token_removed())

    async def _make_password(self, api: KubeApi, node: NodeRecord) -> None:
        """The node password's secret, unless the one that is there accepts the password already."""
        found = await api.secret(node_password_name(node.name))
        if found is not None:
            if await asyncio.to_thread(accepts_password, found, node.node_password):
                return
            await api.delete_secret(found)
        salt = bytes.fromhex(self._ground.random_hex(SALT_BYTES))
        version = K3sVersion.find(self._ground.spec.k3s.version)
        wanted = await asyncio.to_thread(node_password_object, node.name, node.node_password, salt, version)
        await api.create_secret(wanted)

    async def _make_token(self, api: KubeApi, node: NodeRecord, token: BootstrapToken) -> None:
        """The bootstrap token, with time enough to join."""
        now = self._ground.clock()
        found = await api.secret(token.object_name)
        if found is not None:
            if expires_at(found) - now > TOKEN_RENEW_BEFORE_S:
                return
            await api.delete_secret(found)
        await api.create_secret(bootstrap_token_object(token, node.name, now + TOKEN_TTL_S))
        self._say(node.name, events.token_made(TOKEN_TTL_S))

    async def _end_old_membership(
        self, api: KubeApi, listing: Mapping[str, KubeNode], node: NodeRecord
    ) -> None:
        """Remove the Node object, and with it the etcd member, of a server that was installed again.

        Only of one whose k3s never started since: its data is gone, so its member can never come back. etcd
        takes no second member of a name, and none at all while one is dead: remove before adding.

        Raises:
            RefusedError: The other servers could not bear it, or it is under way.
        """
        old = listing.get(node.name)
        if old is None or (node.status or {}).get("k3s") not in _NEVER_STARTED:
            return
        unknown = [name for name in untold_of(listing) if name != node.name]
        if unknown:
            raise RefusedError(
                409,
                "unknown-votes",
                f"the old etcd member of {node.name} can not be removed: Kubernetes does not tell whether "
                f"{', '.join(unknown)} vote(s) in etcd, as it does of the others, so how many votes are "
                "needed is not known",
                f"A server that joins is told of in seconds; its k3s may be older than v1.25.16, where the "
                f"others' is not: upgrade it. Or look with 'bramble etcd show', and 'kubectl delete node "
                f"{node.name}' where more than half of all others are well.",
            )
        problem = removal_problem(members_of(listing), [node.name])
        if problem is not None:
            raise RefusedError(
                409,
                "quorum",
                f"the old etcd member of {node.name} can not be removed: {problem}",
                "Bring the other servers back first.",
            )
        await api.delete_node(node.name, old.uid)
        self._joins.expect_empty_etcd(node.name)
        self._say(node.name, events.old_member_removed())
        raise RefusedError(
            409, "old-member", f"the old etcd member of {node.name} is being removed", "Ask again in seconds."
        )

    def _say(self, name: str | None, entry: Entry) -> None:
        """Into the timeline of a node, if the store knows it."""
        with self._ground.store.write() as tx:
            node = tx.node(name) if name else None
            if node is not None:
                tx.add_event(entry, self._ground.clock(), node=node.name, board=node.board_id)


def needs_token(node: NodeRecord, join: JoinState) -> bool:
    """Whether the node joins, or has joined and not yet confirmed that it can do without.

    One without a certificate was revoked or removed: it gets none, and keeps none.
    """
    if node.certificate is None:
        return False
    if node.state in WANTS_TO_JOIN:
        return node.join_allowed
    done = (node.status or {}).get("generation")
    return node.state in HAS_JOINED and isinstance(done, int) and done < join.material


def members_of(listing: Mapping[str, KubeNode]) -> list[Member]:
    """The servers as etcd's members: those of which Kubernetes says whether they vote.

    Old releases say it of nobody; every server with etcd's role votes then. Where it is said of some only,
    the rest are counted as voters, and how many votes there are is not known (`untold_of`).
    """
    return [
        Member(name=node.name, votes=node.votes is not False, healthy=node.ready)
        for node in listing.values()
        if node.votes is not None or ETCD_ROLE in node.labels
    ]


def untold_of(listing: Mapping[str, KubeNode]) -> tuple[str, ...]:
    """Servers with etcd's role of which nobody says whether they vote, though it is said of others.

    They run an older release than those, or joined a moment ago.
    """
    if all(node.votes is None for node in listing.values()):
        return ()
    return tuple(
        sorted(node.name for node in listing.values() if node.votes is None and ETCD_ROLE in node.labels)
    )
