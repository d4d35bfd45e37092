"""Routes of a node's power: an order, what became of it, and what the device says."""

from __future__ import annotations

from typing import ClassVar

from aiohttp import web

from fleet.api.agents import read_object
from fleet.api.answers import value_answer
from fleet.api.guard import CALLER, add_to_audit
from fleet.api.routes import NAME, Access, Route
from fleet.controller import Controller
from fleet.power.cycle import PowerAction
from fleet.refusal import RefusedError

_ACTIONS = [action.value for action in PowerAction]
_ORDER = {
    "type": "object",
    "required": ["action"],
    "properties": {
        "action": {"type": "string", "enum": _ACTIONS},
        "dry_run": {"type": "boolean", "description": "Say what would be done; nothing is sent."},
        "force": {"type": "boolean", "description": "Although it harms an installation or the quorum."},
    },
}
_JOB = {
    "type": ["object", "null"],
    "description": "The last order since the server's start; `ended_at` is null while it is under way.",
    "required": ["number", "action", "by", "started_at", "ended_at", "error", "hint", "found"],
}
_ANSWER = {
    "type": "object",
    "required": ["steps", "job"],
    "properties": {
        "steps": {"type": "array", "items": {"type": "string"}, "description": "What is, or would be, done."},
        "job": _JOB,
    },
}


class PowerRoutes:
    """Power, for people."""

    def __init__(self, controller: Controller) -> None:
        self._desk = controller.power

    async def order(self, request: web.Request) -> web.Response:
        value = await read_object(request)
        action = value.get("action")
        if action not in _ACTIONS:
            raise RefusedError(400, "action", f"action is {str(action)[:40]!r}, one of {', '.join(_ACTIONS)}")
        flags = {name: value.get(name, False) for name in ("dry_run", "force")}
        if not all(isinstance(flag, bool) for flag in flags.values()):
            raise RefusedError(400, "power", "dry_run and force are true or false")
        name, wanted = request.match_info["name"], PowerAction(action)
        steps = self._desk.preview(name, wanted, force=flags["force"])
        if flags["dry_run"]:
            return value_answer({"steps": steps, "job": None})
        job = self._desk.order(name, wanted, by=request[CALLER], force=flags["force"])
        add_to_audit(request, action=wanted.value)
        return value_answer({"steps": steps, "job": job.as_json()})

    async def show(self, request: web.Request) -> web.Response:
        job = self._desk.job(request.match_info["name"])
        return value_answer({"steps": [], "job": None if job is None else job.as_json()})

    async def state(self, request: web.Request) -> web.Response:
        found = await self._desk.state(request.match_info["name"])
        return value_answer({"state": found.value})

    ROUTES: ClassVar[tuple[Route, ...]] = (
        Route(
            method="POST",
            path="/v1/admin/nodes/{name}/power",
            name="orderPower",
            summary="Switch a node's board on or off, or power-cycle it.",
            access=Access.ADMIN,
            handler=order,
            parameters=(NAME,),
            request=_ORDER,
            answer=_ANSWER,
            refusals=(404, 409, 429),
        ),
        Route(
            method="GET",
            path="/v1/admin/nodes/{name}/power",
            name="power",
            summary="What became of the last order.",
            access=Access.VIEWER,
            handler=show,
            parameters=(NAME,),
            answer=_ANSWER,
        ),
        Route(
            method="GET",
            path="/v1/admin/nodes/{name}/power/state",
            name="powerState",
            summary="Ask the device whether the board has power.",
            access=Access.ADMIN,
            handler=state,
            parameters=(NAME,),
            answer={
                "type": "object",
                "required": ["state"],
                "properties": {"state": {"type": "string", "enum": ["on", "off", "unknown"]}},
            },
            refusals=(404, 502),
        ),
    )
