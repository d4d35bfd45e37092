"""The admin route of 'bramble apply'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Final

from aiohttp import web

from fleet.api.answers import value_answer
from fleet.api.guard import add_to_audit
from fleet.api.peer import is_of_this_machine
from fleet.api.routes import Access, Parameter, Route
from fleet.controller import Controller
from fleet.refusal import RefusedError
from fleet.spec.document import MAX_DOCUMENT_BYTES

MAX_BODY_BYTES: Final = 2 * MAX_DOCUMENT_BYTES
"""A file at its limit, with its quotes and line ends escaped as JSON wants it."""


class ApplyRoutes:
    """Takes a cluster.yaml."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    async def _apply(self, request: web.Request) -> web.Response:
        dry_run = request.query.get("dry_run", "0")
        if dry_run not in ("0", "1"):
            raise RefusedError(400, "dry_run", f"dry_run is {dry_run!r}, it is 0 or 1")
        path, text = _parse(await request.read())
        from_here = is_of_this_machine(request)
        done = await self._controller.apply.apply(text, path, dry_run=dry_run == "1", from_here=from_here)
        add_to_audit(request, path=str(path), applied=str(done.applied).lower())
        return value_answer(
            {
                "applied": done.applied,
                "usual_path": str(done.usual_path),
                "problems": [problem.to_json() for problem in done.problems],
                "changes": [change.to_json() for change in done.changes],
            }
        )

    ROUTES: ClassVar[tuple[Route, ...]] = (
        Route(
            method="POST",
            path="/v1/admin/apply",
            name="apply",
            summary="Take a changed cluster.yaml, or only say what would change. With a token, it names no "
            "file and no command of the server's machine that the one in force does not name.",
            access=Access.ADMIN,
            handler=_apply,
            refusals=(403,),
            parameters=(
                Parameter(
                    name="dry_run",
                    description="`1`: change nothing.",
                    schema={"type": "string", "enum": ["0", "1"]},
                ),
            ),
            request={
                "type": "object",
                "required": ["path", "text"],
                "properties": {
                    "path": {"type": "string", "pattern": "^/[^\\u0000]*$"},
                    "text": {"type": "string"},
                },
                "additionalProperties": False,
            },
            answer={
                "type": "object",
                "required": ["applied", "usual_path", "problems", "changes"],
                "properties": {
                    "applied": {"type": "boolean"},
                    "usual_path": {"type": "string"},
                    "problems": {"type": "array", "items": {"type": "object"}},
                    "changes": {"type": "array", "items": {"type": "object"}},
                },
            },
            max_body_bytes=MAX_BODY_BYTES,
        ),
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
