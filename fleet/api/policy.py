"""Routes of what Bramble does by itself: the policy's view of every node, and the fleet lock."""

from __future__ import annotations

from typing import ClassVar, Final

from aiohttp import web

from fleet.api.agents import read_object
from fleet.api.answers import value_answer
from fleet.api.guard import CALLER, add_to_audit
from fleet.api.routes import MESSAGE, NAME, PRINTABLE, Access, Route
from fleet.controller import Controller
from fleet.printable import printable
from fleet.refusal import RefusedError
from fleet.views import as_json

MAX_REASON: Final = 200
_PROBLEM: Final = {"type": "object", "required": ["code", "text", "hint"]}
_DECISION: Final = {
    "type": "object",
    "required": ["node", "role", "verdict", "would_act", "failing_s", "due_in_s", "reasons"],
    "properties": {"reasons": {"type": "array", "items": _PROBLEM}},
}
_POLICY: Final = {
    "type": "object",
    "required": ["when_failed", "dry_run", "after_s", "max_parallel", "windows", "zone", "decisions"],
    "properties": {"decisions": {"type": "array", "items": _DECISION}},
}
_HOLDS: Final = {
    "type": "array",
    "items": {"type": "object", "required": ["node", "role", "number", "taken_at", "by", "stuck", "state"]},
}


class PolicyRoutes:
    """What would be done without anybody's word, and what is held back by whom."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    async def policy(self, _request: web.Request) -> web.Response:
        return value_answer(self._controller.policy.view())

    async def lock(self, _request: web.Request) -> web.Response:
        return value_answer([as_json(hold) for hold in self._controller.lock.holds()])

    async def release(self, request: web.Request) -> web.Response:
        reason = (await read_object(request)).get("reason")
        if not isinstance(reason, str) or not reason.strip() or len(reason) > MAX_REASON:
            raise RefusedError(400, "reason", f"reason is a text of at most {MAX_REASON} characters")
        name = request.match_info["name"]
        message = self._controller.lock.release(name, by=request[CALLER], reason=printable(reason))
        add_to_audit(request, reason=reason)
        return value_answer({"message": message})

    ROUTES: ClassVar[tuple[Route, ...]] = (
        Route(
            method="GET",
            path="/v1/admin/policy",
            name="policy",
            summary="What Bramble would re-image by itself now, and why not the other nodes.",
            access=Access.VIEWER,
            handler=policy,
            answer=_POLICY,
        ),
        Route(
            method="GET",
            path="/v1/admin/lock",
            name="lock",
            summary="Who holds a place of the fleet lock, the oldest first.",
            access=Access.VIEWER,
            handler=lock,
            answer=_HOLDS,
        ),
        Route(
            method="POST",
            path="/v1/admin/lock/{name}/release",
            name="releaseLock",
            summary="Free the place of a node whose re-image came to nothing.",
            access=Access.ADMIN,
            handler=release,
            parameters=(NAME,),
            request={
                "type": "object",
                "required": ["reason"],
                "properties": {
                    "reason": {
                        "type": "string",
                        "minLength": 1,
                        "maxLength": MAX_REASON,
                        "pattern": PRINTABLE,
                    }
                },
            },
            answer=MESSAGE,
            refusals=(404, 409),
        ),
    )
