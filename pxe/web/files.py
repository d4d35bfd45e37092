"""Answers that carry a file: by `sendfile` where the kernel can, in pieces that each have a deadline."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from pxe.boot.content import Content, FileContent
from pxe.web.ranges import Selection, select_part

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
        on_sent: hears of every piece that a client got: offset behind it, and whether the answer is complete.
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
        tag = etag or entity_tag(content)
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
        try:
            writer = await super().prepare(request)
            if request.method == "GET" and self._selection.count:
                await self._send(request, self._selection)
            await self.write_eof()
            return writer
        finally:
            self._content_to_send.close()

    async def _send(self, request: web.BaseRequest, selection: Selection) -> None:
        position, end = selection.first, selection.first + selection.count
        is_file = isinstance(self._content_to_send, FileContent)
        while position < end:
            count = min(PIECE_BYTES if is_file else COPIED_BYTES, end - position)
            try:
                async with asyncio.timeout(PIECE_TIMEOUT_S):
                    if isinstance(self._content_to_send, FileContent):
                        file = io.FileIO(self._content_to_send.fileno(), closefd=False)
                        await self._hand_over(request, file, position, count)
                    else:
                        await self.write(await asyncio.to_thread(self._read, position, count))
            except (TimeoutError, OSError) as error:
                # The length has been told: what is missing shows only when the connection ends without it.
                if request.transport is not None:
                    request.transport.abort()
                raise ConnectionResetError("the client or the file has gone") from error
            self._on_sent(position, position + count)
            position += count

    def _read(self, position: int, count: int) -> bytearray:
        """In a thread: the disk may be slow."""
        buffer = bytearray(count)
        self._content_to_send.read_into([memoryview(buffer)], position)
        return buffer

    async def _hand_over(self, request: web.BaseRequest, file: io.FileIO, position: int, count: int) -> None:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client has gone")
        sent = await asyncio.get_running_loop().sendfile(transport, file, position, count, fallback=False)
        if sent != count:
            raise OSError("the file became shorter while it was served")


def entity_tag(content: Content) -> str | None:
    """A strong tag for a content: the same bytes on another day have the same one only where it is hashed."""
    if content.identity is not None:
        return f'"{hashlib.sha256(repr(content.identity).encode()).hexdigest()[:32]}"'
    if content.size > HASHED_BYTES:
        return None
    data = bytearray(content.size)
    content.read_into([memoryview(data)] if data else [], 0)
    return f'"{hashlib.sha256(data).hexdigest()[:32]}"'
