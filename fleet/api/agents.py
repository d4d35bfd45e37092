"""Routes about the agents themselves: their releases, for nodes and for the command line.

GET  /v1/node/update              SignedOrder of an AgentOrder          (certificate)
GET  /v1/node/agent/{sha256}      the zipapp                            (certificate)
GET  /v1/admin/agents             every node's release, and the rollout
POST /v1/admin/agents/update      {"nodes": [names], "allow_downgrade": bool} -> {"message": text}
POST /v1/admin/agents/halt        {"message": text}
"""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from agent.protocol import encode
from fleet.api.answers import json_answer, value_answer
from fleet.api.peer import peer_certificate
from fleet.controller import Controller
from fleet.refusal import RefusedError


def add_node_routes(app: web.Application, controller: Controller) -> None:
    """What agents ask."""

    async def update(request: web.Request) -> web.Response:
        node = controller.joins.caller(peer_certificate(request))
        return json_answer(encode(controller.updates.order_for(node)))

    async def archive(request: web.Request) -> web.Response:
        controller.joins.caller(peer_certificate(request))
        content = controller.updates.archive(request.match_info["sha256"])
        return web.Response(body=content, content_type="application/octet-stream")

    app.router.add_get("/v1/node/update", update)
    app.router.add_get("/v1/node/agent/{sha256:[0-9a-f]{64}}", archive)


def add_admin_routes(app: web.Application, controller: Controller) -> None:
    """What people ask."""

    async def agents(_request: web.Request) -> web.Response:
        return value_answer(controller.updates.view())

    async def update(request: web.Request) -> web.Response:
        value = await read_object(request)
        names, downgrade = value.get("nodes", []), value.get("allow_downgrade", False)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise RefusedError(400, "nodes", "nodes is no list of names")
        if not isinstance(downgrade, bool):
            raise RefusedError(400, "allow_downgrade", "allow_downgrade is neither true nor false")
        return value_answer({"message": controller.updates.order(names, allow_downgrade=downgrade)})

    async def halt(_request: web.Request) -> web.Response:
        return value_answer({"message": controller.updates.halt()})

    app.router.add_get("/v1/admin/agents", agents)
    app.router.add_post("/v1/admin/agents/update", update)
    app.router.add_post("/v1/admin/agents/halt", halt)


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
