"""Routes about the agents themselves: their releases, for nodes and for the command line."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from aiohttp import web

from agent.orders import SignedOrder
from agent.wire import encode
from fleet.api.answers import json_answer, value_answer
from fleet.api.guard import add_to_audit
from fleet.api.peer import peer_certificate
from fleet.api.routes import MESSAGE, Access, Parameter, Route
from fleet.controller import Controller
from fleet.refusal import RefusedError


class AgentRoutes:
    """Releases of the agent, for nodes and for people."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    async def order(self, request: web.Request) -> web.Response:
        node = self._controller.joins.caller(peer_certificate(request))
        return json_answer(encode(self._controller.updates.order_for(node)))

    async def archive(self, request: web.Request) -> web.Response:
        self._controller.joins.caller(peer_certificate(request))
        content = self._controller.updates.archive(request.match_info["sha256"])
        return web.Response(body=content, content_type="application/octet-stream")

    async def agents(self, _request: web.Request) -> web.Response:
        return value_answer(self._controller.updates.view())

    async def update(self, request: web.Request) -> web.Response:
        value = await read_object(request)
        names, downgrade = value.get("nodes", []), value.get("allow_downgrade", False)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise RefusedError(400, "nodes", "nodes is no list of names")
        if not isinstance(downgrade, bool):
            raise RefusedError(400, "allow_downgrade", "allow_downgrade is neither true nor false")
        message = self._controller.updates.order(names, allow_downgrade=downgrade)
        add_to_audit(
            request, nodes=", ".join(names) or "all", allow_downgrade=str(downgrade).lower(), done=message
        )
        return value_answer({"message": message})

    async def halt(self, _request: web.Request) -> web.Response:
        return value_answer({"message": self._controller.updates.halt()})

    ROUTES: ClassVar[tuple[Route, ...]] = (
        Route(
            method="GET",
            path="/v1/node/update",
            name="agentOrder",
            summary="The release of the agent that the node is to run.",
            access=Access.NODE,
            handler=order,
            answer=SignedOrder,
            refusals=(404, 409),
        ),
        Route(
            method="GET",
            path="/v1/node/agent/{sha256:[0-9a-f]{64}}",
            name="agentArchive",
            summary="A release of the agent: the zipapp.",
            access=Access.NODE,
            handler=archive,
            parameters=(
                Parameter(
                    name="sha256",
                    description="Of the zipapp.",
                    schema={"type": "string", "pattern": "^[0-9a-f]{64}$"},
                    is_required=True,
                ),
            ),
            answer={"type": "string", "format": "binary"},
            media="application/octet-stream",
            refusals=(404, 409),
        ),
        Route(
            method="GET",
            path="/v1/admin/agents",
            name="listAgents",
            summary="Every node's release of the agent, and how the rollout stands.",
            access=Access.VIEWER,
            handler=agents,
            answer={"type": "object"},
            refusals=(409,),
        ),
        Route(
            method="POST",
            path="/v1/admin/agents/update",
            name="updateAgents",
            summary="Let nodes, or all, run the server's release of the agent.",
            access=Access.ADMIN,
            handler=update,
            request={
                "type": "object",
                "properties": {
                    "nodes": {"type": "array", "items": {"type": "string"}},
                    "allow_downgrade": {"type": "boolean"},
                },
            },
            answer=MESSAGE,
            refusals=(404, 409),
        ),
        Route(
            method="POST",
            path="/v1/admin/agents/halt",
            name="haltAgents",
            summary="Let no further node take the new release.",
            access=Access.ADMIN,
            handler=halt,
            answer=MESSAGE,
        ),
    )


async def read_object(request: web.Request) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        RefusedError: It is none.
    """
    try:
        value = json.loads(await request.read() or b"{}")
    except ValueError as error:
        raise RefusedError(400, "body", "the body is not JSON") from error
    if not isinstance(value, dict):
        raise RefusedError(400, "body", "the body is no JSON object")
    return value
