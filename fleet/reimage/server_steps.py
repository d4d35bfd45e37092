"""What only servers need on their way out: another leader, a snapshot, and the end of their etcd member.

Each step looks first, does the one thing that is missing, and may be asked again at any time: what it did is
in etcd and in the cluster, and what it needs is in the order's row before it acts.

The member is removed by k3s, asked through its annotation, so that k3s on the node learns of it and ends.
Where k3s does not do it, because the node is dead, has no Node object, or its own server would have to, etcd
is told itself.

Source: k3s pkg/etcd (annotations, 15 s between looks), read 2026-11; issue 12908: a removal was seen to come
    back when the leader ended within seconds. So one is believed when two members, where there are two, say
    so themselves.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any, Final

from fleet.etcd.client import EtcdClient
from fleet.etcd.door import EtcdDoor
from fleet.etcd.errors import EtcdError, NotThisClusterError
from fleet.etcd.view import EtcdMember, EtcdView, hex_id
from fleet.ground import Ground
from fleet.join.founding import FOUNDED, FOUNDER
from fleet.join.state import JoinState
from fleet.k3s.config import API_PORT
from fleet.kube.client import KubeApi, KubeError, KubeNode
from fleet.kube.door import KubeDoor
from fleet.kube.vip import LEASE
from fleet.lifecycle import LEAVING, REIMAGING, State
from fleet.reimage import progress
from fleet.reimage.problems import Problem
from fleet.reimage.seams import Done, Findings, NotYet, Situation
from fleet.reimage.server_checks import (
    SNAPSHOT_AGE_S,
    KeptSnapshot,
    ServerSituation,
    Stage,
    own_members,
    problems,
    warnings,
)
from fleet.snapshots.desk import REMOVE_ANNOTATION, REMOVED_ANNOTATION, SnapshotDesk
from fleet.spec.model import Role
from fleet.store.records import NodeRecord, ReimageRecord

log = logging.getLogger(__name__)

NAME_ANNOTATION: Final = "etcd.k3s.cattle.io/node-name"
K3S_TIME_S: Final = 45.0
"""For k3s to remove a member that it was asked to: three of its looks. The state's limit is two minutes."""
CONFIRMATIONS: Final = 2
SETTLED_S: Final = 75.0
"""After a request was taken back: k3s gives one removal a minute, and may have begun it."""
_PASSING: Final = frozenset({"vip", "registration"})
"""Problems that end by themselves within seconds: for them nothing is taken back."""
_CALLED_OFF: Final = NotYet("it was called off, or timed out, before anybody was asked to remove its member")
_TOLD: Final = frozenset({State.READY, State.DEGRADED})
"""Other nodes that will hear where to find the cluster; a silent one is not waited for."""


