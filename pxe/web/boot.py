"""Boot trees over HTTP: what UEFI HTTP boot and iPXE fetch, by the same routes and decisions as over TFTP.

``/boot/<directory of the board>/<file>``. HEAD and single ranges are answered, because EFI firmware asks for
the size first and some resume. A program in pieces is read piece by piece; nothing of it is kept in memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus
from ipaddress import IPv4Address
from typing import Final

from aiohttp import web

from pxe.boot.clients import ClientBook
from pxe.boot.content import Content
from pxe.boot.decision import Install
from pxe.boot.identity import BoardIdentity
from pxe.boot.programs import HTTP_PREFIX
from pxe.boot.routes import Route, explain_missing, locate, printable, route
from pxe.boot.table import BootTable
from pxe.events import BoardEvent, BootFileMissing, TransferDone
from pxe.web.files import FileResponse, open_file

LONGEST_NAME: Final = 512


class BootTreeServer:
    """Serves boot trees.

    Args:
        table: the boot table as it is now.
        clients: which board is behind which address.
        on_event: gets what happened.
    """

    def __init__(
        self,
        table: Callable[[], BootTable],
        clients: ClientBook,
        on_event: Callable[[BoardEvent], None],
    ) -> None:
        self._table = table
        self._clients = clients
        self._on_event = on_event

    def add_routes(self, app: web.Application) -> None:
        """Serve below `HTTP_PREFIX` of an application; HEAD comes with GET."""
        app.router.add_get(HTTP_PREFIX + "{name:.+}", self._serve)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        found = route(name, self._client(request), self._table(), time.time())
        content = self._open(found) if len(name) <= LONGEST_NAME else None
        if content is None:
            self._report_missing(found, name)
            return web.Response(status=HTTPStatus.NOT_FOUND, text="no such file\n")
        started = time.monotonic()

        def sent(_first: int, end: int) -> None:
            if end == content.size:
                self._report_sent(found, content.size, time.monotonic() - started)

        return FileResponse(request, content, headers={"Cache-Control": "no-store"}, on_sent=sent)

    def _client(self, request: web.Request) -> BoardIdentity | None:
        try:
            return self._clients.find(IPv4Address(request.remote or ""))
        except ValueError:
            return None

    def _open(self, found: Route) -> Content | None:
        if not isinstance(found.answer, Install) or found.node is None:
            return None
        location = locate(found.node.tree, found.parts)
        return None if location is None else open_file(location)

    def _report_sent(self, found: Route, sent_bytes: int, seconds: float) -> None:
        self._on_event(
            TransferDone(
                at=time.time(),
                board=found.board,
                node=found.node.name if found.node else None,
                name=found.name,
                sent_bytes=sent_bytes,
                seconds=seconds,
            )
        )

    def _report_missing(self, found: Route, name: str) -> None:
        self._on_event(
            BootFileMissing(
                at=time.time(),
                board=found.board,
                node=found.node.name if found.node else None,
                name=found.name or printable(name),
                reason=explain_missing(found),
            )
        )
