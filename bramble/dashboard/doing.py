"""Forms that do something: asked once more where it destroys, done through the desk, put on record."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from urllib.parse import quote

from aiohttp import web

from bramble.dashboard.access import Notice, Session
from bramble.dashboard.actions import Action, Call, Form, find_action
from bramble.dashboard.guard import FORM, require_admin
from bramble.dashboard.question import ask
from bramble.dashboard.site import SITE
from fleet.api.answers import REQUEST_ID
from fleet.refusal import RefusedError
from fleet.views import NodeView, timeline_view

log = logging.getLogger(__name__)


async def confirm(request: web.Request) -> web.Response:
    """Say what would be done and what stands against it, and have the node's name typed where it destroys."""
    session = require_admin(request)
    action, node = _wanted(request)
    chosen = {field.name: text for field in action.fields if (text := request.query.get(field.name))}
    call = _call(request, node, chosen, session.who)
    action.require_choices(call)
    return ask(request, await action.ask(call), chosen)


async def do(request: web.Request) -> web.StreamResponse:
    """Carry an action out; the node's page tells what became of it."""
    session = require_admin(request)
    form = request[FORM]
    action, node = _wanted(request)
    call = _call(request, node, form, session.who)
    if action.types_name and form.get("typed") != node.name:
        return ask(request, await action.ask(call), form, f"Type {node.name} to go on.")
    with told_if_refused(session):
        action.require_choices(call)
        session.notice = Notice("done", await action.perform(call))
        detail = {
            name: form[name] for name in ("key", *(one.name for one in action.fields)) if form.get(name)
        }
        put_on_record(
            request, session.who, action.operation, {"name": node.name, "action": action.name, **detail}
        )
    return web.Response(status=303, headers={"Location": f"/nodes/{quote(node.name)}"})


async def take_snapshot(request: web.Request) -> web.StreamResponse:
    """Have a snapshot of etcd taken now."""
    session = require_admin(request)
    request.app[SITE].controller.snapshots.order(session.who)
    session.notice = Notice("done", "a snapshot of etcd is being taken")
    put_on_record(request, session.who, "takeSnapshot", {})
    return web.Response(status=303, headers={"Location": "/cluster"})


@contextlib.contextmanager
def told_if_refused(session: Session) -> Iterator[None]:
    """What a desk refuses in here is told on the next page, with its hint; the block ends there."""
    try:
        yield
    except RefusedError as error:
        session.notice = Notice("refused", error.message, error.hint)


def put_on_record(request: web.Request, who: str, operation: str, detail: dict[str, str]) -> None:
    """A line of the audit, as the API writes it."""
    site = request.app[SITE]
    with site.controller.store.write() as tx:
        tx.add_audit(
            at=site.clock(),
            who=who,
            what=operation,
            request_id=request[REQUEST_ID],
            detail={**detail, "by": "dashboard"},
        )
    fields = {"who": who, "what": operation, "node": detail.get("name"), "request": request[REQUEST_ID]}
    log.info("dashboard action", extra=fields)


def _call(request: web.Request, node: NodeView, form: Form, who: str) -> Call:
    site = request.app[SITE]
    return Call(controller=site.controller, images=site.images(), node=node, form=form, who=who)


def _wanted(request: web.Request) -> tuple[Action, NodeView]:
    action = find_action(request.match_info["action"])
    if action is None:
        raise RefusedError(404, "action", "There is no such action.")
    name = request.match_info["name"]
    found = timeline_view(request.app[SITE].controller.store, name)
    if found is None or found.node is None:
        raise RefusedError(404, "node", f"There is no node {name!r}.", "The rack shows all of them.")
    return action, found.node