class EtcdServerSteps:
    """`fleet.reimage.seams.ServerSteps` on the cluster's etcd, and the check of servers."""

    def __init__(self, ground: Ground, etcd: EtcdDoor, kube: KubeDoor, snapshots: SnapshotDesk) -> None:
        self._ground = ground
        self._etcd = etcd
        self._kube = kube
        self._snapshots = snapshots

    async def check(self, situation: Situation) -> Findings:
        """May this server leave? Agents are none of its business."""
        node = situation.node
        if node.role is not Role.SERVER:
            return Findings()
        client = self._etcd.client()
        view, silence = await _look(client)
        order = situation.orders.get(node.name)
        asked = await self._situation(order, node, view, silence, situation.listing)
        return Findings(problems(asked, Stage.BEFORE), warnings(asked))

    async def move_leader(self, order: ReimageRecord, node: NodeRecord) -> Done | NotYet:
        """Another member leads etcd, and the API's own address is elsewhere."""
        client = self._etcd.client()
        view = await client.observe()
        own = own_members(await self._situation(order, node, view, "", None), view)
        text = f"etcd has no member of {node.name}"
        if own:
            leader = view.leader
            if leader in own:
                new = await client.move_leader(own[0].id)
                view = await client.observe()
                leader = view.find(new)
            if leader is None or leader in own:
                return NotYet("etcd has no other leader yet")
            text = f"{leader.node or leader.name} leads etcd"
        return await self._move_address(node) or Done(text)

    async def snapshot(self, order: ReimageRecord, node: NodeRecord) -> Done | NotYet:
        """A snapshot is kept here, the member that goes is written down, and it still may go."""
        client = self._etcd.client()
        view, silence = await _look(client)
        asked = await self._situation(order, node, view, silence, None)
        own = own_members(asked, view) if view else ()
        if not own and (not asked.founded or (view is not None and view.is_quorate)):
            return Done(f"etcd has no member of {node.name}: none has to be removed")
        kept = asked.snapshot
        note: dict[str, Any] = {}
        if kept is None or not self._is_for(order, kept):
            info = await self._snapshots.take(
                f"{order.kind} {order.number} of {node.name}", besides=node.name
            )
            kept = self._snapshots.kept(info.id)
            note[progress.SNAPSHOT] = info.id
        view = await client.observe()  # taking it may have lasted minutes
        asked = await self._situation(order, node, view, "", None, kept=kept)
        own = own_members(asked, view)
        if found := problems(asked, Stage.REMOVAL):
            return NotYet(_text(found), note)
        if own:
            note |= {progress.MEMBER: hex_id(own[0].id), progress.CLUSTER: hex_id(view.cluster_id)}
        return Done(f"snapshot {kept.id if kept else ''} is kept off {node.name}", note)

    async def remove_member(self, order: ReimageRecord, node: NodeRecord) -> Done | NotYet:
        """Its member is gone from etcd, as several members say themselves."""
        client = self._etcd.client()
        view = await client.observe()
        wanted = progress.text(order, progress.MEMBER)
        if not view.is_quorate and (not wanted or view.cluster_id == _number(order, progress.CLUSTER)):
            # What one member recollects proves no absence.
            return NotYet("etcd has no leader at this moment: whether the member is gone is not known")
        if not wanted:
            if view.of_node(node.name):
                raise EtcdError(
                    f"{node.name} has an etcd member that this order knows nothing of",
                    f"Is its k3s running? 'bramble etcd show', then 'bramble reimage {node.name}' again.",
                )
            return Done(f"etcd has no member of {node.name}")
        if view.cluster_id != _number(order, progress.CLUSTER):
            if view.is_quorate and not view.strangers and not view.of_node(node.name):
                return Done(
                    f"etcd was set up anew, as cluster {hex_id(view.cluster_id)}, and has no member of "
                    f"{node.name}"
                )
            raise NotThisClusterError(
                f"etcd is cluster {hex_id(view.cluster_id)} now, this order was begun in "
                f"{progress.text(order, progress.CLUSTER)}",
                "Nothing was removed. Was the cluster restored meanwhile?",
            )
        member_id = int(wanted, 16)
        member = view.find(member_id)
        if member is None:
            if not self._write_asked(order):
                return _CALLED_OFF
            return await self._confirm_gone(client, view, member_id, node)
        asked = await self._situation(order, node, view, "", None)
        if order.progress.get(progress.ASKED) is not None and (against := _lasting(asked)):
            return await self._withdraw(order, member, _text(against))
        try:
            async with self._kube.open() as (api, listing):
                asking = await self._ask_k3s(api, listing.get(node.name), order, member, asked)
        except KubeError as error:
            if not self._had_time(order):
                return NotYet(f"k3s can not be asked to remove the member: {error.message}")
            asking = f"kubernetes does not answer: {error.message}"
        if isinstance(asking, NotYet):
            return asking
        return await self._remove_directly(client, order, member, asked, asking)

    async def _ask_k3s(
        self,
        api: KubeApi,
        seen: KubeNode | None,
        order: ReimageRecord,
        member: EtcdMember,
        asked: ServerSituation,
    ) -> NotYet | str:
        """Have k3s remove the member; a text: why it will not."""
        if seen is None:
            return "it has no Node object"
        if seen.uid != progress.text(order, progress.NODE_UID):
            return "its Node object is another one than when this began"
        if self._had_time(order):
            return f"k3s did not do it within {K3S_TIME_S:.0f} s"
        if seen.annotations.get(REMOVED_ANNOTATION) == member.name:
            if not self._write_asked(order):
                return _CALLED_OFF
            return NotYet(f"k3s has removed member {member.name}; it is being looked for")
        if seen.annotations.get(NAME_ANNOTATION) != member.name:
            return f"its Node object names another member than {member.name}"
        is_asked = seen.annotations.get(REMOVE_ANNOTATION) == "true"
        # The last look before what can not be undone.
        if not is_asked and (found := problems(asked, Stage.REMOVAL)):
            return NotYet(_text(found))
        if not self._write_asked(order):
            return _CALLED_OFF
        if not is_asked:
            metadata = {"resourceVersion": seen.resource_version, "annotations": {REMOVE_ANNOTATION: "true"}}
            await api.patch_node(seen.name, {"metadata": metadata})
        return NotYet(f"k3s removes member {member.name}")

    async def _withdraw(self, order: ReimageRecord, member: EtcdMember, why: str) -> NotYet:
        """Take back what k3s was asked and has not done: what stands against it now came since.

        When the member is seen to stay, the row says again that nobody is asked: the order can be undone, and
        a peer that died does not wait for a person to free the lock.
        """
        try:
            async with self._kube.open() as (api, listing):
                seen = listing.get(order.node)
                if seen is not None and seen.annotations.get(REMOVED_ANNOTATION) == member.name:
                    return NotYet(f"k3s has removed member {member.name}; it is being looked for")
                if seen is not None and REMOVE_ANNOTATION in seen.annotations:
                    annotations = {REMOVE_ANNOTATION: None}
                    metadata = {"resourceVersion": seen.resource_version, "annotations": annotations}
                    await api.patch_node(seen.name, {"metadata": metadata})
                    note = {progress.WITHDRAWN: self._ground.clock()}
                    return NotYet(f"{why}; k3s is not asked any more to remove member {member.name}", note)
        except KubeError as error:
            return NotYet(f"{why}; k3s can not be told: {error.message}")
        now, since = self._ground.clock(), order.progress.get(progress.WITHDRAWN)
        if not isinstance(since, int | float):
            return NotYet(why, {progress.WITHDRAWN: now})
        if now - since <= SETTLED_S:
            return NotYet(f"{why}; member {member.name} is watched, whether it stays")
        return NotYet(why, {progress.ASKED: None, progress.WITHDRAWN: None})

    async def obstacle(self, order: ReimageRecord, node: NodeRecord) -> str:
        """Why etcd can not change its members at this moment; "" it can."""
        view, silence = await _look(self._etcd.client())
        if view is None:
            return silence
        return "" if view.is_quorate else "etcd has no leader at this moment"

    def _had_time(self, order: ReimageRecord) -> bool:
        """Whether k3s was given its time, counted from where the member is to go."""
        entered = order.progress.get(progress.STEPS)
        since = entered.get(State.MEMBER_REMOVED.value) if isinstance(entered, Mapping) else None
        return isinstance(since, int | float) and self._ground.clock() - since > K3S_TIME_S

    def _write_asked(self, order: ReimageRecord) -> bool:
        """Write down that there is no way back any more; False: the order was called off, do nothing.

        The same transaction that calls an order off looks for this mark: one of both comes first.
        """
        with self._ground.store.write() as tx:
            present, node = tx.open_reimage(order.node), tx.require_node(order.node)
            if (
                present is None
                or present.number != order.number
                or node.state is not State.MEMBER_REMOVED
                or progress.is_cancelled(present)
            ):
                return False
            known = present.progress
            if known.get(progress.ASKED) is None or known.get(progress.WITHDRAWN) is not None:
                tx.note_reimage(present, **{progress.ASKED: self._ground.clock(), progress.WITHDRAWN: None})
        return True

    async def _remove_directly(
        self, client: EtcdClient, order: ReimageRecord, member: EtcdMember, asked: ServerSituation, why: str
    ) -> NotYet:
        if found := problems(asked, Stage.REMOVAL):
            return NotYet(_text(found))
        assert asked.view is not None
        if asked.view.leader_id == member.id:
            await client.move_leader(member.id)
        if not self._write_asked(order):
            return _CALLED_OFF
        log.warning("member %s is removed by etcd itself: %s", member.name, why)
        await client.remove_member(member.id, asked.view.cluster_id)
        return NotYet(f"member {member.name} was removed by etcd itself ({why}); it is being looked for")

    @staticmethod
    async def _confirm_gone(
        client: EtcdClient, view: EtcdView, member_id: int, node: NodeRecord
    ) -> Done | NotYet:
        """What one member says may be undone by the next leader; what two remember stays."""
        others = [member for member in view.voters if member.healthy]
        needed = min(CONFIRMATIONS, len(others))
        said = [await client.remembers(member, member_id) for member in others]
        if any(said) or len(said) < max(1, needed):
            return NotYet("not all members know yet that it is gone")
        return Done(
            f"{hex_id(member_id)}, the etcd member of {node.name}, is gone: {len(said)} member(s) say so"
        )

    async def _move_address(self, node: NodeRecord) -> NotYet | None:
        """Hand the API's own address to another server; None: it is elsewhere, or nobody of ours keeps it."""
        k3s = self._ground.spec.k3s
        if k3s.api_vip is None or not k3s.kube_vip.enabled:
            return None
        async with self._kube.open() as (api, listing):
            lease = await api.lease(LEASE)
            if holder_of(lease) != node.name or lease is None:
                return None
            ready = sorted(name for name in self._servers() if name != node.name and _is_ready(listing, name))
            if not ready:
                return NotYet(f"no other server is Ready to answer for {k3s.api_vip}")
            await api.give_lease(LEASE, lease, ready[0])
        return NotYet(f"{ready[0]} is to answer for {k3s.api_vip}")

    async def _situation(
        self,
        order: ReimageRecord | None,
        node: NodeRecord,
        view: EtcdView | None,
        silence: str,
        listing: Mapping[str, KubeNode] | None,
        *,
        kept: KeptSnapshot | None = None,
    ) -> ServerSituation:
        """Everything that is known of it now."""
        spec = self._ground.spec
        with self._ground.store.read() as reader:
            records = reader.nodes()
            founded = reader.value(FOUNDED) is not None
            founder = reader.value(FOUNDER)
            joins = JoinState.load_all(reader)
            holders = {hold.node for hold in reader.holds()}
        if listing is None or spec.k3s.api_vip is not None:
            listing, holder = await self._ask_kubernetes(listing)
        else:
            holder = ""
        address = self._ground.address_of(node)
        url = f"https://{address}:{API_PORT}"
        if kept is None and order is not None:
            kept = self._snapshots.kept(progress.text(order, progress.SNAPSHOT))
        done, join = (node.status or {}).get("generation"), joins.get(node.name, JoinState())
        return ServerSituation(
            node=node.name,
            servers=self._servers(),
            founded=founded,
            view=view,
            silence=silence,
            others_away=tuple(
                (other.name, other.state.value)
                for other in records
                if other.role is Role.SERVER and other.name != node.name and _is_away(other, holders)
            ),
            member_id=_number(order, progress.MEMBER),
            cluster_id=_number(order, progress.CLUSTER),
            snapshot=kept,
            vip=str(spec.k3s.api_vip) if spec.k3s.api_vip else None,
            vip_holder=holder,
            vip_is_movable=spec.k3s.kube_vip.enabled,
            told_to_come_here=tuple(
                other.name
                for other in records
                if other.name != node.name
                and other.state in _TOLD
                and address is not None
                and joins.get(other.name, JoinState()).server == url
            ),
            ready=frozenset(name for name in self._servers() if _is_ready(listing or {}, name)),
            may_found_again=founder == node.name and isinstance(done, int) and done < join.material,
            now=self._ground.clock(),
        )

    async def _ask_kubernetes(
        self, listing: Mapping[str, KubeNode] | None
    ) -> tuple[Mapping[str, KubeNode] | None, str]:
        """The Node objects, and who answers for the API's own address."""
        try:
            async with self._kube.open() as (api, found):
                lease = await api.lease(LEASE) if self._ground.spec.k3s.api_vip is not None else None
        except KubeError:
            return listing, ""
        return (found if listing is None else listing), holder_of(lease)

    def _is_for(self, order: ReimageRecord, kept: KeptSnapshot) -> bool:
        """Whether a snapshot was taken for this order, and is fresh: then it is not taken again."""
        is_fresh = self._ground.clock() - kept.taken_at < SNAPSHOT_AGE_S / 2
        return kept.id == progress.text(order, progress.SNAPSHOT) and is_fresh

    def _servers(self) -> tuple[str, ...]:
        return tuple(node.name for node in self._ground.spec.servers)


