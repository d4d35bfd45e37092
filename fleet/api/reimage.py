"""Routes of taking nodes down: an order and what stands against it, calling it off, and all orders."""

from __future__ import annotations

from dataclasses import asdict
from typing import ClassVar, Final

from aiohttp import web

from fleet.api.agents import read_object
from fleet.api.answers import value_answer
from fleet.api.guard import CALLER, add_to_audit
from fleet.api.routes import MESSAGE, NAME, PRINTABLE, Access, Parameter, Route
from fleet.controller import Controller
from fleet.printable import printable
from fleet.refusal import RefusedError
from fleet.reimage.desk import refusal
from fleet.reimage.kinds import ReimageKind
from fleet.reimage.views import ReimageView, reimage_views
from fleet.views import as_json

MAX_WHY: Final = 200
_KINDS: Final = [kind.value for kind in ReimageKind]
_ORDER: Final = {
    "type": "object",
    "required": ["kind"],
    "properties": {
        "kind": {"type": "string", "enum": _KINDS},
        "dry_run": {
            "type": "boolean",
            "description": "Say what would be done, and what stands against it.",
        },
        "force_drain": {
            "type": "boolean",
            "description": "Pods that do not leave in time are deleted; pods that nothing makes anew, and "
            "volumes on the node's disk, are given up.",
        },
        "image": {"type": ["string", "null"], "pattern": "^[0-9a-f]{12,64}$", "description": "Its id."},
        "serial": {
            "type": ["string", "null"],
            "maxLength": 40,
            "description": "Of a new board.",
        },
        "why": {"type": "string", "maxLength": MAX_WHY, "pattern": PRINTABLE},
    },
}
_ANSWER: Final = {
    "type": "object",
    "required": ["message", "number", "problems", "warnings", "steps"],
    "properties": {
        "message": {"type": ["string", "null"], "description": "What was done; null for a dry run."},
        "number": {"type": ["integer", "null"], "description": "Of the order; null where nothing goes on."},
        "problems": {"type": "array", "items": {"type": "object", "required": ["code", "text", "hint"]}},
        "warnings": {"type": "array", "items": {"type": "object", "required": ["code", "text", "hint"]}},
        "steps": {"type": "array", "items": {"type": "string"}, "description": "States that it passes."},
    },
}


class ReimageRoutes:
    """Orders, for people."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    async def order(self, request: web.Request) -> web.Response:
        value = await read_object(request)
        kind, image, serial, why, flags = _parse(value)
        name, caller, desk = request.match_info["name"], request[CALLER], self._controller.reimages
        if kind is ReimageKind.REPLACE and serial is None:
            raise RefusedError(400, "serial", "to replace a board takes the serial of the new one")
        force = flags["force_drain"]
        shown = await desk.preview(name, kind=kind, image=image, force_drain=force, by=caller, serial=serial)
        message = None
        if not flags["dry_run"]:
            if shown.problems and not desk.is_open(name, kind):
                raise refusal(name, shown.problems)
            match kind:
                case ReimageKind.REIMAGE:
                    message = desk.request(name, image=image, force_drain=force, by=caller, why=why)
                case ReimageKind.REPLACE:
                    message = desk.replace(name, serial or "", force_drain=force, by=caller, why=why)
                case ReimageKind.DECOMMISSION:
                    message = desk.decommission(name, force_drain=force, by=caller, why=why)
            add_to_audit(request, kind=kind.value, why=why, force_drain=str(force).lower())
        with self._controller.store.read() as reader:
            open_now = reader.open_reimage(name) if message is not None else None
        number = open_now.number if open_now is not None else None
        return value_answer({"message": message, "number": number, **asdict(shown)})

    async def cancel(self, request: web.Request) -> web.Response:
        message = self._controller.reimages.cancel(request.match_info["name"], request[CALLER])
        return value_answer({"message": message})

    async def orders(self, request: web.Request) -> web.Response:
        with self._controller.store.read() as reader:
            found = reimage_views(reader, request.query.get("node"), int(request.query.get("limit", "20")))
        return value_answer([as_json(one) for one in found])

    ROUTES: ClassVar[tuple[Route, ...]] = (
        Route(
            method="POST",
            path="/v1/admin/nodes/{name}/reimage",
            name="orderReimage",
            summary="Install a node again, replace its board, or decommission it; the same again goes on.",
            access=Access.ADMIN,
            handler=order,
            parameters=(NAME,),
            request=_ORDER,
            answer=_ANSWER,
            refusals=(404, 409),
        ),
        Route(
            method="POST",
            path="/v1/admin/nodes/{name}/cancel",
            name="cancelReimage",
            summary="Call an order off, as long as nothing was removed.",
            access=Access.ADMIN,
            handler=cancel,
            parameters=(NAME,),
            answer=MESSAGE,
            refusals=(404, 409),
        ),
        Route(
            method="GET",
            path="/v1/admin/reimages",
            name="reimages",
            summary="Orders to take nodes down, the newest first; those that ended too.",
            access=Access.VIEWER,
            handler=orders,
            parameters=(
                Parameter(
                    name="node",
                    description="Of this node only.",
                    schema={"type": "string", "minLength": 1, "maxLength": 80, "pattern": PRINTABLE},
                ),
                Parameter(
                    name="limit",
                    description="At most so many, 20 unless given.",
                    schema={"type": "integer", "minimum": 1, "maximum": 1000},
                ),
            ),
            answer={"type": "array", "items": {"type": "object", "required": list(ReimageView.__slots__)}},
        ),
    )


def _parse(
    value: dict[str, object],
) -> tuple[ReimageKind, str | None, str | None, str, dict[str, bool]]:
    """The body's parts; all that is wrong with it is an error of its own words."""
    if value.get("kind") not in _KINDS:
        raise RefusedError(
            400, "kind", f"kind is {str(value.get('kind'))[:40]!r}, one of {', '.join(_KINDS)}"
        )
    flags = {name: value.get(name, False) for name in ("dry_run", "force_drain")}
    image, serial, why = value.get("image"), value.get("serial"), value.get("why", "")
    if not all(isinstance(flag, bool) for flag in flags.values()):
        raise RefusedError(400, "order", "dry_run and force_drain are true or false")
    for name, text, limit in (("image", image, 64), ("serial", serial, 40)):
        if text is not None and not (isinstance(text, str) and len(text) <= limit):
            raise RefusedError(400, name, f"{name} is no text of up to {limit} characters")
    if isinstance(image, str) and not (len(image) >= 12 and set(image) <= set("0123456789abcdef")):
        raise RefusedError(400, "image", f"image is {image!r}, 12 to 64 hex digits of an image's id")
    if not isinstance(why, str) or len(why) > MAX_WHY or printable(why, MAX_WHY) != why:
        raise RefusedError(400, "why", f"why is no line of up to {MAX_WHY} characters")
    return (
        ReimageKind(str(value["kind"])),
        image if isinstance(image, str) else None,
        serial if isinstance(serial, str) else None,
        why,
        {name: flag is True for name, flag in flags.items()},
    )
