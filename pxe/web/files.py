"""Answers that carry a file: by `sendfile` where the kernel can, in pieces that each have a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from pxe.boot.content import Content, FileContent, open_content
from pxe.boot.routes import Location
from pxe.web.ranges import Selection, select_part
from pxe.web.sending import FileSender

log = logging.getLogger(__name__)

PIECE_BYTES: Final = 8 * 1024 * 1024
COPIED_BYTES: Final = 256 * 1024
PIECE_TIMEOUT_S: Final = 120.0
"""For one piece: whoever takes less than 70 kB a second has left."""
HASHED_BYTES: Final = 1024 * 1024


class FileResponse(web.StreamResponse):
    """A file or a part of it, as the request's conditions and range ask.

    Args:
        request: GET or HEAD.
        content: what is sent; closed when it has been.
        etag: in quotes; None: made from the content.
        headers: more of them.
        on_sent: hears of every piece that a client got: the offsets of its first byte and behind its last.

    Raises:
        web.HTTPServiceUnavailable: the content can not be read, as while its file is replaced. It is closed.
    """

    def __init__(
        self,
        request: web.Request,
        content: Content,
        *,
        etag: str | None = None,
        headers: Mapping[str, str] | None = None,
        on_sent: Callable[[int, int], None] = lambda _first, _end: None,
    ) -> None:
        try:
            tag = etag or entity_tag(content)
        except OSError as error:
            content.close()
            log.warning("a file can not be read", extra={"error": str(error)})
            raise _come_again() from error
        self._selection = select_part(request.headers, tag, content.size)
        super().__init__(status=self._selection.status, headers=headers)
        self._content_to_send = content
        self._on_sent = on_sent
        self.headers["Accept-Ranges"] = "bytes"
        if tag is not None:
            self.headers["ETag"] = tag
        content_range = self._selection.content_range(content.size)
        if content_range is not None:
            self.headers["Content-Range"] = content_range
        if self._selection.status is not HTTPStatus.NOT_MODIFIED:
            self.content_length = self._selection.count
            self.content_type = "application/octet-stream"

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        if self.prepared:
            return await super().prepare(request)
        try:
            writer = await super().prepare(request)
            if writer is not None and request.method == "GET" and self._selection.count:
                await self._send(request, writer, self._selection)
            await self.write_eof()
            return writer
        finally:
            self._content_to_send.close()

    async def _send(
        self, request: web.BaseRequest, writer: AbstractStreamWriter, selection: Selection
    ) -> None:
        transport, content = request.transport, self._content_to_send
        if transport is None:
            raise ConnectionResetError("the client has gone")
        try:
            if isinstance(content, FileContent):
                with contextlib.closing(FileSender(transport, writer)) as sender:
                    for position, count in _pieces(selection, PIECE_BYTES):
                        async with asyncio.timeout(PIECE_TIMEOUT_S):
                            await sender.send(content.fileno(), position, count)
                        self._on_sent(position, position + count)
                return
            for position, count in _pieces(selection, COPIED_BYTES):
                async with asyncio.timeout(PIECE_TIMEOUT_S):
                    await self.write(await asyncio.to_thread(self._read, position, count))
                self._on_sent(position, position + count)
        except (TimeoutError, OSError) as error:
            # The length has been told: what is missing shows only when the connection ends without it.
            transport.abort()
            raise ConnectionResetError("the client or the file has gone") from error

    def _read(self, position: int, count: int) -> bytearray:
        """In a thread: the disk may be slow."""
        buffer = bytearray(count)
        self._content_to_send.read_into([memoryview(buffer)], position)
        return buffer


def open_file(location: Location) -> Content | None:
    """Open what a client asks for; None where nothing is there.

    Raises:
        web.HTTPServiceUnavailable: no descriptor is left: the client comes again.
    """
    try:
        return open_content(location)
    except OSError as error:
        raise _come_again() from error


def _come_again() -> web.HTTPServiceUnavailable:
    return web.HTTPServiceUnavailable(text="busy\n", headers={"Retry-After": "1"})


def _pieces(selection: Selection, most: int) -> Iterator[tuple[int, int]]:
    """A selection as (offset, length), each at most so long."""
    end = selection.first + selection.count
    for position in range(selection.first, end, most):
        yield position, min(most, end - position)


def entity_tag(content: Content) -> str | None:
    """A strong tag for a content: the same bytes on another day have the same one only where it is hashed.

    Raises:
        OSError: it had to be read, and can not be.
    """
    if content.identity is not None:
        return f'"{hashlib.sha256(repr(content.identity).encode()).hexdigest()[:32]}"'
    if content.size > HASHED_BYTES:
        return None
    data = bytearray(content.size)
    content.read_into([memoryview(data)] if data else [], 0)
    return f'"{hashlib.sha256(data).hexdigest()[:32]}"'