async def _look(client: EtcdClient) -> tuple[EtcdView | None, str]:
    try:
        return await client.observe(), ""
    except EtcdError as error:
        return None, error.message


def holder_of(lease: Mapping[str, Any] | None) -> str:
    """Who holds a lease; "" nobody."""
    spec = (lease or {}).get("spec") or {}
    return str(spec.get("holderIdentity") or "")


def _is_away(node: NodeRecord, holders: Collection[str]) -> bool:
    """Whether a server is on a road that ends by itself, or is being taken down.

    One that came to a stop and whose place of the fleet lock a person freed is not waited for: etcd's own
    members tell whether another one may go.
    """
    state = node.state
    return state.is_active or (state in REIMAGING and (node.name in holders or state in LEAVING))


def _is_ready(listing: Mapping[str, KubeNode], name: str) -> bool:
    return name in listing and listing[name].ready


def _number(order: ReimageRecord | None, name: str) -> int | None:
    text = progress.text(order, name) if order is not None else ""
    return int(text, 16) if text else None


def _lasting(asked: ServerSituation) -> tuple[Problem, ...]:
    """What stands against the removal now, and does not pass by itself."""
    return tuple(one for one in problems(asked, Stage.REMOVAL) if one.code not in _PASSING)


def _text(found: tuple[Problem, ...]) -> str:
    return "; ".join(problem.text for problem in found)
