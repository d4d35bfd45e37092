"""The admin routes of people's decisions: approve, reject, revoke, device keys."""

from __future__ import annotations

import json
import re
from typing import ClassVar, Final

from aiohttp import web

from agent.proofs import FINGERPRINT_DIGITS, fingerprint, parse_fingerprint
from fleet.api.answers import value_answer
from fleet.api.guard import add_to_audit
from fleet.api.routes import MESSAGE, NAME, Access, Parameter, Route
from fleet.controller import Controller
from fleet.refusal import RefusedError

MAX_IMPORT: Final = 10_000
"""Boards in one import; a rack has hundreds."""
_BOARD: Final = re.compile(r"[0-9a-f]{8}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")

_KEY = Parameter(
    name="key",
    description="The fingerprint that was compared with the board's screen; without it, whatever waits.",
    schema={"type": "string", "maxLength": 100},
)
DEVICES = {
    "type": "array",
    "items": {"type": "object", "required": ["board", "node", "fingerprint", "source", "at"]},
}
DEVICE_KEYS = {
    "type": "object",
    "maxProperties": MAX_IMPORT,
    "propertyNames": {"pattern": "^[0-9a-f]{8}$"},
    "additionalProperties": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
}


class PeopleRoutes:
    """Decisions about nodes, and the boards' device keys."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    async def _approve(self, request: web.Request) -> web.Response:
        name, key = request.match_info["name"], _key(request)
        return value_answer({"message": self._controller.people.approve(name, key)})

    async def _reject(self, request: web.Request) -> web.Response:
        name, key = request.match_info["name"], _key(request)
        return value_answer({"message": self._controller.people.reject(name, key)})

    async def _revoke(self, request: web.Request) -> web.Response:
        return value_answer({"message": self._controller.people.revoke(request.match_info["name"])})

    async def _forget_device(self, request: web.Request) -> web.Response:
        return value_answer({"message": self._controller.people.forget_device(request.match_info["name"])})

    async def _devices(self, _request: web.Request) -> web.Response:
        with self._controller.store.read() as reader:
            found = reader.all_device_keys()
        return value_answer(
            [
                {
                    "board": one.board,
                    "node": one.node,
                    "fingerprint": fingerprint(one.key_sha256),
                    "source": one.source.value,
                    "at": one.at,
                }
                for one in found
            ]
        )

    async def _import(self, request: web.Request) -> web.Response:
        try:
            keys = json.loads(await request.read())
        except ValueError as error:
            raise RefusedError(400, "devices", "the body is not JSON") from error
        if not isinstance(keys, dict) or len(keys) > MAX_IMPORT:
            raise RefusedError(400, "devices", f"the body is no JSON object of at most {MAX_IMPORT} boards")
        for board, digest in keys.items():
            if not (_BOARD.fullmatch(board) and isinstance(digest, str) and _SHA256.fullmatch(digest)):
                raise RefusedError(
                    400, "devices", f"{board!r}: expected 8 hex digits of a serial, and a SHA-256 in hex"
                )
        message = self._controller.people.import_devices(keys)
        add_to_audit(request, done=message, boards=", ".join(sorted(keys)))
        return value_answer({"message": message})

    ROUTES: ClassVar[tuple[Route, ...]] = (
        Route(
            method="POST",
            path="/v1/admin/nodes/{name}/approve",
            name="approve",
            summary="Let a waiting node in; 409 when another key waits by now.",
            access=Access.ADMIN,
            handler=_approve,
            parameters=(NAME, _KEY),
            answer=MESSAGE,
            refusals=(404,),
        ),
        Route(
            method="POST",
            path="/v1/admin/nodes/{name}/reject",
            name="reject",
            summary="Turn away the key that waits.",
            access=Access.ADMIN,
            handler=_reject,
            parameters=(NAME, _KEY),
            answer=MESSAGE,
            refusals=(404,),
        ),
        Route(
            method="POST",
            path="/v1/admin/nodes/{name}/revoke",
            name="revoke",
            summary="Make everything void that the node was given.",
            access=Access.ADMIN,
            handler=_revoke,
            parameters=(NAME,),
            answer=MESSAGE,
            refusals=(404,),
        ),
        Route(
            method="POST",
            path="/v1/admin/nodes/{name}/forget-device",
            name="forgetDevice",
            summary="Forget which board the node is.",
            access=Access.ADMIN,
            handler=_forget_device,
            parameters=(NAME,),
            answer=MESSAGE,
            refusals=(404,),
        ),
        Route(
            method="GET",
            path="/v1/admin/devices",
            name="listDevices",
            summary="The device keys on record.",
            access=Access.VIEWER,
            handler=_devices,
            answer=DEVICES,
        ),
        Route(
            method="POST",
            path="/v1/admin/devices",
            name="importDevices",
            summary="Put device keys on record: low half of the serial to SHA-256.",
            access=Access.ADMIN,
            handler=_import,
            request=DEVICE_KEYS,
            answer=MESSAGE,
        ),
    )


def _key(request: web.Request) -> str | None:
    """The key that the person compared; None where the caller takes what waits, "" where none was shown."""
    key = request.query.get("key")
    if not key:
        return key
    digits = parse_fingerprint(key)
    if digits is None:
        raise RefusedError(
            400,
            "key",
            f"key is {key!r}, it is {FINGERPRINT_DIGITS} to 64 hex digits",
            "'bramble nodes --json' shows it.",
        )
    return digits
