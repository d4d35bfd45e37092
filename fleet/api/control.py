"""The control API of `agent.protocol`, for installers and agents, over TLS.

Decodes, calls the controller, encodes. A caller is known by its connection's client certificate (checked by
TLS against the control CA) or by its bearer token; both are only handed on here.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar, Final, TypeVar

from aiohttp import web

from agent.orders import DESIRED, EEPROM, REBOOT, SignedOrder
from agent.protocol import (
    Hello,
    InstallComplete,
    InstallPlan,
    InstallProgress,
    JoinMaterial,
    Proof,
    Status,
    StatusAccepted,
    Verdict,
    Welcome,
)
from agent.wire import decode, encode
from fleet.api.answers import json_answer
from fleet.api.guard import bearer
from fleet.api.limits import RateLimit
from fleet.api.peer import peer_certificate
from fleet.api.routes import Access, Route
from fleet.api.schema import Newer
from fleet.api.swift import decode_of_any_version, encode_swiftly
from fleet.controller import Controller
from fleet.refusal import RefusedError

ANONYMOUS_BURST: Final = 20
ANONYMOUS_PER_SECOND: Final = 2.0
"""Per source address, for hello and prove together. An installer that waits for approval needs 0.4."""
SERIAL_BURST: Final = 20
SERIAL_PER_SECOND: Final = 1.0
"""Hellos of one claimed serial, from whatever addresses."""
MAX_ANONYMOUS_BODY_BYTES: Final = 16 * 1024
"""Of hello and prove. The largest are a hello with sixteen MACs and a proof with a request, 3 KiB each."""

Message = TypeVar("Message")


class ControlRoutes:
    """The routes of the protocol over one controller."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._anonymous = RateLimit(burst=ANONYMOUS_BURST, per_second=ANONYMOUS_PER_SECOND)
        self._serials = RateLimit(burst=SERIAL_BURST, per_second=SERIAL_PER_SECOND)

    async def _hello(self, request: web.Request) -> web.Response:
        self._limit(request)
        hello = await _read(request, Hello)
        # The low half in one spelling: another one is the same board, and has no share of its own.
        if not self._serials.allows(hello.hardware.serial.strip().lower()[-8:], time.monotonic()):
            raise RefusedError(429, "too-many", "too many requests for this serial", "Ask again in seconds.")
        return _answer(self._controller.admission.hello(hello))

    async def _prove(self, request: web.Request) -> web.Response:
        self._limit(request)
        proof = await _read(request, Proof)
        return _answer(self._controller.admission.prove(proof, peer_certificate(request)))

    async def _plan(self, request: web.Request) -> web.Response:
        return _answer(self._controller.installs.plan(bearer(request)))

    async def _progress(self, request: web.Request) -> web.Response:
        self._controller.installs.progress(bearer(request), await _read(request, InstallProgress))
        return json_answer(b"{}")

    async def _complete(self, request: web.Request) -> web.Response:
        self._controller.installs.complete(bearer(request), await _read(request, InstallComplete))
        return json_answer(b"{}")

    async def _desired(self, request: web.Request) -> web.Response:
        node, desired = self._controller.joins.desired_of(peer_certificate(request))
        return _answer(self._controller.pki.sign_order(DESIRED, node, desired))

    async def _eeprom(self, request: web.Request) -> web.Response:
        node = self._controller.joins.caller(peer_certificate(request))
        order = self._controller.eeprom.order_for(node)
        return _answer(self._controller.pki.sign_order(EEPROM, node.name, order))

    async def _reboot(self, request: web.Request) -> web.Response:
        node = self._controller.joins.caller(peer_certificate(request))
        order = self._controller.reboots.order_for(node)
        return _answer(self._controller.pki.sign_order(REBOOT, node.name, order))

    async def _status(self, request: web.Request) -> web.Response:
        # A node may have been given a newer agent by a server that was set back since.
        status = decode_of_any_version(Status, await request.read())
        accepted = await self._controller.heartbeats.submit(peer_certificate(request), status)
        return json_answer(encode_swiftly(accepted))

    async def _join_material(self, request: web.Request) -> web.Response:
        certificate = peer_certificate(request)
        await self._controller.preparation.prepare(certificate)
        return _answer(self._controller.joins.join_material(certificate))

    def _limit(self, request: web.Request) -> None:
        if not self._anonymous.allows(request.remote or "", time.monotonic()):
            raise RefusedError(
                429, "too-many", "too many requests from this address", "Ask again in seconds."
            )

    ROUTES: ClassVar[tuple[Route, ...]] = (
        Route(
            method="POST",
            path="/v1/hello",
            name="hello",
            summary="Say who is there, before it is proved.",
            access=Access.ENROLMENT,
            handler=_hello,
            request=Hello,
            max_body_bytes=MAX_ANONYMOUS_BODY_BYTES,
            answer=Welcome,
            refusals=(429,),
        ),
        Route(
            method="POST",
            path="/v1/prove",
            name="prove",
            summary="Prove it, and hear what was decided.",
            access=Access.ENROLMENT,
            handler=_prove,
            request=Proof,
            max_body_bytes=MAX_ANONYMOUS_BODY_BYTES,
            answer=Verdict,
            refusals=(409, 429),
            holds_secret=True,
        ),
        Route(
            method="GET",
            path="/v1/install/plan",
            name="installPlan",
            summary="What the installer is to write, and where.",
            access=Access.INSTALLER,
            handler=_plan,
            answer=InstallPlan,
            refusals=(409,),
            holds_secret=True,
        ),
        Route(
            method="POST",
            path="/v1/install/progress",
            name="installProgress",
            summary="Where the installer is.",
            access=Access.INSTALLER,
            handler=_progress,
            request=InstallProgress,
            refusals=(409,),
        ),
        Route(
            method="POST",
            path="/v1/install/complete",
            name="installComplete",
            summary="The disk is written, verified and committed.",
            access=Access.INSTALLER,
            handler=_complete,
            request=InstallComplete,
            refusals=(409,),
        ),
        Route(
            method="GET",
            path="/v1/node/desired",
            name="desired",
            summary="What the server wants of the node.",
            access=Access.NODE,
            handler=_desired,
            answer=SignedOrder,
            refusals=(409,),
        ),
        Route(
            method="POST",
            path="/v1/node/status",
            name="status",
            summary="How the node is.",
            access=Access.NODE,
            handler=_status,
            request=Newer(Status),
            answer=StatusAccepted,
            refusals=(409,),
        ),
        Route(
            method="GET",
            path="/v1/node/eeprom",
            name="eepromOrder",
            summary="The newest order of bootloader settings.",
            access=Access.NODE,
            handler=_eeprom,
            answer=SignedOrder,
            refusals=(404,),
        ),
        Route(
            method="GET",
            path="/v1/node/reboot",
            name="rebootOrder",
            summary="The newest order to restart into the installer.",
            access=Access.NODE,
            handler=_reboot,
            answer=SignedOrder,
            refusals=(404,),
        ),
        Route(
            method="POST",
            path="/v1/node/join-material",
            name="joinMaterial",
            summary="Tokens and settings to join k3s, when it is the node's turn.",
            access=Access.NODE,
            handler=_join_material,
            answer=JoinMaterial,
            refusals=(409,),
            holds_secret=True,
        ),
    )


async def _read(request: web.Request, kind: type[Message]) -> Message:
    """The request's body, of which the guard lets no more in than the route takes."""
    return decode(kind, await request.read())


def _answer(message: Any) -> web.Response:
    return json_answer(encode(message))
