"""The admin API for this machine's command line, on a unix socket that only its owner can open (0600).

GET  /v1/admin/nodes                    FleetView
GET  /v1/admin/nodes/{name}?since=ID    Timeline of a node or of a held board
POST /v1/admin/nodes/{name}/handout           Handout: what makes an image the node's own, its ticket included
POST /v1/admin/nodes/{name}/handout/{intent}?image=ID&medium=TEXT   {}; it was written, and read back
POST /v1/admin/nodes/{name}/eeprom      {"KEY": "value"} -> {"message": text}
GET  /v1/admin/summary                  counts by state, memory of the server

People's decisions: `fleet.api.people`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from aiohttp import web

from fleet.api.agents import add_admin_routes
from fleet.api.answers import answer_errors, value_answer
from fleet.api.apply import ApplyRoutes
from fleet.api.people import PeopleRoutes
from fleet.controller import Controller
from fleet.errors import FleetError
from fleet.refusal import RefusedError
from fleet.views import as_json, fleet_view, timeline_view

MAX_BODY_BYTES: Final = 1024 * 1024
"""The largest body is an import of device keys: 80 bytes a board."""


class AdminApi:
    """The admin routes over one controller."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def app(self) -> web.Application:
        app = web.Application(middlewares=[answer_errors], client_max_size=MAX_BODY_BYTES)
        app.router.add_get("/v1/admin/nodes", self._nodes)
        app.router.add_get("/v1/admin/nodes/{name}", self._timeline)
        app.router.add_post("/v1/admin/nodes/{name}/handout", self._hand_out)
        app.router.add_post("/v1/admin/nodes/{name}/handout/{intent:[0-9]{1,9}}", self._handed_out)
        app.router.add_post("/v1/admin/nodes/{name}/eeprom", self._eeprom)
        app.router.add_get("/v1/admin/summary", self._summary)
        add_admin_routes(app, self._controller)
        PeopleRoutes(self._controller).add_to(app)
        ApplyRoutes(self._controller).add_to(app)
        return app

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
            raise RefusedError(
                404, "node", f"there is no node or board {name!r}", "'bramble nodes' lists them."
            )
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
        return value_answer({"message": self._controller.eeprom.order(request.match_info["name"], settings)})

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


def resident_bytes() -> int:
    """Memory of this process that is in RAM. Source: proc(5), /proc/self/statm, field 2, pages."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextlib.asynccontextmanager
async def serve_admin(controller: Controller, path: Path) -> AsyncIterator[None]:
    """Listen on the unix socket `path` while the block runs; it is gone afterwards."""
    runner = web.AppRunner(AdminApi(controller).app(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        listener = _private_socket(path)
        await web.SockSite(runner, listener).start()
        yield
    finally:
        await runner.cleanup()
        _remove(path)


def _private_socket(path: Path) -> socket.socket:
    """A bound unix socket, 0600 from its first moment.

    An old one is of a server that was killed: only one server at a time has the store open.
    """
    _remove(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise FleetError(
            f"the admin socket {path} cannot be made: {error.strerror or error}",
            "Is the state directory yours, and its path shorter than 100 characters?",
        ) from error
    finally:
        os.umask(previous)
    return listener


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
