"""Routes of errands: log lines and commands, between the node that answers and the person who waits."""

from __future__ import annotations

import re
from typing import ClassVar, Final

from aiohttp import web

from agent.errands import LogUpload, RunResult
from agent.orders import SignedOrder
from agent.wire import decode, encode
from fleet.api.agents import read_object
from fleet.api.answers import json_answer, value_answer
from fleet.api.guard import CALLER, add_to_audit
from fleet.api.peer import peer_certificate
from fleet.api.routes import NAME, Access, Parameter, Route
from fleet.controller import Controller
from fleet.refusal import RefusedError

_NUMBER: Final = {
    "type": "object",
    "required": ["number"],
    "properties": {"number": {"type": "integer", "description": "To fetch the answer by."}},
}
_ERRAND: Final = Parameter(
    name="number",
    description="Number of the errand.",
    schema={"type": "string", "pattern": "^[0-9]{1,18}$"},
    is_required=True,
)
_LOGS: Final = (
    Parameter(
        name="lines",
        description="At most so many, 1 to 1000; the newest.",
        schema={"type": "string", "pattern": "^[0-9]{1,4}$"},
    ),
    Parameter(
        name="cursor",
        description="Only what came after it: the cursor of an earlier answer.",
        schema={"type": "string", "maxLength": 500},
    ),
    Parameter(
        name="follow",
        description="Let the node report every two seconds for a while.",
        schema={"type": "string", "enum": ["true", "false"]},
    ),
)


class ErrandRoutes:
    """Errands, for nodes and for people."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    async def order(self, request: web.Request) -> web.Response:
        node = self._controller.joins.caller(peer_certificate(request))
        return json_answer(encode(self._controller.errands.order_for(node)))

    async def take_logs(self, request: web.Request) -> web.Response:
        node = self._controller.joins.caller(peer_certificate(request))
        self._controller.errands.take(node, decode(LogUpload, await request.read()))
        return json_answer(b"{}")

    async def take_run(self, request: web.Request) -> web.Response:
        node = self._controller.joins.caller(peer_certificate(request))
        self._controller.errands.take(node, decode(RunResult, await request.read()))
        return json_answer(b"{}")

    async def logs(self, request: web.Request) -> web.Response:
        query = request.query
        lines, follow = query.get("lines", "200"), query.get("follow", "false")
        if not re.fullmatch(r"[0-9]{1,4}", lines) or follow not in ("true", "false"):
            raise RefusedError(
                400, "logs", "lines is a number of up to four digits, and follow true or false"
            )
        number = self._controller.errands.ask_logs(
            request.match_info["name"],
            lines=int(lines),
            cursor=query.get("cursor", ""),
            follow=follow == "true",
        )
        return value_answer({"number": number})

    async def run(self, request: web.Request) -> web.Response:
        value = await read_object(request)
        argv, timeout_s = value.get("argv"), value.get("timeout_s", 20)
        if not isinstance(argv, list) or not all(isinstance(word, str) for word in argv):
            raise RefusedError(400, "argv", "argv is no list of words")
        if type(timeout_s) not in (int, float):
            raise RefusedError(400, "timeout_s", "timeout_s is no number")
        name = request.match_info["name"]
        number = self._controller.errands.ask_run(name, argv, float(timeout_s), request[CALLER])
        add_to_audit(request, number=str(number))
        return value_answer({"number": number})

    async def fetch(self, request: web.Request) -> web.Response:
        name, number = request.match_info["name"], int(request.match_info["number"])
        return value_answer(self._controller.errands.fetch(name, number))

    ROUTES: ClassVar[tuple[Route, ...]] = (
        Route(
            method="GET",
            path="/v1/node/errand",
            name="errand",
            summary="What a person asks of the node at this moment.",
            access=Access.NODE,
            handler=order,
            answer=SignedOrder,
            refusals=(404,),
        ),
        Route(
            method="POST",
            path="/v1/node/logs",
            name="takeLogs",
            summary="The log lines that an errand asked for.",
            access=Access.NODE,
            handler=take_logs,
            request=LogUpload,
        ),
        Route(
            method="POST",
            path="/v1/node/run",
            name="takeRun",
            summary="What became of the command of an errand.",
            access=Access.NODE,
            handler=take_run,
            request=RunResult,
        ),
        Route(
            method="GET",  # nothing changes by it, and who follows asks every two seconds
            path="/v1/admin/nodes/{name}/logs",
            name="askLogs",
            summary="Ask a node for the newest log lines of its agent and k3s.",
            access=Access.ADMIN,
            handler=logs,
            parameters=(NAME, *_LOGS),
            answer=_NUMBER,
            refusals=(404, 409),
        ),
        Route(
            method="POST",
            path="/v1/admin/nodes/{name}/run",
            name="runOnNode",
            summary="Have a node run one command, where cluster.yaml and the node permit it.",
            access=Access.ADMIN,
            handler=run,
            parameters=(NAME,),
            request={
                "type": "object",
                "required": ["argv"],
                "properties": {
                    "argv": {"type": "array", "items": {"type": "string"}, "minItems": 1},
                    "timeout_s": {"type": "number", "exclusiveMinimum": 0, "maximum": 25},
                },
            },
            answer=_NUMBER,
            refusals=(403, 404, 409),
        ),
        Route(
            method="GET",
            path="/v1/admin/nodes/{name}/errand/{number:[0-9]{1,18}}",
            name="errandAnswer",
            summary="The answer of a node to an errand; `done` is false while it is not there.",
            access=Access.ADMIN,
            handler=fetch,
            parameters=(NAME, _ERRAND),
            answer={
                "type": "object",
                "required": ["done"],
                "properties": {"done": {"type": "boolean"}},
            },
            refusals=(404,),
        ),
    )
