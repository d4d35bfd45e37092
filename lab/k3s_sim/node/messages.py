"""HTTP requests and answers as values, so that everything behind the socket can be called without one."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from lab.k3s_sim.node.errors import StatusError, bad_request


@dataclass(frozen=True)
class Peer:
    """What a verified client certificate says."""

    common_name: str
    organizations: tuple[str, ...]
    issuer: str


@dataclass(frozen=True)
class Request:
    """One request. Header names are lower case."""

    method: str
    path: str
    raw_query: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    peer: Peer | None = None
    remote: str = ""

    @property
    def query(self) -> Mapping[str, str]:
        """The decoded query parameters; of a repeated one the last."""
        return dict(urllib.parse.parse_qsl(self.raw_query, keep_blank_values=True))

    @property
    def target(self) -> str:
        """Path and query as they stand in a request line."""
        return urllib.parse.quote(self.path) + (f"?{self.raw_query}" if self.raw_query else "")

    def header(self, name: str) -> str:
        """The first header of that name, or nothing."""
        return next((value for key, value in self.headers if key == name.lower()), "")

    def value(self) -> Any:
        """The body as JSON; 400 if it is something else, an empty object if there is none."""
        if not self.body:
            return {}
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise bad_request(f"the body is not JSON: {error}") from error

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; 400 if it is something else."""
        value = self.value()
        if not isinstance(value, dict):
            raise bad_request("the body is not a JSON object")
        return value


@dataclass(frozen=True)
class Response:
    """One answer."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain"
    stream: Iterator[bytes] | None = None
    """Where it is given it takes the place of the body: pieces that are sent as they come."""

    @classmethod
    def json(cls, value: object, status: int = 200) -> Response:
        """An answer with a JSON body."""
        return cls(status, json.dumps(value).encode() + b"\n", "application/json")

    @classmethod
    def refusal(cls, error: StatusError) -> Response:
        """An answer that says no."""
        return cls.json(error.to_json(), error.code)


class Application(Protocol):
    """Whatever stands behind the socket: a cluster, or a relay to one."""

    def handle(self, request: Request) -> Response:
        """Answer one request; may be called from several threads at once."""
        ...
