"""A fleet's control and admin APIs on loopback, in a thread, and a caller of the standard library."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from fakes_fleet import AgentKey, Clock, Fleet, open_fleet
from server_thread import serving

from agent.wire import encode
from fleet.api.doors import serve_admin, serve_control
from fleet.api.guard import Limits
from fleet.spec.model import ClusterSpec
from fleet.trust.tokens import TokenRole

TIMEOUT_S = 60.0


@dataclass
class Answer:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def error(self) -> str:
        text: str = json.loads(self.body)["error"]
        return text


class Caller:
    """HTTPS from the standard library.

    Checks the server's certificate against a pin before it sends a byte.
    """

    def __init__(self, port: int, pin: str, tls: ssl.SSLContext | None = None) -> None:
        self._port = port
        self._pin = pin
        self._tls = tls or ssl._create_unverified_context()
        self.token = ""

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        with self._connected() as connection:
            headers = dict(headers or {})
            if self.token:
                headers["Authorization"] = f"Bearer {self.token}"
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Answer(response.status, response.read(), dict(response.getheaders()))

    def begin(self, path: str, body: bytes) -> Answer:
        """POST a chunked body of which more is to come, and does not: what the server says to that."""
        with self._connected() as connection:
            connection.putrequest("POST", path)
            connection.putheader("Transfer-Encoding", "chunked")
            connection.endheaders()
            connection.send(f"{len(body):x}\r\n".encode() + body + b"\r\n")
            response = connection.getresponse()
            return Answer(response.status, response.read(), dict(response.getheaders()))

    @contextmanager
    def _connected(self) -> Iterator[http.client.HTTPSConnection]:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self._port, context=self._tls, timeout=TIMEOUT_S
        )
        try:
            connection.connect()
            assert isinstance(connection.sock, ssl.SSLSocket)
            shown = connection.sock.getpeercert(binary_form=True)
            assert shown is not None
            assert hashlib.sha256(shown).hexdigest() == self._pin
            yield connection
        finally:
            connection.close()

    def post(self, path: str, message: Any = None) -> Answer:
        return self.ask("POST", path, b"" if message is None else encode(message))


@dataclass
class Running:
    fleet: Fleet
    port: int
    pin: str
    state: Path
    loop: asyncio.AbstractEventLoop

    def caller(self, tls: ssl.SSLContext | None = None) -> Caller:
        return Caller(self.port, self.pin, tls)

    def node_context(self, certificate_pem: str, key: AgentKey) -> ssl.SSLContext:
        """TLS as the installed agent has it: trusts the control CA, checks the address, is strict."""
        context = ssl.create_default_context(cadata=self.fleet.pki.ca_pem)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        certificate, private = self.state / "node.crt", self.state / "node.key"
        certificate.write_text(certificate_pem)
        private.write_bytes(key.key_pem)
        context.load_cert_chain(certificate, private)
        return context

    def person(self, name: str, role: TokenRole) -> Caller:
        """Somebody elsewhere, with a token of that role."""
        caller = self.caller()
        _record, secret = self.in_loop(lambda: self.fleet.controller.tokens.create(name, role))
        caller.token = secret.reveal()
        return caller

    def in_loop(self, call: Any) -> Any:
        """Run `call` where the controller lives."""

        async def run() -> Any:
            return call()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(TIMEOUT_S)


def running(state: Path, spec: ClusterSpec, limits: Limits | None = None) -> AbstractContextManager[Running]:
    """A server on a free port of loopback, in a thread with its own loop; ended and joined afterwards."""

    async def serve(ready: Callable[[Running], None], stop: asyncio.Event) -> None:
        fleet = open_fleet(state, spec, Clock(time.time()))
        try:
            fleet.pki.ensure_server_certificate(
                [IPv4Address("127.0.0.1")], ["bramble.invalid"], fleet.clock()
            )
            async with AsyncExitStack() as stack:
                tls = fleet.pki.server_context()
                control = serve_control(fleet.controller, "127.0.0.1", 0, tls, limits)
                port = await stack.enter_async_context(control)
                await stack.enter_async_context(serve_admin(fleet.controller, state / "control.sock"))
                loop = asyncio.get_running_loop()
                ready(Running(fleet, port, fleet.pki.server_pin(), state, loop))
                await stop.wait()
        finally:
            fleet.store.close()

    return serving(serve, TIMEOUT_S)
