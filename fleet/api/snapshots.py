"""Routes about etcd: its members, and the snapshots of it that are kept here."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from aiohttp import web

from fleet.api.agents import read_object
from fleet.api.answers import value_answer
from fleet.api.guard import CALLER, add_to_audit
from fleet.api.routes import MESSAGE, Access, Parameter, Route
from fleet.controller import Controller
from fleet.etcd.client import EtcdClient
from fleet.etcd.errors import EtcdError
from fleet.etcd.view import EtcdMember, EtcdView, hex_id
from fleet.refusal import RefusedError
from fleet.reimage.problems import Problem
from fleet.reimage.server_checks import ghost_problem, ghost_removal_problem, ghosts
from fleet.snapshots.desk import SnapshotHealth, Taking
from fleet.snapshots.manifest import SnapshotInfo
from fleet.snapshots.places import KeptElsewhere
from fleet.views import as_json

_NUMBER = Parameter(
    name="number",
    description="Number of the order.",
    schema={"type": "string", "pattern": "^[0-9]{1,9}$"},
    is_required=True,
)
_MEMBER = Parameter(
    name="member",
    description="Id of the member, hexadecimal.",
    schema={"type": "string", "pattern": "^[0-9a-f]{1,16}$"},
    is_required=True,
)


_PLACE: Final[dict[str, Any]] = {
    "host": {"type": "string", "description": "The machine's name, as the list has it."},
    "directory": {"type": ["string", "null"], "description": "One of its directories; all unless given."},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotList:
    """`items` has the newest first; `damaged` names directories that are no snapshots; `elsewhere` what other
    control servers on the same record keep on their machines."""

    items: tuple[SnapshotInfo, ...]
    damaged: tuple[str, ...]
    elsewhere: tuple[KeptElsewhere, ...]
    health: SnapshotHealth


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberView:
    """One member of etcd; `ghost` tells what is wrong with one that no declared server stands behind, and
    `against_removal` why it cannot be taken out of etcd by hand, null where it can."""

    id: str
    name: str
    node: str
    role: str
    is_leader: bool
    healthy: bool
    problem: str
    db_bytes: int
    raft_index: int
    version: str
    ghost: str
    hint: str
    against_removal: Problem | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdStatus:
    """etcd as it was seen just now."""

    cluster_id: str
    leader: str
    is_quorate: bool
    strangers: tuple[str, ...]
    members: tuple[MemberView, ...]


class SnapshotRoutes:
    """etcd and its snapshots, for people."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    async def listing(self, _request: web.Request) -> web.Response:
        desk = self._controller.snapshots
        found = await asyncio.to_thread(desk.everything)
        items = tuple(one for one in found if isinstance(one, SnapshotInfo))
        damaged = tuple(one.id for one in found if not isinstance(one, SnapshotInfo))
        listed = SnapshotList(items=items, damaged=damaged, elsewhere=desk.elsewhere(), health=desk.health())
        return value_answer(as_json(listed))

    async def take(self, request: web.Request) -> web.Response:
        order = self._controller.snapshots.order(request[CALLER])
        add_to_audit(request, number=str(order.number))
        return value_answer(as_json(order))

    async def order(self, request: web.Request) -> web.Response:
        found = self._controller.snapshots.ordered(int(request.match_info["number"]))
        if found is None:
            raise RefusedError(404, "order", "there is no such order of a snapshot", "Order another one.")
        return value_answer(as_json(found))

    async def forget(self, request: web.Request) -> web.Response:
        value = await read_object(request)
        host, directory = value.get("host"), value.get("directory")
        if not isinstance(host, str) or not isinstance(directory, str | None) or value.keys() - _PLACE.keys():
            raise RefusedError(400, "place", "host and directory are texts, directory may be missing")
        message = self._controller.snapshots.forget_place(host, directory)
        add_to_audit(request, host=host[:80])
        return value_answer({"message": message})

    async def etcd(self, _request: web.Request) -> web.Response:
        view = await observed(self._controller.etcd.client())
        return value_answer(as_json(status_of(view, self._servers())))

    async def remove(self, request: web.Request) -> web.Response:
        member_id = int(request.match_info["member"], 16)
        client = self._controller.etcd.client()
        view = await observed(client)
        member = view.find(member_id)
        if member is None:
            raise RefusedError(
                404, "member", f"etcd has no member {hex_id(member_id)}", "'bramble etcd show'"
            )
        problem = ghost_removal_problem(view, member, self._servers())
        if problem is not None:
            raise RefusedError(409, problem.code, problem.text, problem.hint)
        try:
            await client.remove_member(member_id, view.cluster_id)
        except EtcdError as error:
            raise RefusedError(409, "etcd", error.message, error.hint) from error
        add_to_audit(request, member=member.name or hex_id(member_id))
        return value_answer({"message": f"{member.name or hex_id(member_id)} is out of etcd"})

    def _servers(self) -> tuple[str, ...]:
        return tuple(node.name for node in self._controller.spec.servers)

    ROUTES: ClassVar[tuple[Route, ...]] = (
        Route(
            method="GET",
            path="/v1/snapshots",
            name="listSnapshots",
            summary="Snapshots of etcd that are kept here.",
            access=Access.VIEWER,
            handler=listing,
            answer=SnapshotList,
        ),
        Route(
            method="POST",
            path="/v1/snapshots",
            name="takeSnapshot",
            summary="Have a snapshot taken; one that is under way is waited for.",
            access=Access.ADMIN,
            handler=take,
            answer=Taking,
        ),
        Route(
            method="GET",
            path="/v1/snapshots/orders/{number}",
            name="snapshotOrder",
            summary="How it stands with an ordered snapshot.",
            access=Access.ADMIN,
            handler=order,
            parameters=(_NUMBER,),
            answer=Taking,
            refusals=(404,),
        ),
        Route(
            method="POST",
            path="/v1/snapshots/forget",
            name="forgetSnapshotPlace",
            summary="Forget what a machine that is gone is said to keep.",
            access=Access.ADMIN,
            handler=forget,
            request={
                "type": "object",
                "required": ["host"],
                "additionalProperties": False,
                "properties": _PLACE,
            },
            answer=MESSAGE,
            refusals=(404, 409),
        ),
        Route(
            method="GET",
            path="/v1/etcd",
            name="etcdStatus",
            summary="etcd's members, as they are now.",
            access=Access.VIEWER,
            handler=etcd,
            answer=EtcdStatus,
            refusals=(409,),
        ),
        Route(
            method="POST",
            path="/v1/etcd/members/{member}/remove",
            name="removeGhost",
            summary="Take a member out of etcd that no declared server stands behind.",
            access=Access.ADMIN,
            handler=remove,
            parameters=(_MEMBER,),
            answer=MESSAGE,
            refusals=(404, 409),
        ),
    )


