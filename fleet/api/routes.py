"""One route: where it is, who may use it, what goes in and what comes out.

The tables of routes (`fleet.api.table`) are what the server listens to, what the guard lets through and what
the OpenAPI document says: a route that is not in a table does not exist, and one without a role cannot be
written.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from aiohttp import web

Handler = Callable[[Any, web.Request], Awaitable[web.StreamResponse]]
"""A method of a group of routes, not bound to one yet."""


class Access(StrEnum):
    """Who may use a route. ADMIN may also do what VIEWER may; the others are separate."""

    ENROLMENT = "enrolment"
    """Anybody: what it says is proved by its body. Rate limited by source and by serial."""
    INSTALLER = "installer"
    """The bearer token of an admitted installer."""
    NODE = "node"
    """The client certificate of an enrolled node."""
    VIEWER = "viewer"
    ADMIN = "admin"

    @property
    def is_of_people(self) -> bool:
        """Needs a token that a person made, or the socket."""
        return self in (Access.VIEWER, Access.ADMIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A value in the path or the query; all are texts on the wire.

    Attributes:
        schema: Its JSON Schema.
    """

    name: str
    description: str
    schema: dict[str, Any]
    is_required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation.

    Attributes:
        path: As aiohttp has it; a pattern for `{name}` may follow a colon.
        name: The operation's id.
        request: What the body is: a type that `fleet.api.schema` knows, or a JSON Schema; None for no body.
        answer: The same of the answer; None for an empty object.
        refusals: Statuses with which it refuses, beside those of its access and of every body.
        media: What the answer is.
        max_body_bytes: The largest body that it takes; a handler may have a narrower limit.
        holds_secret: Its answer holds a secret, so no copy of it is kept.
    """

    method: str
    path: str
    name: str
    summary: str
    access: Access
    handler: Handler
    parameters: tuple[Parameter, ...] = ()
    request: Any = None
    answer: Any = None
    refusals: tuple[int, ...] = ()
    holds_secret: bool = False
    media: str = "application/json"
    max_body_bytes: int = 1024 * 1024

    @property
    def is_write(self) -> bool:
        return self.method != "GET"


NAME = Parameter(
    name="name",
    description="Name of a node.",
    schema={"type": "string", "minLength": 1, "maxLength": 80},
    is_required=True,
)
MESSAGE = {
    "type": "object",
    "required": ["message"],
    "properties": {"message": {"type": "string", "description": "What was done, for people."}},
}
