"""Boot trees over HTTP: what UEFI HTTP boot and iPXE fetch, by the same routes and decisions as over TFTP.

``/boot/<directory of the board>/<file>``. HEAD and single ranges are answered, because EFI firmware asks for
the size first and some resume. A program in pieces is read piece by piece; nothing of it is kept in memory.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from http import HTTPStatus
from ipaddress import IPv4Address
from typing import Final

from aiohttp import web

from pxe.boot.clients import ClientBook
from pxe.boot.content import Content, open_content
from pxe.boot.decision import Install
from pxe.boot.identity import BoardIdentity
from pxe.boot.programs import HTTP_PREFIX
from pxe.boot.routes import Route, explain_missing, locate, printable, route
from pxe.boot.table import BootTable
from pxe.events import BoardEvent, BootFileMissing, TransferDone

CHUNK_BYTES: Final = 1 << 18
LONGEST_NAME: Final = 512
_RANGE: Final = re.compile(r"bytes=(\d{1,15})-(\d{0,15})")


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
        try:
            return await self._send(request, found, content)
        finally:
            content.close()

    def _client(self, request: web.Request) -> BoardIdentity | None:
        try:
            return self._clients.find(IPv4Address(request.remote or ""))
        except ValueError:
            return None

    def _open(self, found: Route) -> Content | None:
        if not isinstance(found.answer, Install) or found.node is None:
            return None
        location = locate(found.node.tree, found.parts)
        try:
            return None if location is None else open_content(location)
        except OSError:
            return None

    async def _send(self, request: web.Request, found: Route, content: Content) -> web.StreamResponse:
        span = _find_span(request.headers.get("Range"), content.size)
        if span is None:
            headers = {"Content-Range": f"bytes */{content.size}"}
            return web.Response(status=HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers=headers)
        start, end = span
        partial = end - start != content.size
        response = web.StreamResponse(
            status=HTTPStatus.PARTIAL_CONTENT if partial else HTTPStatus.OK,
            headers={"Accept-Ranges": "bytes", "Cache-Control": "no-store"},
        )
        response.content_type = "application/octet-stream"
        response.content_length = end - start
        if partial:
            response.headers["Content-Range"] = f"bytes {start}-{end - 1}/{content.size}"
        started = time.monotonic()
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        for offset in range(start, end, CHUNK_BYTES):
            size = min(CHUNK_BYTES, end - offset)
            await response.write(await asyncio.to_thread(_read, content, offset, size))
        await response.write_eof()
        if end == content.size:
            self._report_sent(found, end - start, time.monotonic() - started)
        return response

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


def _read(content: Content, offset: int, size_bytes: int) -> bytearray:
    """In a thread: the disk may be slow."""
    chunk = bytearray(size_bytes)
    content.read_into([memoryview(chunk)], offset)
    return chunk


def _find_span(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last that are asked for; None where a range can not be satisfied.

    What is no single range from a first byte on is answered with the whole file, as RFC 9110 §14.2 allows.
    """
    found = _RANGE.fullmatch(header) if header is not None else None
    if found is None:
        return 0, size
    start = int(found.group(1))
    end = min(int(found.group(2)) + 1, size) if found.group(2) else size
    if found.group(2) and int(found.group(2)) < start:
        return 0, size  # no valid range
    return (start, end) if start < size else None
