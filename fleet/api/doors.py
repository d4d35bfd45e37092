"""The server's two doors: TLS for nodes and people elsewhere, a unix socket for this machine's command
line.

On the socket there are the routes of people only, and whoever can open it (its owner, 0600) is an admin.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Final

from aiohttp import web

from fleet.api.connections import Connections
from fleet.api.control import ControlRoutes
from fleet.api.guard import Limits
from fleet.api.lane import Lane
from fleet.api.silence import Silence
from fleet.api.table import GUARD, REPORTS, make_app
from fleet.controller import Controller
from fleet.errors import FleetError

SHUTDOWN_GRACE_S: Final = 2.0
TLS_READ_BYTES: Final = 4 * 1024
"""Of every connection's buffer for what comes encrypted: more than a report has. More comes in pieces."""


class PortTakenError(FleetError):
    """The control port cannot be had."""


@contextlib.asynccontextmanager
async def serve_control(
    controller: Controller, host: str, port: int, tls: ssl.SSLContext, limits: Limits | None = None
) -> AsyncIterator[int]:
    """Listen while the block runs; gives the port (for `port=0`: the one that was free).

    Raises:
        PortTakenError: The address cannot be bound.
    """
    # asyncio gives every TLS connection 256 KiB and writes zeros into all of it: 1.3 GB for 5,000 nodes. It
    # reads as much at once at most; a longer message comes in several pieces. There is no setting for one
    # server, so what this process asks elsewhere (etcd, Kubernetes) comes in such pieces, too.
    SSLProtocol.max_size = TLS_READ_BYTES
    # No access log: one line for each status of each node tells nobody anything.
    silence = Silence()
    app = make_app(controller, is_socket=False, limits=limits, outermost=[silence.middleware])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_GRACE_S)
    await runner.setup()
    connections = Connections(runner)
    try:
        assert runner.server is not None  # set up above
        lane = Lane(
            REPORTS,
            partial(REPORTS.handler, ControlRoutes(controller)),
            app[GUARD],
            outermost=silence.after_report,
            otherwise=runner.server.request_handler,
        )
        runner.server.request_handler = lane.handle
        try:
            bound = await connections.listen(host, port, tls)
        except OSError as error:
            raise PortTakenError(
                f"the control API cannot listen on {host} port {port}: {error.strerror}",
                f"'ss -tlnp sport = :{port}' shows who has it; is another 'bramble serve' running?",
            ) from error
        watch = asyncio.create_task(silence.run(runner.server), name="silent connections")
        try:
            yield bound
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
    finally:
        await connections.end()


@contextlib.asynccontextmanager
async def serve_admin(controller: Controller, path: Path) -> AsyncIterator[None]:
    """Listen on the unix socket `path` while the block runs; it is gone afterwards."""
    runner = web.AppRunner(make_app(controller, is_socket=True), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    connections = Connections(runner)
    try:
        await connections.listen_on(_private_socket(path))
        yield
    finally:
        await connections.end()
        _remove(path)


def _private_socket(path: Path) -> socket.socket:
    """A bound unix socket, 0600 from its first moment.

    An old one is of a server that was killed: only one server at a time has the store open.
    """
    _remove(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise FleetError(
            f"the admin socket {path} cannot be made: {error.strerror or error}",
            "Is the state directory yours, and its path shorter than 100 characters?",
        ) from error
    finally:
        os.umask(previous)
    return listener


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
