"""The admin routes of people's decisions: approve, reject, revoke, device keys.

POST /v1/admin/nodes/{name}/approve?key=HEX   {"message": text}; 409 when another key waits by now
POST /v1/admin/nodes/{name}/reject?key=HEX    {"message": text}; as above
POST /v1/admin/nodes/{name}/revoke            {"message": text}
POST /v1/admin/nodes/{name}/forget-device     {"message": text}
GET  /v1/admin/devices                        [{board, node, fingerprint, source, at}]
POST /v1/admin/devices                        {"board": "sha256 of its key"} -> {"message": text}
"""

from __future__ import annotations

import json
import re
from typing import Final

from aiohttp import web

from agent.proofs import FINGERPRINT_DIGITS, fingerprint, parse_fingerprint
from fleet.api.answers import value_answer
from fleet.controller import Controller
from fleet.refusal import RefusedError

MAX_IMPORT: Final = 10_000
"""Boards in one import; a rack has hundreds."""
_BOARD: Final = re.compile(r"[0-9a-f]{8}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class PeopleRoutes:
    """Added to the admin API."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/v1/admin/nodes/{name}/approve", self._approve)
        app.router.add_post("/v1/admin/nodes/{name}/reject", self._reject)
        app.router.add_post("/v1/admin/nodes/{name}/revoke", self._revoke)
        app.router.add_post("/v1/admin/nodes/{name}/forget-device", self._forget_device)
        app.router.add_get("/v1/admin/devices", self._devices)
        app.router.add_post("/v1/admin/devices", self._import)

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
        return value_answer({"message": self._controller.people.import_devices(keys)})


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
