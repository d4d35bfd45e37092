"""No connection outlives the server that it was made to, whatever its peer leaves undone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path

import pytest
from aiohttp import web
from fakes_fleet import cluster_spec
from fakes_fleet_server import running

from fleet.api.connections import Connections

pytestmark = pytest.mark.integration

WAIT_S = 20.0
"""Less than asyncio waits for a peer to answer the end of TLS: half a minute."""
KEPT = b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class Peer:
    """A TLS client that answers no end of TLS and closes nothing; `raw` is the connection below."""

    def __init__(self, port: int) -> None:
        plain = socket.create_connection(("127.0.0.1", port), WAIT_S)
        self.raw = plain.dup()
        self.raw.settimeout(WAIT_S)
        self.tls = ssl._create_unverified_context().wrap_socket(plain)

    def ask(self, request: bytes) -> bytes:
        self.tls.sendall(request)
        return self.tls.recv(4096)

    def is_closed(self) -> bool:
        """Whether the server closes the connection itself, and not only TLS."""
        try:
            while self.raw.recv(4096):
                pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        self.raw.close()
        self.tls.close()


@pytest.mark.parametrize("request_bytes", [KEPT, LAST], ids=["kept for later", "the last request"])
def test_the_control_api_closes_what_its_peers_keep_open(tmp_path: Path, request_bytes: bytes) -> None:
    with contextlib.ExitStack() as stack:
        with running(tmp_path, cluster_spec()) as server:
            peer = stack.enter_context(contextlib.closing(Peer(server.port)))
            assert b" 404 " in peer.ask(request_bytes)
        assert peer.is_closed()


@pytest.mark.asyncio
async def test_an_answer_under_way_arrives_whole_and_then_the_connection_ends() -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def answer(_request: web.Request) -> web.Response:
        asked.set()
        await go_on.wait()
        return web.Response(body=b"x" * 100_000)

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, shutdown_timeout=60.0)
    await runner.setup()
    connections = Connections(runner)
    port = await connections.listen("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(60):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asked.wait()
        ending = asyncio.create_task(connections.end())
        await asyncio.sleep(0)
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection("127.0.0.1", port)
        assert not ending.done()
        go_on.set()
        received = await reader.read(-1)
        await ending
    assert received.endswith(b"x" * 100_000)
    writer.close()
    await writer.wait_closed()
