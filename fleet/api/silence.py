"""Connections that say nothing are closed: aiohttp bounds what a request holds, not how long it takes.

Before its first request, and between two, a connection is looked at every second. TLS itself ends
handshakes that take a minute.
"""

from __future__ import annotations

import asyncio
import math
from typing import Final

from aiohttp import web

from fleet.api.answers import Handler

SILENCE_S: Final = 75.0
"""Longer than the slowest interval of reports; an agent that is late connects anew."""
FIRST_REQUEST_S: Final = 15.0
LOOK_EVERY_S: Final = 1.0
MAX_CONNECTIONS: Final = 20_000
"""Twice the nodes that one server is meant for; the newest beyond it are closed."""


class Silence:
    """Knows since when each connection has nothing to say, and ends those that keep silent."""

    def __init__(self) -> None:
        self._until: dict[object, float] = {}
        self.closed = 0

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """While a request is answered, its connection may be silent."""
        loop = asyncio.get_running_loop()
        self._until[request.protocol] = math.inf
        try:
            return await handler(request)
        finally:
            self._until[request.protocol] = loop.time() + SILENCE_S

    async def run(self, server: web.Server) -> None:
        """Look after the connections until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            now = loop.time()
            connections = server.connections
            self._until = {one: self._until.get(one, now + FIRST_REQUEST_S) for one in connections}
            for number, connection in enumerate(connections):
                if (
                    self._until[connection] < now or number >= MAX_CONNECTIONS
                ) and connection.transport is not None:
                    self.closed += 1
                    connection.transport.abort()
