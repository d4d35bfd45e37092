"""The OpenAPI 3.1 document of the control API, made from the table of routes: it says nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any, Final

from fleet.api.routes import Access, Route
from fleet.api.schema import Schemas

_PATTERN: Final = re.compile(r"\{(\w+):[^{}]*(?:\{[^{}]*\}[^{}]*)*\}")
ERROR: Final = {
    "type": "object",
    "description": "Why a request was not granted. `error` is part of the protocol, the rest is for people.",
    "required": ["error", "message", "hint", "request_id"],
    "properties": {name: {"type": "string"} for name in ("error", "message", "hint", "request_id")},
    "additionalProperties": False,
}
_TITLES: Final = {
    400: "What was sent is not what the route takes.",
    401: "Who asks did not show who it is.",
    403: "Who asks may not do this.",
    404: "There is no such thing.",
    408: "The request took too long to arrive.",
    409: "It does not fit what is true now.",
    413: "The body is too large.",
    422: "The idempotency key was used for another request.",
    429: "Too many requests; `Retry-After` says how long to wait.",
    502: "A device that was asked does not answer as it should.",
    503: "The server cannot do it now; ask again.",
}
_SECURITY: Final[dict[Access, list[dict[str, list[str]]]]] = {
    Access.ENROLMENT: [],
    Access.INSTALLER: [{"installer": []}],
    Access.NODE: [{"node": []}],
    Access.VIEWER: [{"viewer": []}, {"admin": []}],
    Access.ADMIN: [{"admin": []}],
}
_SCHEMES: Final = {
    "installer": {
        "type": "http",
        "scheme": "bearer",
        "description": "The token of an admitted installer, from the verdict of /v1/prove.",
    },
    "node": {
        "type": "mutualTLS",
        "description": "The client certificate of an enrolled node, from the verdict of /v1/prove.",
    },
    "viewer": {
        "type": "http",
        "scheme": "bearer",
        "description": "Made by 'bramble token create NAME --role viewer'.",
    },
    "admin": {
        "type": "http",
        "scheme": "bearer",
        "description": "Made by 'bramble token create NAME --role admin'. On the unix socket none is needed.",
    },
}


def openapi_path(path: str) -> str:
    """A path of aiohttp's as OpenAPI has it: without the patterns."""
    return _PATTERN.sub(r"{\1}", path)


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The whole document, as plain values."""
    schemas = Schemas()
    schemas.components["Error"] = dict(ERROR)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(openapi_path(route.path), {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Bramble control API",
            "version": version("bramble"),
            "description": "What installers, nodes and people ask of `bramble serve`. Every answer carries "
            "`X-Request-Id`, which stands in the server's log too.",
        },
        "servers": [
            {"url": "https://{server}:7443", "variables": {"server": {"default": "control.internal"}}}
        ],
        "paths": paths,
        "components": {"schemas": dict(sorted(schemas.components.items())), "securitySchemes": _SCHEMES},
    }


def _operation(route: Route, schemas: Schemas) -> dict[str, Any]:
    in_path = set(re.findall(r"\{(\w+)\}", openapi_path(route.path)))
    parameters = [
        {
            "name": one.name,
            "in": "path" if one.name in in_path else "query",
            "required": one.is_required,
            "description": one.description,
            "schema": one.schema,
        }
        for one in route.parameters
    ]
    if route.access is Access.ADMIN and route.is_write:
        parameters.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "A repeat with the same key within a day is answered as the first was, and "
                "does nothing.",
                "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{8,64}$"},
            }
        )
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "tags": [route.access.value],
        "security": _SECURITY[route.access],
        "responses": _responses(route, schemas),
    }
    if parameters:
        operation["parameters"] = parameters
    if route.request is not None:
        content = {"application/json": {"schema": schemas.of(route.request)}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _responses(route: Route, schemas: Schemas) -> dict[str, Any]:
    answer = {"type": "object"} if route.answer is None else schemas.of(route.answer)
    refused = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    found = {"200": {"description": "Done.", "content": {route.media: {"schema": answer}}}}
    for status in sorted(statuses_of(route)):
        found[str(status)] = {"description": _TITLES[status], "content": refused}
    return found


def statuses_of(route: Route) -> set[int]:
    """Every status with which a route may refuse."""
    statuses = {408, 413, 503, *route.refusals}
    if route.access is not Access.ENROLMENT:
        statuses |= {401, 429}
    if route.access.is_of_people:
        statuses |= {403}
    if route.access is Access.ADMIN and route.is_write:
        statuses |= {400, 409, 422}
    if route.request is not None or route.parameters:
        statuses |= {400}
    return statuses
