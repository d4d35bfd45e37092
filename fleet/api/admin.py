"""What the command line asks of a server: the fleet, one node, handouts, orders.

People's decisions: `fleet.api.people`.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import ClassVar

from aiohttp import web

from fleet.api.answers import value_answer
from fleet.api.guard import add_to_audit
from fleet.api.routes import MESSAGE, NAME, Access, Parameter, Route
from fleet.controller import Controller
from fleet.refusal import RefusedError, no_such_node
from fleet.views import FleetView, Timeline, as_json, fleet_view, timeline_view

_SINCE = Parameter(
    name="since",
    description="Only entries with a greater id.",
    schema={"type": "string", "pattern": "^[0-9]{1,18}$"},
)
_INTENT = Parameter(
    name="intent",
    description="Number under which the values were given out.",
    schema={"type": "string", "pattern": "^[0-9]{1,9}$"},
    is_required=True,
)
_IMAGE = Parameter(name="image", description="Id of the image.", schema={"type": "string"})
_MEDIUM = Parameter(name="medium", description="What it was written to.", schema={"type": "string"})
SETTINGS = {"type": "object", "minProperties": 1, "additionalProperties": {"type": "string"}}
HANDOUT = {
    "type": "object",
    "required": ["node", "intent", "ticket", "disk_signature", "instance_id", "control_urls", "ca_pem"],
}
SUMMARY = {
    "type": "object",
    "required": ["states", "held", "rss_bytes", "boot_events_dropped"],
    "properties": {"states": {"type": "object", "additionalProperties": {"type": "integer"}}},
}


class AdminRoutes:
    """The admin routes over one controller."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    async def _nodes(self, _request: web.Request) -> web.Response:
        return value_answer(as_json(fleet_view(self._controller.store)))

    async def _timeline(self, request: web.Request) -> web.Response:
        since = request.query.get("since", "0")
        if not re.fullmatch(r"[0-9]{1,18}", since):
            raise RefusedError(400, "since", f"since is {since!r}, it is the id of an event")
        self._controller.boots.flush()
        name = request.match_info["name"]
        found = timeline_view(self._controller.store, name, int(since))
        if found is None:
            with self._controller.store.read() as reader:
                known = [node.name for node in reader.nodes()]
            raise no_such_node(name, known, "there is no node or board")
        return value_answer(as_json(found))

    async def _hand_out(self, request: web.Request) -> web.Response:
        return value_answer(self._controller.handouts.begin(request.match_info["name"]).as_json())

    async def _handed_out(self, request: web.Request) -> web.Response:
        name, intent = request.match_info["name"], int(request.match_info["intent"])
        query = request.query
        self._controller.handouts.finish(
            name, intent, image_id=query.get("image", ""), medium=query.get("medium", "")
        )
        return value_answer({})

    async def _eeprom(self, request: web.Request) -> web.Response:
        try:
            settings = json.loads(await request.read())
        except ValueError as error:
            raise RefusedError(400, "settings", "the body is not JSON") from error
        if not isinstance(settings, dict):
            raise RefusedError(400, "settings", "the body is no JSON object of settings")
        message = self._controller.eeprom.order(request.match_info["name"], settings)
        add_to_audit(
            request, settings=", ".join(f"{name}={value}" for name, value in sorted(settings.items()))
        )
        return value_answer({"message": message})

    async def _summary(self, _request: web.Request) -> web.Response:
        view = fleet_view(self._controller.store)
        return value_answer(
            {
                "states": dict(Counter(node.state for node in view.nodes)),
                "held": len(view.held),
                "rss_bytes": resident_bytes(),
                "boot_events_dropped": self._controller.boots.dropped,
            }
        )

    ROUTES: ClassVar[tuple[Route, ...]] = (
        Route(
            method="GET",
            path="/v1/admin/nodes",
            name="fleet",
            summary="Everything that 'bramble nodes' shows.",
            access=Access.VIEWER,
            handler=_nodes,
            answer=FleetView,
        ),
        Route(
            method="GET",
            path="/v1/admin/nodes/{name}",
            name="timeline",
            summary="What is known of a node or a board, and its timeline.",
            access=Access.VIEWER,
            handler=_timeline,
            parameters=(NAME, _SINCE),
            answer=Timeline,
            refusals=(404,),
        ),
        Route(
            method="POST",
            path="/v1/admin/nodes/{name}/handout",
            name="beginHandout",
            summary="What makes an image the node's own, its ticket included.",
            access=Access.ADMIN,
            handler=_hand_out,
            parameters=(NAME,),
            answer=HANDOUT,
            refusals=(404,),
            holds_secret=True,
        ),
        Route(
            method="POST",
            path="/v1/admin/nodes/{name}/handout/{intent:[0-9]{1,9}}",
            name="finishHandout",
            summary="It was written, and read back.",
            access=Access.ADMIN,
            handler=_handed_out,
            parameters=(NAME, _INTENT, _IMAGE, _MEDIUM),
            refusals=(404,),
        ),
        Route(
            method="POST",
            path="/v1/admin/nodes/{name}/eeprom",
            name="orderEeprom",
            summary="Have the node's agent write bootloader settings.",
            access=Access.ADMIN,
            handler=_eeprom,
            parameters=(NAME,),
            request=SETTINGS,
            answer=MESSAGE,
            refusals=(404,),
        ),
        Route(
            method="GET",
            path="/v1/admin/summary",
            name="summary",
            summary="Counts by state, and the server's memory.",
            access=Access.VIEWER,
            handler=_summary,
            answer=SUMMARY,
        ),
    )


def resident_bytes() -> int:
    """Memory of this process that is in RAM. Source: proc(5), /proc/self/statm, field 2, pages."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
