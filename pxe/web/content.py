"""HTTP content: image files for the installer, as plain bytes.

Plain HTTP, because the digest of every byte comes over TLS. Only files that the boot table lists are given
out; there is no directory and no path from the network. Ranges, HEAD and conditional requests are
aiohttp's, which hands files to the kernel (sendfile).
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
from pathlib import Path
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from pxe.boot.clients import ClientBook
from pxe.boot.decision import Install, Stage, decide
from pxe.boot.identity import BoardIdentity
from pxe.boot.routes import printable
from pxe.boot.table import BootTable, NodeBootState
from pxe.events import BoardEvent, BootProgress, ContentRefused, TransferDone
from pxe.web.boot import BootTreeServer

log = logging.getLogger(__name__)

PROGRESS_EVERY_S: Final = 1.0
READERS_REMEMBERED: Final = 4096
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
    """

    def __init__(
        self,
        table: Callable[[], BootTable],
        clients: ClientBook,
        on_event: Callable[[BoardEvent], None],
        metrics: Callable[[str], bytes | None] = lambda _reader: None,
    ) -> None:
        self._metrics_for = metrics
        self._table = table
        self._clients = clients
        self._on_event = on_event
        self._readers: OrderedDict[tuple[str, str], _Reader] = OrderedDict()

    def make_app(self) -> web.Application:
        """The web application; the composition root may mount it elsewhere."""
        app = web.Application()
        app.router.add_get("/images/{image}/{file}", self._serve)
        app.router.add_get("/metrics", self._metrics)
        BootTreeServer(self._table, self._clients, self._on_event).add_routes(app)
        return app

    async def run(self, sock: socket.socket, grace_s: float) -> None:
        """Serve on a listening socket until cancelled; requests under way get `grace_s` to end."""
        runner = web.AppRunner(
            self.make_app(), access_log=None, shutdown_timeout=grace_s, handler_cancellation=True
        )
        await runner.setup()
        try:
            await web.SockSite(runner, sock).start()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        page = self._metrics_for(request.remote or "")
        if page is None:
            return web.Response(status=HTTPStatus.NOT_FOUND, text="no such file\n")
        return web.Response(body=page, headers={"Content-Type": METRICS_TYPE})

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        name = f"{request.match_info['image']}/{request.match_info['file']}"
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
        if path is None:
            return web.Response(status=HTTPStatus.NOT_FOUND, text="no such file\n")
        return _ReportedFile(path, lambda response: self._sent(request, name, board, node, response))

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

    def _sent(
        self,
        request: web.Request,
        name: str,
        board: BoardIdentity,
        node: NodeBootState | None,
        response: web.FileResponse,
    ) -> None:
        """Count what a client has read; tell when it has read the end."""
        span = _sent_span(request, response)
        if span is None:
            return
        first, last, size = span
        now = time.monotonic()
        key = (request.remote or "", name)
        reader = self._readers.setdefault(key, _Reader(now, now + PROGRESS_EVERY_S))
        self._readers.move_to_end(key)
        while len(self._readers) > READERS_REMEMBERED:
            self._readers.popitem(last=False)
        reader.sent_bytes += last - first + 1
        node_name = node.name if node else None
        if last == size - 1:
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


def _sent_span(request: web.Request, response: web.FileResponse) -> tuple[int, int, int] | None:
    """First and last byte that were sent and the file's size; None where no part of the file was."""
    if request.method != "GET" or not response.content_length:
        return None
    if response.status == HTTPStatus.OK:
        return 0, response.content_length - 1, response.content_length
    if response.status == HTTPStatus.PARTIAL_CONTENT:
        span, _, size = response.headers["Content-Range"].removeprefix("bytes ").partition("/")
        first, _, last = span.partition("-")
        return int(first), int(last), int(size)
    return None


class _ReportedFile(web.FileResponse):
    """A file that says when it has been sent. A connection that breaks off is not reported: the client
    comes again."""

    def __init__(self, path: Path, on_sent: Callable[[web.FileResponse], None]) -> None:
        # An image id stands for its bytes: what a client has once, it never needs to ask for again.
        super().__init__(path, headers={"Cache-Control": "public, max-age=31536000, immutable"})
        self._on_sent = on_sent

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        # aiohttp would give out "<file>.br" or "<file>.gz" to a client that accepts it, and neither is
        # listed.
        headers = request.headers.copy()
        headers.popall("Accept-Encoding", None)
        writer = await super().prepare(request.clone(headers=headers))
        self._on_sent(self)
        return writer
