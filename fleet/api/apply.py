"""The admin route of 'bramble apply'.

POST /v1/admin/apply?dry_run=0|1   {"path": "/…/cluster.yaml", "text": "…"} ->
     {"applied": bool, "usual_path": path, "problems": [Problem], "changes": [Change]}
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from fleet.api.answers import value_answer
from fleet.controller import Controller
from fleet.refusal import RefusedError
from fleet.spec.document import MAX_DOCUMENT_BYTES

MAX_BODY_BYTES: Final = 2 * MAX_DOCUMENT_BYTES
"""A file at its limit, with its quotes and line ends escaped as JSON wants it."""


class ApplyRoutes:
    """Added to the admin API."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/v1/admin/apply", self._apply)

    async def _apply(self, request: web.Request) -> web.Response:
        dry_run = request.query.get("dry_run", "0")
        if dry_run not in ("0", "1"):
            raise RefusedError(400, "dry_run", f"dry_run is {dry_run!r}, it is 0 or 1")
        body = await request.clone(client_max_size=MAX_BODY_BYTES).read()
        path, text = _parse(body)
        done = self._controller.apply.apply(text, path, dry_run=dry_run == "1")
        return value_answer(
            {
                "applied": done.applied,
                "usual_path": str(done.usual_path),
                "problems": [problem.to_json() for problem in done.problems],
                "changes": [change.to_json() for change in done.changes],
            }
        )


def _parse(body: bytes) -> tuple[Path, str]:
    try:
        given: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, "body", "the body is not JSON") from error
    if not isinstance(given, dict) or given.keys() != {"path", "text"}:
        raise RefusedError(400, "body", "the body is no object of 'path' and 'text'")
    path, text = given["path"], given["text"]
    if not isinstance(path, str) or not isinstance(text, str) or "\0" in path or not path.startswith("/"):
        raise RefusedError(400, "body", "'path' is the absolute path of the file, 'text' what stands in it")
    return Path(path), text
