"""Lists in pages: `{"items": […], "next": cursor}`; the cursor is null on the last page and opaque on
others.

A page begins after the last item of the one before, so what changes meanwhile moves nothing: no item is
given twice, and none is left out that was there all the time.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final, TypeVar

from aiohttp import web

from fleet.api.answers import value_answer
from fleet.api.routes import Access, Parameter, Route
from fleet.api.schema import Page
from fleet.complaints import complaint_of
from fleet.controller import Controller
from fleet.health.desk import held_by_all
from fleet.refusal import RefusedError
from fleet.store.access import AuditRecord
from fleet.store.pages import boards_after, events_after, nodes_after
from fleet.store.records import NodeRecord
from fleet.views import EventView, HeldBoardView, NodeView, as_json, event_view, held_view, node_view

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1000
Key = TypeVar("Key", str, int)
Record = TypeVar("Record")

_LIMIT = Parameter(
    name="limit",
    description=f"Items of one page, {DEFAULT_LIMIT} unless given.",
    schema={"type": "integer", "minimum": 1, "maximum": MAX_LIMIT},
)
_CURSOR = Parameter(
    name="cursor",
    description="`next` of the page before.",
    schema={"type": "string", "pattern": "^[A-Za-z0-9_-]{1,400}$"},
)


def encode_cursor(key: str | int) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def decode_cursor(text: str, first: Key) -> Key:
    """The key behind a cursor; `first` where there is none.

    Raises:
        RefusedError: This server did not make it, or for another list.
    """
    if not text:
        return first
    try:
        key = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, RecursionError) as error:
        raise _no_cursor(text) from error
    is_number = isinstance(key, int) and not isinstance(key, bool) and 0 <= key < 2**63
    if not (is_number if isinstance(first, int) else isinstance(key, str) and "\0" not in key):
        raise _no_cursor(text)
    found: Key = key
    return found


def _no_cursor(text: str) -> RefusedError:
    return RefusedError(
        400, "cursor", f"cursor {text[:40]!r} is of no page of this list", "Take 'next' as it was given."
    )


def limit_of(request: web.Request) -> int:
    """Items of a page; the guard let only numbers within the limits through."""
    return int(request.query.get("limit", DEFAULT_LIMIT))


def page(
    records: Sequence[Record], limit: int, show: Callable[[Record], Any], key: Callable[[Record], str | int]
) -> web.Response:
    """The answer for `limit` + 1 records that were asked for: the one too many tells that there are more."""
    items = records[:limit]
    more = len(records) > limit
    return value_answer(
        {
            "items": [as_json(show(one)) for one in items],
            "next": encode_cursor(key(items[-1])) if more else None,
        }
    )


class ListRoutes:
    """Nodes, boards, events and the audit, page by page."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    async def nodes(self, request: web.Request) -> web.Response:
        limit, after = limit_of(request), decode_cursor(request.query.get("cursor", ""), "")
        with self._controller.store.read() as reader:
            ill, revoked = held_by_all(reader), reader.revoked_nodes()
            found = nodes_after(reader, after, limit + 1)

            def show(node: NodeRecord) -> NodeView:
                complaint = complaint_of(reader, node)
                return node_view(node, ill.get(node.name, ()), complaint, revoked=node.name in revoked)

            return page(found, limit, show, lambda one: one.name)

    async def boards(self, request: web.Request) -> web.Response:
        limit, after = limit_of(request), decode_cursor(request.query.get("cursor", ""), "")
        with self._controller.store.read() as reader:
            found = boards_after(reader, after, limit + 1, held=request.query.get("held") == "true")
        return page(found, limit, held_view, lambda one: one.id)

    async def events(self, request: web.Request) -> web.Response:
        limit, after = limit_of(request), decode_cursor(request.query.get("cursor", ""), 0)
        self._controller.boots.flush()
        with self._controller.store.read() as reader:
            found = events_after(reader, after, limit + 1, node=request.query.get("node") or None)
        return page(found, limit, event_view, lambda one: one.id)

    async def audit(self, request: web.Request) -> web.Response:
        limit, after = limit_of(request), decode_cursor(request.query.get("cursor", ""), 0)
        with self._controller.store.read() as reader:
            found = reader.audit_lines(after=after, limit=limit + 1)
        return page(found, limit, lambda one: one, lambda one: one.id)

    ROUTES: ClassVar[tuple[Route, ...]] = (
        Route(
            method="GET",
            path="/v1/nodes",
            name="listNodes",
            summary="The nodes, by name.",
            access=Access.VIEWER,
            handler=nodes,
            parameters=(_LIMIT, _CURSOR),
            answer=Page(NodeView),
        ),
        Route(
            method="GET",
            path="/v1/boards",
            name="listBoards",
            summary="The boards that were seen; held ones only on request.",
            access=Access.VIEWER,
            handler=boards,
            parameters=(
                _LIMIT,
                _CURSOR,
                Parameter(
                    name="held",
                    description="`true`: only boards that are no node's.",
                    schema={"type": "string", "enum": ["true", "false"]},
                ),
            ),
            answer=Page(HeldBoardView),
        ),
        Route(
            method="GET",
            path="/v1/events",
            name="listEvents",
            summary="The timeline of all, or of one node, the oldest first.",
            access=Access.VIEWER,
            handler=events,
            parameters=(
                _LIMIT,
                _CURSOR,
                Parameter(
                    name="node",
                    description="Of this node only.",
                    schema={"type": "string", "minLength": 1, "maxLength": 80},
                ),
            ),
            answer=Page(EventView),
        ),
        Route(
            method="GET",
            path="/v1/audit",
            name="listAudit",
            summary="What people had done, the oldest first.",
            access=Access.ADMIN,
            handler=audit,
            parameters=(_LIMIT, _CURSOR),
            answer=Page(AuditRecord),
        ),
    )
