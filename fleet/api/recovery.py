"""Routes of a recovery: for the person who orders it, and for the one agent that restores the snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from aiohttp import web

from fleet.api.agents import read_object
from fleet.api.answers import value_answer
from fleet.api.guard import CALLER, add_to_audit
from fleet.api.peer import peer_certificate
from fleet.api.routes import MESSAGE, Access, Handler, Parameter, Route
from fleet.controller import Controller
from fleet.recovery.desk import Plan, RecoveryView
from fleet.refusal import RefusedError
from fleet.snapshots.manifest import ID
from fleet.views import as_json

_RECOVERY = Parameter(
    name="recovery",
    description="Of the recovery, from the join material.",
    schema={"type": "string", "pattern": "^[0-9a-f]{16}$"},
    is_required=True,
)
_OFFSET = Parameter(
    name="offset",
    description="Where the piece begins.",
    schema={"type": "string", "pattern": "^[0-9]{1,12}$"},
    is_required=True,
)
_ORDER: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["snapshot"],
    "additionalProperties": False,
    "properties": {
        "snapshot": {"type": "string", "pattern": f"^{ID}$"},
        "founder": {"type": ["string", "null"]},
        "with_agents": {"type": "boolean"},
    },
}


@dataclass(frozen=True, slots=True)
class RecoveryStatus:
    """`recovery` is null where none was ever ordered."""

    recovery: RecoveryView | None


def _ordering(path: str, name: str, handler: Handler, answer: type, summary: str) -> Route:
    """A route that takes an order of a recovery."""
    return Route(
        method="POST",
        path=path,
        name=name,
        summary=summary,
        access=Access.ADMIN,
        handler=handler,
        request=_ORDER,
        answer=answer,
        refusals=(404, 409, 503),
    )


class RecoveryRoutes:
    """A recovery over one controller."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    async def status(self, _request: web.Request) -> web.Response:
        return value_answer(as_json(RecoveryStatus(recovery=self._controller.recovery.status())))

    async def plan(self, request: web.Request) -> web.Response:
        snapshot, founder, with_agents = await _read(request)
        found = await self._controller.recovery.plan(snapshot, founder=founder, with_agents=with_agents)
        return value_answer(as_json(found))

    async def begin(self, request: web.Request) -> web.Response:
        snapshot, founder, with_agents = await _read(request)
        begun = await self._controller.recovery.begin(
            snapshot, by=request[CALLER], founder=founder, with_agents=with_agents
        )
        add_to_audit(request, snapshot=snapshot, founder=begun.founder)
        return value_answer(as_json(begun))

    async def cancel(self, request: web.Request) -> web.Response:
        return value_answer({"message": self._controller.recovery.cancel(by=request[CALLER])})

    async def piece(self, request: web.Request) -> web.Response:
        node = self._controller.joins.caller(peer_certificate(request))
        offset = request.query.get("offset", "")
        piece = self._controller.recovery.read_piece(node, request.match_info["recovery"], int(offset or 0))
        return web.Response(body=piece, content_type="application/octet-stream")

    ROUTES: ClassVar[tuple[Route, ...]] = (
        Route(
            method="GET",
            path="/v1/recovery",
            name="recoveryStatus",
            summary="The recovery that is under way, or the one that ended last.",
            access=Access.VIEWER,
            handler=status,
            answer=RecoveryStatus,
        ),
        _ordering(
            "/v1/recovery/plan",
            "planRecovery",
            plan,
            Plan,
            "What a recovery would do, and what stands against it. Changes nothing.",
        ),
        _ordering(
            "/v1/recovery",
            "beginRecovery",
            begin,
            RecoveryView,
            "Bring the lost cluster back from a snapshot.",
        ),
        Route(
            method="POST",
            path="/v1/recovery/cancel",
            name="cancelRecovery",
            summary="Call the recovery off, as long as its first server was not told to restore.",
            access=Access.ADMIN,
            handler=cancel,
            answer=MESSAGE,
            refusals=(409,),
        ),
        Route(
            method="GET",
            path="/v1/node/restore/{recovery}",
            name="snapshotPiece",
            summary="The next bytes of the snapshot that the node restores.",
            access=Access.NODE,
            handler=piece,
            parameters=(_RECOVERY, _OFFSET),
            answer={"type": "string", "format": "binary"},
            media="application/octet-stream",
            refusals=(409, 503),
            holds_secret=True,
        ),
    )


async def _read(request: web.Request) -> tuple[str, str | None, bool]:
    value = await read_object(request)
    snapshot, founder = value.get("snapshot"), value.get("founder")
    with_agents = value.get("with_agents", False)
    unknown = sorted(value.keys() - {"snapshot", "founder", "with_agents"})
    if not isinstance(snapshot, str) or not isinstance(with_agents, bool) or unknown:
        raise RefusedError(400, "recovery", "snapshot is an id; with_agents true or false; nothing else")
    if founder is not None and not isinstance(founder, str):
        raise RefusedError(400, "founder", "founder is the name of a server")
    return snapshot, founder, with_agents
