"""Forms that do something: asked once more where it destroys, done through the desk, put on record."""

from __future__ import annotations

import logging
from urllib.parse import quote

from aiohttp import web

from bramble.dashboard.access import Notice
from bramble.dashboard.actions import Action, Call, find_action
from bramble.dashboard.guard import FORM, require_admin
from bramble.dashboard.site import SITE
from fleet.api.answers import REQUEST_ID
from fleet.refusal import RefusedError
from fleet.views import NodeView, timeline_view

log = logging.getLogger(__name__)


async def confirm(request: web.Request) -> web.Response:
    """Say what would be done, and have the node's name typed."""
    require_admin(request)
    site = request.app[SITE]
    action, node = _wanted(request)
    return site.page(
        request,
        "confirm.html",
        action=action,
        node=node,
        notes=action.notes(site.controller, node.name),
        typed="",
        problem="",
    )


async def do(request: web.Request) -> web.StreamResponse:
    """Carry an action out; the node's page tells what became of it."""
    session = require_admin(request)
    site, form = request.app[SITE], request[FORM]
    action, node = _wanted(request)
    if action.types_name and form.get("typed") != node.name:
        return site.page(
            request,
            "confirm.html",
            422,
            action=action,
            node=node,
            notes=action.notes(site.controller, node.name),
            typed=form.get("typed", ""),
            problem=f"Type {node.name} to go on.",
        )
    try:
        text = action.perform(Call(controller=site.controller, name=node.name, form=form, who=session.who))
    except RefusedError as error:
        session.notice = Notice("refused", error.message, error.hint)
    else:
        session.notice = Notice("done", text)
        with site.controller.store.write() as tx:
            tx.add_audit(
                at=site.clock(),
                who=session.who,
                what=action.operation,
                request_id=request[REQUEST_ID],
                detail={"name": node.name, "by": "dashboard", **_told(action, form)},
            )
        log.info(
            "dashboard action",
            extra={"who": session.who, "what": action.operation, "node": node.name},
        )
    return web.Response(status=303, headers={"Location": f"/nodes/{quote(node.name)}"})


def _wanted(request: web.Request) -> tuple[Action, NodeView]:
    action = find_action(request.match_info["action"])
    if action is None:
        raise RefusedError(404, "action", "There is no such action.")
    name = request.match_info["name"]
    found = timeline_view(request.app[SITE].controller.store, name)
    if found is None or found.node is None:
        raise RefusedError(404, "node", f"There is no node {name!r}.", "The rack shows all of them.")
    return action, found.node


def _told(action: Action, form: dict[str, str]) -> dict[str, str]:
    """What of the form belongs into the record."""
    return {name: form[name] for name in ("key", *action.fields) if form.get(name)}
