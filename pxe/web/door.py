"""Who may come in: bounds on connections, and on how long one may say nothing.

aiohttp bounds the size of a request (lines, fields, their number) but not the time that it takes. A client
that sends its request byte by byte, or none at all, would hold its connection for as long as it likes.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from pxe.net.sparse_log import SparseLog

log = logging.getLogger(__name__)

MAXIMUM_CONNECTIONS: Final = 2048
MAXIMUM_PER_CLIENT: Final = 128
FIRST_REQUEST_S: Final = 15.0
NEXT_REQUEST_S: Final = 75.0
LOOK_EVERY_S: Final = 1.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Door:
    """Lets connections in to a web server, and shows those out that hold them for nothing.

    Args:
        maximum: connections at one time.
        per_client: of one address.
        first_request_s: how long a new connection may take to send its first request whole.
        next_request_s: the same for one that has been served before.

    Attributes:
        refused: connections that were not let in.
        shown_out: connections that were closed for their silence.
    """

    def __init__(
        self,
        *,
        maximum: int = MAXIMUM_CONNECTIONS,
        per_client: int = MAXIMUM_PER_CLIENT,
        first_request_s: float = FIRST_REQUEST_S,
        next_request_s: float = NEXT_REQUEST_S,
    ) -> None:
        self._maximum = maximum
        self._per_client = per_client
        self._first_request_s = first_request_s
        self._next_request_s = next_request_s
        self._silent_until: dict[asyncio.BaseProtocol, float] = {}
        self._log = SparseLog(log)
        self.refused = 0
        self.shown_out = 0

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """While a request is answered its connection may be silent; afterwards it has to say something."""
        self._silent_until[request.protocol] = math.inf
        try:
            response = await handler(request)
            try:
                await response.prepare(request)  # sends a file, which may take minutes
            except ConnectionError:
                request.protocol.force_close()  # the client has gone or stands still: daily life, no error
            return response
        finally:
            now = asyncio.get_running_loop().time()
            self._silent_until[request.protocol] = now + self._next_request_s

    async def run(self, web_server: web.Server, listening: asyncio.Server) -> None:
        """Look after the connections until cancelled. Also accepts: `listening` was made with
        `protocol`."""
        loop = asyncio.get_running_loop()
        try:
            await listening.start_serving()
            while True:
                await asyncio.sleep(LOOK_EVERY_S)
                now = loop.time()
                connections = web_server.connections
                self._silent_until = {each: self._silent_until.get(each, math.inf) for each in connections}
                for connection in connections:
                    if self._silent_until[connection] < now and connection.transport is not None:
                        self.shown_out += 1
                        connection.transport.abort()
        finally:
            listening.close()  # not `wait_closed`: since Python 3.12 that waits for every client

    def protocol(self, server: web.Server) -> asyncio.Protocol:
        """What asyncio makes for each connection that it accepts."""
        return _Threshold(self, server)

    def admits(self, server: web.Server, transport: asyncio.Transport) -> bool:
        """Whether one more connection may come in from there."""
        peers = Counter(
            connection.transport.get_extra_info("peername", ("",))[0]
            for connection in server.connections
            if connection.transport is not None
        )
        peer = transport.get_extra_info("peername", ("",))[0]
        if peers.total() < self._maximum and peers[peer] < self._per_client:
            return True
        self.refused += 1
        self._log.write(logging.WARNING, "HTTP connection refused: there are too many", {"peer": peer})
        return False

    def opened(self, connection: asyncio.BaseProtocol) -> None:
        """A connection is in; its first request is awaited."""
        self._silent_until[connection] = asyncio.get_running_loop().time() + self._first_request_s


class _Threshold(asyncio.Protocol):
    """The moment between accepting a connection and handing it to the web server."""

    def __init__(self, door: Door, server: web.Server) -> None:
        self._door = door
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # TCP
        if not self._door.admits(self._server, transport):
            transport.abort()
            return
        connection = self._server()
        transport.set_protocol(connection)
        connection.connection_made(transport)
        self._door.opened(connection)
