"""HTTP content: image files for the installer, and boot trees for firmware that boots over HTTP.

Plain HTTP, because the digest of every image byte comes over TLS, and what boots over HTTP is signed or
trusted no more than over TFTP. Images are only files that the boot table lists; names of boot trees take the
same way as over TFTP (`pxe.boot.routes`), with the same decision.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import IPv4Address
from typing import Final

from aiohttp import web

from pxe.boot.clients import ClientBook
from pxe.boot.decision import Install, Stage, decide
from pxe.boot.identity import BoardIdentity
from pxe.boot.routes import printable
from pxe.boot.table import BootTable, NodeBootState
from pxe.events import BoardEvent, BootProgress, ContentRefused, TransferDone
from pxe.web.boot import BootTreeServer
from pxe.web.door import NEXT_REQUEST_S, Door
from pxe.web.files import FileResponse, open_file

log = logging.getLogger(__name__)

PROGRESS_EVERY_S: Final = 1.0
READERS_REMEMBERED: Final = 4096
BACKLOG: Final = 1024  # as many boards after a power cut
NO_SUCH_FILE: Final = "no such file\n"
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(slots=True)
class _Reader:
    """One client that reads one file, in one request or in many."""

    started: float
    progress_at: float
    sent_bytes: int = 0


class ContentServer:
    """Serves ``/images/<image id>/<file>``, and boot trees (`pxe.web.boot`).

    Args:
        table: the boot table as it is now.
        clients: which board is behind which address.
        on_event: gets what happened.
        metrics: the page for a reader at an address; None where that one may not read it.
        is_ready: whether everything behind this server works; asked for each probe.
        door: bounds on connections; None for the usual ones.
    """

    def __init__(
        self,
        table: Callable[[], BootTable],
        clients: ClientBook,
        on_event: Callable[[BoardEvent], None],
        metrics: Callable[[str], bytes | None] = lambda _reader: None,
        is_ready: Callable[[], bool] = lambda: True,
        door: Door | None = None,
    ) -> None:
        self._metrics_for = metrics
        self._is_ready = is_ready
        self._table = table
        self._clients = clients
        self._on_event = on_event
        self._readers: OrderedDict[tuple[str, str], _Reader] = OrderedDict()
        self.door = door or Door()

    def make_app(self) -> web.Application:
        """The web application; the composition root may mount it elsewhere."""
        app = web.Application(middlewares=[self.door.middleware])
        app.router.add_get("/images/{image}/{file}", self._serve_image)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        BootTreeServer(self._table, self._clients, self._on_event).add_routes(app)
        return app

    async def run(self, sock: socket.socket, grace_s: float) -> None:
        """Serve on a listening socket until cancelled; requests under way get `grace_s` to end."""
        runner = web.AppRunner(
            self.make_app(),
            access_log=None,
            shutdown_timeout=grace_s,
            handler_cancellation=True,
            keepalive_timeout=NEXT_REQUEST_S,
        )
        await runner.setup()
        try:
            server = runner.server
            assert server is not None  # after `setup`
            listening = await asyncio.get_running_loop().create_server(
                lambda: self.door.protocol(server), sock=sock, backlog=BACKLOG, start_serving=False
            )
            await self.door.run(server, listening)
        finally:
            await runner.cleanup()

    async def _healthz(self, _request: web.Request) -> web.Response:
        """For whoever restarts a server that stands still: whoever reads this, its loop turns."""
        return web.Response(text="ok\n", headers={"Cache-Control": "no-store"})

    async def _readyz(self, _request: web.Request) -> web.Response:
        """For load balancers: whether boards and nodes can be served now. A word, and no reasons: anybody
        may ask."""
        ready = self._is_ready()
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        text = "ok\n" if ready else "not ready\n"
        return web.Response(status=status, text=text, headers={"Cache-Control": "no-store"})

    async def _metrics(self, request: web.Request) -> web.Response:
        page = self._metrics_for(request.remote or "")
        if page is None:
            return web.Response(status=HTTPStatus.NOT_FOUND, text=NO_SUCH_FILE)
        return web.Response(body=page, headers={"Content-Type": METRICS_TYPE})

    async def _serve_image(self, request: web.Request) -> web.StreamResponse:
        image = request.match_info["image"]
        name = f"{image}/{request.match_info['file']}"
        board, node = self._client(request)
        answer = decide(board, node, Stage.HTTP, time.time())
        if not isinstance(answer, Install):
            reason = answer.describe()
            self._on_event(
                ContentRefused(
                    at=time.time(),
                    board=board,
                    node=node.name if node else None,
                    name=printable(name),
                    reason=reason,
                )
            )
            return web.Response(status=HTTPStatus.FORBIDDEN, text="no install is open for this board\n")
        path = self._table().images.get(name)
        content = open_file((path,)) if path is not None else None
        if content is None:
            return web.Response(status=HTTPStatus.NOT_FOUND, text=NO_SUCH_FILE)
        # An image id stands for its bytes: what a client has once, it never needs to ask for again, and a
        # part that it has fits the rest from another server or after a restart.
        return FileResponse(
            request,
            content,
            etag=f'"{image}-{content.size:x}"',
            headers={"Cache-Control": "public, max-age=31536000, immutable"},
            on_sent=self._counter(request, name, content.size, board, node),
        )

    def _client(self, request: web.Request) -> tuple[BoardIdentity, NodeBootState | None]:
        """Who is behind the address of a request, as far as leases and declared addresses tell."""
        try:
            address = IPv4Address(request.remote or "")
        except ValueError:
            return BoardIdentity(), None
        table = self._table()
        known = self._clients.find(address)
        if known is not None:
            return known, table.find(known)
        node = table.reserved.get(address)
        return (BoardIdentity(mac=node.mac) if node else BoardIdentity()), node

    def _counter(
        self,
        request: web.Request,
        name: str,
        size: int,
        board: BoardIdentity,
        node: NodeBootState | None,
    ) -> Callable[[int, int], None]:
        """Counts what a client has read, in one request or in several; tells when it has read the end."""
        key = (request.remote or "", name)

        def sent(first: int, end: int) -> None:
            now = time.monotonic()
            reader = self._readers.setdefault(key, _Reader(now, now + PROGRESS_EVERY_S))
            self._readers.move_to_end(key)
            while len(self._readers) > READERS_REMEMBERED:
                self._readers.popitem(last=False)
            reader.sent_bytes += end - first
            node_name = node.name if node else None
            if end == size:
                del self._readers[key]
                self._on_event(
                    TransferDone(
                        at=time.time(),
                        board=board,
                        node=node_name,
                        name=name,
                        sent_bytes=reader.sent_bytes,
                        seconds=now - reader.started,
                    )
                )
            elif now >= reader.progress_at:
                reader.progress_at = now + PROGRESS_EVERY_S
                self._on_event(
                    BootProgress(
                        at=time.time(),
                        board=board,
                        node=node_name,
                        name=name,
                        sent_bytes=reader.sent_bytes,
                        size_bytes=size,
                    )
                )

        return sent
