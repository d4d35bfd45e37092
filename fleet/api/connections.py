"""The connections of one web server, none of which outlives it.

TLS ends with a word to the peer (close_notify), and asyncio waits half a minute for the answer. A peer that
keeps its connection for later gives none, nor does one that is gone. aiohttp closes its side and forgets it:
the socket would stay open after the server's end, and for ever where the loop ends, too.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import weakref
from typing import Final

from aiohttp import web

BACKLOG: Final = 128


class Connections:
    """Listens for a runner that is set up, and ends it with every connection.

    Args:
        runner: Of the application; `end` cleans it up.
    """

    def __init__(self, runner: web.AppRunner) -> None:
        assert runner.server is not None  # it is set up
        self._runner = runner
        self._server = runner.server
        self._listening: asyncio.Server | None = None
        self._carriers: weakref.WeakSet[asyncio.Transport] = weakref.WeakSet()
        self._ended = False

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Accept connections to an address. Returns the port: for `port=0` the one that was free.

        Raises:
            OSError: The address cannot be bound.
        """
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(self._accept, host, port, ssl=tls, backlog=BACKLOG)
        return int(self._listening.sockets[0].getsockname()[1])

    async def listen_on(self, sock: socket.socket) -> None:
        """Accept connections to a bound socket, which is closed with the rest."""
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(self._accept, sock=sock, backlog=BACKLOG)

    async def end(self) -> None:
        """Accept no more, wait for requests under way as the runner grants it, and close what is open."""
        if self._listening is not None:
            self._listening.close()
        try:
            await self._runner.cleanup()
        finally:
            self._ended = True
            for carrier in list(self._carriers):
                carrier.abort()
        await asyncio.sleep(0)  # in which the loop closes the sockets

    def _accept(self) -> asyncio.Protocol:
        return _Arrival(self)

    def opened(self, transport: asyncio.Transport) -> None:
        """A connection came, and is the web server's from now on."""
        if self._ended:  # its handshake took longer than the server lived
            transport.abort()
            return
        self._carriers.add(carrier_of(transport))
        handler = self._server()
        transport.set_protocol(handler)
        handler.connection_made(transport)


class _Arrival(asyncio.Protocol):
    """The moment between accepting a connection and handing it to the web server."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # of a stream
        self._connections.opened(transport)


def carrier_of(transport: asyncio.Transport) -> asyncio.Transport:
    """The transport that has the socket: below TLS, or the same one.

    TLS's own transport forgets it when it is closed for the second time, as aiohttp does, and then cannot be
    aborted any more. asyncio gives no other way to it (`Server.abort_clients` comes with Python 3.13).
    """
    below = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
    return below if isinstance(below, asyncio.Transport) else transport