async def observed(client: EtcdClient) -> EtcdView:
    """etcd now.

    Raises:
        RefusedError: None of its members answers: there is no cluster yet, or it stands still.
    """
    try:
        return await client.observe()
    except EtcdError as error:
        raise RefusedError(409, "etcd", error.message, error.hint) from error


def status_of(view: EtcdView, servers: tuple[str, ...]) -> EtcdStatus:
    """A view for people, with its ghosts named."""
    haunting = ghosts(view, servers)
    return EtcdStatus(
        cluster_id=hex_id(view.cluster_id),
        leader=view.leader.node or view.leader.name if view.leader else "",
        is_quorate=view.is_quorate,
        strangers=view.strangers,
        members=tuple(
            _member_view(view, member, servers, is_ghost=member in haunting)
            for member in sorted(view.members, key=lambda one: (one.node, one.id))
        ),
    )


def _member_view(
    view: EtcdView, member: EtcdMember, servers: tuple[str, ...], *, is_ghost: bool
) -> MemberView:
    told = ghost_problem(member) if is_ghost else None
    return MemberView(
        id=hex_id(member.id),
        name=member.name,
        node=member.node,
        role="learner" if member.is_learner else "voter",
        is_leader=member.id == view.leader_id,
        healthy=member.healthy,
        problem=member.problem,
        db_bytes=member.db_bytes,
        raft_index=member.raft_index,
        version=member.version,
        ghost=told.text if told else "",
        hint=told.hint if told else "",
        against_removal=ghost_removal_problem(view, member, servers),
    )
