"""One route: where it is, who may use it, what goes in and what comes out.

The tables of routes (`fleet.api.table`) are what the server listens to, what the guard lets through and
what the OpenAPI document says: a route that is not in a table does not exist, and one without a role
cannot be written.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from aiohttp import web

from agent.wire import MAX_BODY_BYTES

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

    def fault_of(self, text: str) -> str | None:
        """What is wrong with a value, by the schema; None where it is sound."""
        schema = self.schema
        if not text.isprintable():
            return "it holds a character that cannot be shown"
        if "enum" in schema and text not in schema["enum"]:
            return f"it is one of {', '.join(schema['enum'])}"
        if "pattern" in schema and not re.search(schema["pattern"].replace("$", r"\Z"), text):
            return f"it has to match {schema['pattern']}"
        if not schema.get("minLength", 0) <= len(text) <= schema.get("maxLength", len(text)):
            return f"it has {schema.get('minLength', 0)} to {schema['maxLength']} characters"
        if schema["type"] == "integer":
            number = int(text) if re.fullmatch("[0-9]{1,18}", text) else -1
            if not schema["minimum"] <= number <= schema["maximum"]:
                return f"it is a number from {schema['minimum']} to {schema['maximum']}"
        return None


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
        max_body_bytes: The largest body that it takes; of those that are no people's `MAX_BODY_BYTES` is.
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

    def fault_of(self, path: Mapping[str, str], query: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
        """The first parameter that is unsound, unknown or given twice, and what is wrong with it."""
        known = {one.name: one for one in self.parameters}
        seen = set(path)
        for name, _text in query:
            if name not in known or name in path:
                return name, f"this route has no parameter {name!r}"
            if name in seen:
                return name, f"{name} is given twice"
            seen.add(name)
        for name, text in (*path.items(), *query):
            fault = known[name].fault_of(text) if name in known else None
            if fault is not None:
                return name, f"{name} is {text[:40]!r}, {fault}"
        return None

    @property
    def body_limit(self) -> int:
        """In bytes, as it comes and unpacked."""
        return self.max_body_bytes if self.access.is_of_people else min(self.max_body_bytes, MAX_BODY_BYTES)

    @property
    def is_write(self) -> bool:
        return self.method != "GET"


PRINTABLE = "^[^\\x00-\\x1f\\x7f]*$"
"""What a document can say of it; the check is stricter."""
NAME = Parameter(
    name="name",
    description="Name of a node.",
    schema={"type": "string", "minLength": 1, "maxLength": 80, "pattern": PRINTABLE},
    is_required=True,
)
MESSAGE = {
    "type": "object",
    "required": ["message"],
    "properties": {"message": {"type": "string", "description": "What was done, for people."}},
}
