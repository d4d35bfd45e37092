"""Routes of rollouts: begin one, look at it, pause, resume and abort it."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from aiohttp import web

from fleet.api.agents import read_object
from fleet.api.answers import value_answer
from fleet.api.guard import CALLER, add_to_audit
from fleet.api.routes import MESSAGE, PRINTABLE, Access, Route
from fleet.controller import Controller
from fleet.refusal import RefusedError
from fleet.rollout.desk import DEFAULT_SOAK_S

MAX_PARALLEL: Final = 1000
MAX_SOAK_S: Final = 30 * 86400.0
_PROBLEMS: Final = {"type": "array", "items": {"type": "object", "required": ["code", "text", "hint"]}}
_ORDER: Final = {
    "type": "object",
    "properties": {
        "image": {
            "type": ["string", "null"],
            "pattern": "^[0-9a-f]{12,64}$",
            "description": "Its id; null for the image of the cluster.yaml in force.",
        },
        "canary": {"type": ["string", "null"], "maxLength": 80, "pattern": PRINTABLE},
        "max_parallel": {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_PARALLEL},
        "soak_s": {"type": "number", "minimum": 0, "maximum": MAX_SOAK_S},
        "dry_run": {"type": "boolean"},
    },
}
_ANSWER: Final = {
    "type": "object",
    "required": ["message", "problems", "warnings", "plan"],
    "properties": {
        "message": {"type": ["string", "null"], "description": "What was done; null for a dry run."},
        "problems": _PROBLEMS,
        "warnings": _PROBLEMS,
        "plan": {"type": "object", "required": ["image", "canary", "order", "nodes"]},
    },
}
_STATUS: Final = {
    "type": "object",
    "required": ["rollout"],
    "properties": {"rollout": {"type": ["object", "null"], "description": "The last one, open or ended."}},
}


class RolloutRoutes:
    """Rollouts of images, for people."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    async def status(self, _request: web.Request) -> web.Response:
        return value_answer({"rollout": self._controller.rollouts.view()})

    async def start(self, request: web.Request) -> web.Response:
        wanted = _parse(await read_object(request))
        answer = await self._controller.rollouts.start(by=request[CALLER], **wanted)
        add_to_audit(request, image=answer["plan"]["image"], dry_run=str(wanted["dry_run"]).lower())
        return value_answer(answer)

    async def pause(self, request: web.Request) -> web.Response:
        return value_answer({"message": self._controller.rollouts.pause(request[CALLER])})

    async def resume(self, request: web.Request) -> web.Response:
        return value_answer({"message": self._controller.rollouts.resume(request[CALLER])})

    async def abort(self, request: web.Request) -> web.Response:
        return value_answer({"message": self._controller.rollouts.abort(request[CALLER])})

    ROUTES: ClassVar[tuple[Route, ...]] = (
        Route(
            method="GET",
            path="/v1/admin/rollout",
            name="rolloutStatus",
            summary="The last rollout: every node's step, what it waits for, the time left.",
            access=Access.VIEWER,
            handler=status,
            answer=_STATUS,
        ),
        Route(
            method="POST",
            path="/v1/admin/rollout",
            name="startRollout",
            summary="Give the whole fleet another image, node by node, or only say how.",
            access=Access.ADMIN,
            handler=start,
            request=_ORDER,
            answer=_ANSWER,
            refusals=(404, 409),
        ),
        *(
            Route(
                method="POST",
                path=f"/v1/admin/rollout/{word}",
                name=f"{word}Rollout",
                summary=summary,
                access=Access.ADMIN,
                handler=handler,
                answer=MESSAGE,
                refusals=(409,),
            )
            for word, summary, handler in (
                ("pause", "Take no further node.", pause),
                ("resume", "Go on where it was paused or stopped; what failed gets another turn.", resume),
                ("abort", "End it; nodes keep what they have.", abort),
            )
        ),
    )


def _parse(value: dict[str, Any]) -> dict[str, Any]:
    """The body's parts, by the names of `RolloutDesk.start`."""
    unknown = value.keys() - _ORDER["properties"].keys()  # type: ignore[attr-defined]
    if unknown:
        raise RefusedError(400, "body", f"there is no {sorted(unknown)[0]!r} in a rollout")
    image, canary, dry_run = value.get("image"), value.get("canary"), value.get("dry_run", False)
    for name, text in (("image", image), ("canary", canary)):
        if text is not None and not (isinstance(text, str) and 0 < len(text) <= 80 and text.isprintable()):
            raise RefusedError(400, name, f"{name} is a text of at most 80 characters, or null")
    parallel, soak_s = value.get("max_parallel"), value.get("soak_s", DEFAULT_SOAK_S)
    if parallel is not None and (type(parallel) is not int or not 1 <= parallel <= MAX_PARALLEL):
        raise RefusedError(400, "max_parallel", f"max_parallel is a number from 1 to {MAX_PARALLEL}, or null")
    if type(soak_s) not in (int, float) or not 0 <= soak_s <= MAX_SOAK_S:
        raise RefusedError(400, "soak_s", f"soak_s is a number of seconds from 0 to {MAX_SOAK_S:.0f}")
    if not isinstance(dry_run, bool):
        raise RefusedError(400, "dry_run", "dry_run is neither true nor false")
    return {
        "image": image,
        "canary": canary,
        "max_parallel": parallel,
        "soak_s": float(soak_s),
        "dry_run": dry_run,
    }
