"""Connections that say nothing are closed: aiohttp bounds what a request holds, not how long it takes.

Before its first request, and between two, a connection is looked at every second. TLS itself ends
handshakes that take a minute.

Nodes that say nothing until their next report keep their connections while there are few of them; the
others are told with each answer to connect anew.
"""

from __future__ import annotations

import asyncio
import math
from http import HTTPStatus
from typing import Final

from aiohttp import web

from fleet.api.answers import Handler

SILENCE_S: Final = 75.0
"""Longer than the slowest interval of reports; an agent that is late connects anew."""
FIRST_REQUEST_S: Final = 15.0
LOOK_EVERY_S: Final = 1.0
MAX_CONNECTIONS: Final = 20_000
"""Twice the nodes that one server is meant for; the newest beyond it are closed."""
KEPT_CONNECTIONS: Final = 500
"""Of nodes, between reports. Each costs 35 KB (OpenSSL's 24, the rest asyncio's and aiohttp's): 175 MB
of 5,000 nodes, beside the 150 that the server takes with so many on record. To connect anew costs 1.2 ms of a
core, beside 1 ms for the report; `fleet.health.pace` bounds how often that is."""


class Silence:
    """Knows since when each connection has nothing to say, and ends those that keep silent."""

    def __init__(self) -> None:
        self._until: dict[object, float] = {}
        self._kept: set[object] = set()
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

    async def after_report(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """As `middleware`, around a report: its connection is kept, or the answer closes it."""
        response = await self.middleware(request, handler)
        if response.status == HTTPStatus.OK and request.protocol not in self._kept:
            if len(self._kept) < KEPT_CONNECTIONS:
                self._kept.add(request.protocol)
            else:
                response.force_close()
        return response

    async def run(self, server: web.Server) -> None:
        """Look after the connections until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            now = loop.time()
            connections = server.connections
            self._until = {one: self._until.get(one, now + FIRST_REQUEST_S) for one in connections}
            self._kept &= self._until.keys()
            for number, connection in enumerate(connections):
                if (
                    self._until[connection] < now or number >= MAX_CONNECTIONS
                ) and connection.transport is not None:
                    self.closed += 1
                    connection.transport.abort()
