"""Who asks, and may it? In front of every route, and closed where nothing is said.

A request gets an id (its own `X-Request-Id`, where that is sound), a limit of time, and the caller that it
shows: nobody, an installer's token, a node's certificate, or a token of a person. On the unix socket the
caller is this machine's owner, an admin. Writes of admins are recorded, and answered once for each
idempotency key.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web

from fleet.api.answers import REQUEST_ID, Handler, json_answer
from fleet.api.limits import RateLimit
from fleet.api.peer import peer_certificate, socket_user
from fleet.api.routes import Access, Route
from fleet.controller import Controller
from fleet.refusal import RefusedError
from fleet.store.access import RepeatRecord

log = logging.getLogger(__name__)

CALLER: Final = web.RequestKey("caller", str)
TOKEN_ID: Final = web.RequestKey("token id", str)
"""Of the token that a person or a program showed; not there for who came by the socket."""
_AUDIT_DETAIL: Final = web.RequestKey("audit detail", dict[str, str])
MAX_PARAMETER: Final = 200
MAX_DETAIL: Final = 1000
"""Characters of one value in the audit."""
REQUEST_S: Final = 30.0
"""From a request's headers to its answer; a body that trickles in is cut off."""
REPEATS_KEPT_S: Final = 86400.0
UNDER_WAY_S: Final = 60.0
"""After so long a request without an outcome was cut off by the end of its server: done, half or not at
all. It is not run again."""
SOCKET_CALLER: Final = "socket"
"""One whose user the kernel does not tell any more."""
_SOUND_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SOUND_KEY: Final = re.compile(r"[A-Za-z0-9._-]{8,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Requests at once, and then per second, of one caller."""

    token_burst: int = 200
    token_per_second: float = 50.0
    node_burst: int = 60
    node_per_second: float = 5.0
    """A node that joins reports every three seconds, and fetches what it is told of."""
    refused_burst: int = 20
    refused_per_second: float = 1.0
    """Of one address, with a token that is none."""


@web.middleware
async def number_requests(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give each request its id, for its answer and for what the log says of it."""
    given = request.headers.get("X-Request-Id", "")
    request[REQUEST_ID] = given if _SOUND_ID.fullmatch(given) else secrets.token_hex(8)
    response = await handler(request)
    response.headers["X-Request-Id"] = request[REQUEST_ID]
    return response


@web.middleware
async def limit_time(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Nobody keeps a request open for ever."""
    try:
        async with asyncio.timeout(REQUEST_S):
            return await handler(request)
    except TimeoutError as error:
        raise RefusedError(
            408, "timeout", f"the request was not complete within {REQUEST_S:.0f} s"
        ) from error


class Guard:
    """Lets a request through to its route, or not."""

    def __init__(
        self,
        controller: Controller,
        routes: Mapping[tuple[str, str], Route],
        *,
        is_socket: bool,
        limits: Limits,
    ) -> None:
        self._controller = controller
        self._routes = routes
        self._is_socket = is_socket
        self._tokens = RateLimit(burst=limits.token_burst, per_second=limits.token_per_second)
        self._nodes = RateLimit(burst=limits.node_burst, per_second=limits.node_per_second)
        self._refused = RateLimit(burst=limits.refused_burst, per_second=limits.refused_per_second)

    @property
    def middleware(self) -> Any:
        """For the application's list."""

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.match_info.http_exception is not None:
                return await handler(request)  # there is no such route, which is no secret
            resource = request.match_info.route.resource
            route = self._routes.get((request.method, resource.canonical if resource else ""))
            if route is None:
                raise RefusedError(403, "closed", "nobody may use this")
            return await self.pass_through(request, route, handler)

        return guard

    async def pass_through(self, request: web.Request, route: Route, handler: Handler) -> web.StreamResponse:
        """Let a request through to its route.

        Raises:
            RefusedError: Its caller may not, asks too often, or asks for something that cannot be.
        """
        request[CALLER] = self._caller(request, route)
        if route.parameters or request.query_string:
            fault = route.fault_of(request.match_info, tuple(request.query.items()))
            if fault is not None:
                raise RefusedError(400, fault[0][:40], fault[1])
        request = _with_limit(request, route.body_limit)
        if route.access is Access.ADMIN and route.is_write:
            return await self._write(request, route, handler)
        return await handler(request)

    def _caller(self, request: web.Request, route: Route) -> str:
        """Who asks, for the record.

        Raises:
            RefusedError: It did not show what the route needs, or asks too often.
        """
        match route.access:
            case Access.ENROLMENT:
                return "anybody"
            case Access.INSTALLER:
                if not bearer(request):
                    raise RefusedError(
                        401, "token", "this needs an installer's token", "Say hello and prove first."
                    )
                return "installer"
            case Access.NODE:
                certificate = peer_certificate(request)
                if certificate is None:
                    raise RefusedError(
                        401,
                        "certificate",
                        "this needs the client certificate of an enrolled node",
                        "The node was installed again, removed or revoked: enrol again.",
                    )
                self._limit(self._nodes, certificate)
                return f"certificate {certificate}"
            case Access.VIEWER | Access.ADMIN:
                if self._is_socket:
                    return socket_user(request) or SOCKET_CALLER
                return self._person(request, route)

    def _person(self, request: web.Request, route: Route) -> str:
        token = self._controller.tokens.find(bearer(request))
        if token is None:
            self._limit(self._refused, request.remote or "")
            raise RefusedError(
                401,
                "token",
                "this needs a token of the control API that is in force",
                "'bramble token create NAME' makes one, on the server's machine.",
            )
        self._limit(self._tokens, token.id)
        if token.role not in (Access.ADMIN.value, route.access.value):
            raise RefusedError(
                403, "role", f"token {token.name} is a {token.role}'s, this needs an {route.access.value}'s"
            )
        request[TOKEN_ID] = token.id
        return f"token {token.name} ({token.id})"

    @staticmethod
    def _limit(limit: RateLimit, source: str) -> None:
        if not limit.allows(source, time.monotonic()):
            raise RefusedError(429, "too-many", "too many requests", "Ask again in seconds.")

    async def _write(self, request: web.Request, route: Route, handler: Handler) -> web.StreamResponse:
        key = request.headers.get("Idempotency-Key")
        if key is None:
            response = await handler(request)
            self._record(request, route, None)
            return response
        if not _SOUND_KEY.fullmatch(key):
            raise RefusedError(
                400, "idempotency-key", "an Idempotency-Key has 8 to 64 letters, digits, dots or dashes"
            )
        body = await request.read()
        asked = f"{request.method} {request.path_qs}\n".encode() + body
        scope = f"{request[CALLER]}/{key}"
        begun = RepeatRecord(
            key=scope,
            request_sha256=hashlib.sha256(asked).hexdigest(),
            at=time.time(),
            status=None,
            answer=None,
        )
        if (answer := self._begin(begun, route)) is not None:
            return answer
        try:
            response = await handler(request)
        except BaseException:
            # It did nothing: mended, the same key may carry it again.
            with contextlib.suppress(Exception), self._controller.store.write() as tx:
                tx.forget_repeat(scope)
            raise
        text = None
        if not route.holds_secret and isinstance(response, web.Response) and isinstance(response.body, bytes):
            text = response.body.decode()
        self._record(
            request,
            route,
            RepeatRecord(
                key=scope,
                request_sha256=begun.request_sha256,
                at=begun.at,
                status=response.status,
                answer=text,
            ),
        )
        return response

    def _begin(self, asked: RepeatRecord, route: Route) -> web.Response | None:
        """The answer of an earlier request with this key; None where this is the first."""
        with self._controller.store.write() as tx:
            known = tx.repeat(asked.key)
            if known is None:
                tx.forget_repeats(asked.at - REPEATS_KEPT_S)
                tx.put_repeat(asked)
                return None
        if known.request_sha256 != asked.request_sha256:
            raise RefusedError(
                422, "idempotency-key", "this Idempotency-Key was used for another request", "Take a new one."
            )
        if known.status is None and asked.at - known.at > UNDER_WAY_S:
            begun = datetime.fromtimestamp(known.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
            raise RefusedError(
                409,
                "outcome-unknown",
                f"this request began at {begun} UTC, and nobody knows how it ended",
                "See what it did, and if it has to be done again, take a new key.",
            )
        if known.status is None:
            raise RefusedError(409, "under-way", "the same request is under way", "Ask again in seconds.")
        if known.answer is None:
            raise RefusedError(
                409, "done", f"{route.name} was done with this key; its answer holds a secret and is not kept"
            )
        response = json_answer(known.answer.encode())
        response.set_status(known.status)
        response.headers["Idempotency-Replayed"] = "true"
        return response

    def _record(self, request: web.Request, route: Route, repeat: RepeatRecord | None) -> None:
        parameters = {**request.match_info, **request.query}
        detail = {name: text[:MAX_PARAMETER] for name, text in parameters.items()}
        with self._controller.store.write() as tx:
            if repeat is not None:
                tx.put_repeat(repeat)
            tx.add_audit(
                at=time.time(),
                who=request[CALLER],
                what=route.name,
                request_id=request[REQUEST_ID],
                detail={**detail, **request.get(_AUDIT_DETAIL, {})},
            )
        log.info(
            "admin request",
            extra={"who": request[CALLER], "what": route.name, "request": request[REQUEST_ID]},
        )


def _with_limit(request: web.Request, limit: int) -> web.Request:
    """Refuse a body that says to be too long; one that does not say is cut off where it becomes so.

    Raises:
        web.HTTPRequestEntityTooLarge: It says so.
    """
    length = request.content_length
    if (length or 0) > limit:
        raise web.HTTPRequestEntityTooLarge(limit, length or 0)
    if request.can_read_body and (length is None or "Content-Encoding" in request.headers):
        return request.clone(client_max_size=limit)
    return request


def add_to_audit(request: web.Request, **detail: str) -> None:
    """Have the line of the audit say more of what is done than path and query do. Never a secret."""
    known = request.get(_AUDIT_DETAIL, {})
    request[_AUDIT_DETAIL] = {**known, **{name: text[:MAX_DETAIL] for name, text in detail.items()}}


def bearer(request: web.Request) -> str:
    """The bearer token that the caller shows; empty for none. Source: RFC 6750 §2.1."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
