"""The control API of `agent.protocol`, for installers and agents, over TLS.

Decodes, calls the controller, encodes. A caller is known by its connection's client certificate (checked by
TLS against the control CA) or by its bearer token; both are only handed on here.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from typing import Any, Final, TypeVar

from aiohttp import web

from agent.orders import DESIRED, EEPROM
from agent.protocol import (
    MAX_BODY_BYTES,
    Hello,
    InstallComplete,
    InstallProgress,
    Proof,
    Status,
    decode,
    encode,
)
from fleet.api.agents import add_node_routes
from fleet.api.answers import answer_errors, json_answer
from fleet.api.limits import RateLimit
from fleet.api.peer import peer_certificate
from fleet.controller import Controller
from fleet.errors import FleetError
from fleet.refusal import RefusedError

ANONYMOUS_BURST: Final = 20
ANONYMOUS_PER_SECOND: Final = 2.0
"""Per source address, for hello and prove together. An installer that waits for approval needs 0.4."""
SERIAL_BURST: Final = 20
SERIAL_PER_SECOND: Final = 1.0
"""Hellos of one claimed serial, from whatever addresses."""
MAX_ANONYMOUS_BODY_BYTES: Final = 16 * 1024
"""Of hello and prove. The largest are a hello with sixteen MACs and a proof with a request, 3 KiB each."""
SHUTDOWN_GRACE_S: Final = 2.0

Message = TypeVar("Message")


class ControlApi:
    """The routes of the protocol over one controller."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._anonymous = RateLimit(burst=ANONYMOUS_BURST, per_second=ANONYMOUS_PER_SECOND)
        self._serials = RateLimit(burst=SERIAL_BURST, per_second=SERIAL_PER_SECOND)

    def app(self) -> web.Application:
        app = web.Application(middlewares=[answer_errors], client_max_size=MAX_BODY_BYTES)
        app.router.add_post("/v1/hello", self._hello)
        app.router.add_post("/v1/prove", self._prove)
        app.router.add_get("/v1/install/plan", self._plan)
        app.router.add_post("/v1/install/progress", self._progress)
        app.router.add_post("/v1/install/complete", self._complete)
        app.router.add_get("/v1/node/desired", self._desired)
        app.router.add_post("/v1/node/status", self._status)
        app.router.add_get("/v1/node/eeprom", self._eeprom)
        app.router.add_post("/v1/node/join-material", self._join_material)
        add_node_routes(app, self._controller)
        return app

    async def _hello(self, request: web.Request) -> web.Response:
        self._limit(request)
        hello = await _read(request, Hello, MAX_ANONYMOUS_BODY_BYTES)
        # The low half in one spelling: another one is the same board, and has no share of its own.
        if not self._serials.allows(hello.hardware.serial.strip().lower()[-8:], time.monotonic()):
            raise RefusedError(429, "too-many", "too many requests for this serial", "Ask again in seconds.")
        return _answer(self._controller.admission.hello(hello))

    async def _prove(self, request: web.Request) -> web.Response:
        self._limit(request)
        proof = await _read(request, Proof, MAX_ANONYMOUS_BODY_BYTES)
        return _answer(self._controller.admission.prove(proof, peer_certificate(request)))

    async def _plan(self, request: web.Request) -> web.Response:
        return _answer(self._controller.installs.plan(_bearer(request)))

    async def _progress(self, request: web.Request) -> web.Response:
        self._controller.installs.progress(_bearer(request), await _read(request, InstallProgress))
        return json_answer(b"{}")

    async def _complete(self, request: web.Request) -> web.Response:
        self._controller.installs.complete(_bearer(request), await _read(request, InstallComplete))
        return json_answer(b"{}")

    async def _desired(self, request: web.Request) -> web.Response:
        node, desired = self._controller.joins.desired_of(peer_certificate(request))
        return _answer(self._controller.pki.sign_order(DESIRED, node, desired))

    async def _eeprom(self, request: web.Request) -> web.Response:
        node = self._controller.joins.caller(peer_certificate(request))
        order = self._controller.eeprom.order_for(node)
        return _answer(self._controller.pki.sign_order(EEPROM, node.name, order))

    async def _status(self, request: web.Request) -> web.Response:
        # A node may have been given a newer agent by a server that was set back since.
        status = decode(Status, await request.read(), newer_peer=True)
        return _answer(self._controller.joins.status(peer_certificate(request), status))

    async def _join_material(self, request: web.Request) -> web.Response:
        certificate = peer_certificate(request)
        await self._controller.preparation.prepare(certificate)
        return _answer(self._controller.joins.join_material(certificate))

    def _limit(self, request: web.Request) -> None:
        if not self._anonymous.allows(request.remote or "", time.monotonic()):
            raise RefusedError(
                429, "too-many", "too many requests from this address", "Ask again in seconds."
            )


def _bearer(request: web.Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


async def _read(request: web.Request, kind: type[Message], limit: int = MAX_BODY_BYTES) -> Message:
    """The request's body; one that is too long is refused before it is read, where it says how long it is."""
    if (request.content_length or 0) > limit:
        raise web.HTTPRequestEntityTooLarge(limit, request.content_length or 0)
    body = await request.read()
    if len(body) > limit:
        raise web.HTTPRequestEntityTooLarge(limit, len(body))
    return decode(kind, body)


def _answer(message: Any) -> web.Response:
    return json_answer(encode(message))


class PortTakenError(FleetError):
    """The control port cannot be had."""


@contextlib.asynccontextmanager
async def serve_control(
    controller: Controller, host: str, port: int, tls: ssl.SSLContext
) -> AsyncIterator[int]:
    """Listen while the block runs; gives the port (for `port=0`: the one that was free).

    Raises:
        PortTakenError: The address cannot be bound.
    """
    # No access log: one line for each status of each node tells nobody anything.
    runner = web.AppRunner(ControlApi(controller).app(), access_log=None, shutdown_timeout=SHUTDOWN_GRACE_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, ssl_context=tls)
        try:
            await site.start()
        except OSError as error:
            raise PortTakenError(
                f"the control API cannot listen on {host} port {port}: {error.strerror}",
                f"'ss -tlnp sport = :{port}' shows who has it; is another 'bramble serve' running?",
            ) from error
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
