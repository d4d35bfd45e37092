"""Smart plugs as small servers: they speak the devices' own protocols, and misbehave on demand.

The digest of the newer Shelly devices is checked here by RFC 7616's own formula, not by the library that the
product uses.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from fleet.api.connections import Connections

Fault = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Plug(ABC):
    """What all of them are: outputs, a password, and what they were asked.

    Attributes:
        outputs: Number as the device counts → on.
        fault: Answers instead of the device.
        stuck: It says yes and does nothing.
        asked: Paths with their query, in order.
    """

    outputs: dict[int, bool]
    password: str | None = None
    user: str = "admin"
    fault: Fault | None = None
    stuck: bool = False
    asked: list[str] = field(default_factory=list)
    switched: list[tuple[int, bool]] = field(default_factory=list)

    def switch(self, number: int, *, is_on: bool) -> None:
        self.switched.append((number, is_on))
        if not self.stuck:
            self.outputs[number] = is_on

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        if self.fault is not None:
            return await self.fault(request)
        return self.answer(request)

    @abstractmethod
    def answer(self, request: web.Request) -> web.StreamResponse:
        """What a sound device says to this request, and does."""


class Tasmota(Plug):
    def answer(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        if self.password is not None and (query.get("user"), query.get("password")) != (
            self.user,
            self.password,
        ):
            warning = {"WARNING": "Need user=<username>&password=<password>"}
            return web.json_response(warning, status=401)
        match = re.fullmatch(r"Power(\d+)(?: (On|Off))?", query.get("cmnd", ""))
        if request.path != "/cm" or match is None or int(match[1]) not in self.outputs:
            return web.json_response({"Command": "Unknown"})
        number = int(match[1])
        if match[2]:
            self.switch(number, is_on=match[2] == "On")
        name = "POWER" if len(self.outputs) == 1 else f"POWER{number}"
        return web.json_response({name: "ON" if self.outputs[number] else "OFF"})


class ShellyGen1(Plug):
    def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/shelly":
            return web.json_response({"type": "SHSW-25", "mac": "0", "auth": self.password is not None})
        given = request.headers.get("Authorization", "")
        wanted = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        if self.password is not None and given != f"Basic {wanted}":
            return web.Response(status=401, text="401 Unauthorized")
        match = re.fullmatch(r"/relay/(\d+)", request.path)
        if match is None or int(match[1]) not in self.outputs:
            return web.Response(status=404, text="Not Found")
        number = int(match[1])
        if turn := request.query.get("turn"):
            self.switch(number, is_on=turn == "on")
        return web.json_response({"ison": self.outputs[number], "has_timer": False})


class ShellyGen2(Plug):
    nonce = "65f3a2"

    def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/shelly":
            told = {"id": "shellyplus2pm-0", "gen": 2, "app": "Plus2PM", "auth_en": self.password is not None}
            return web.json_response(told)
        if self.password is not None and not self._is_proved(request):
            challenge = f'Digest qop="auth", realm="shelly", nonce="{self.nonce}", algorithm=SHA-256'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        number = int(request.query.get("id", "-1"))
        if number not in self.outputs:
            return web.json_response(
                {"code": -105, "message": f"Argument 'id', value {number} not found!"}, status=500
            )
        if request.path == "/rpc/Switch.Set":
            was = self.outputs[number]
            self.switch(number, is_on=request.query["on"] == "true")
            return web.json_response({"was_on": was})
        if request.path == "/rpc/Switch.GetStatus":
            return web.json_response({"id": number, "output": self.outputs[number], "apower": 3.1})
        return web.json_response({"code": 404, "message": "No handler"}, status=404)

    def _is_proved(self, request: web.Request) -> bool:
        """RFC 7616 §3.4.1, with qop=auth."""
        header = request.headers.get("Authorization", "")
        if not header.startswith("Digest "):
            return False
        words = {
            key: quoted or bare for key, quoted, bare in re.findall(r'(\w+)=(?:"([^"]*)"|([^,\s]+))', header)
        }

        def digest(text: str) -> str:
            return hashlib.sha256(text.encode()).hexdigest()

        first = digest(f"admin:shelly:{self.password}")
        second = digest(f"{request.method}:{words.get('uri')}")
        middle = ":".join(words.get(name, "") for name in ("nonce", "nc", "cnonce", "qop"))
        return words.get("uri") == request.path_qs and secrets.compare_digest(
            words.get("response", ""), digest(f"{first}:{middle}:{second}")
        )


@asynccontextmanager
async def serving(plug: Plug) -> AsyncIterator[str]:
    """The device's address, like `http://127.0.0.1:40123`."""
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", plug.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    connections = Connections(runner)
    try:
        yield f"http://127.0.0.1:{await connections.listen('127.0.0.1', 0)}"
    finally:
        await connections.end()


async def hang(_request: web.Request) -> web.StreamResponse:
    """Takes the request and says nothing."""
    await asyncio.sleep(60)
    raise AssertionError("the caller waited for a minute")


async def trickle(request: web.Request) -> web.StreamResponse:
    """Begins an answer and never ends it."""
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(600):
        await response.write(b" ")
        await asyncio.sleep(0.05)
    return response


async def flood(request: web.Request) -> web.StreamResponse:
    """An answer without an end."""
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(2000):
        await response.write(b"x" * 65536)
    return response


def say(status: int, body: bytes, **headers: str) -> Fault:
    """One fixed answer."""

    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers=headers)

    return answer
