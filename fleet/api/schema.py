"""JSON Schema of the values that travel: frozen dataclasses, as `agent.protocol` and the views have them.

Pure. The dialect is that of OpenAPI 3.1, JSON Schema 2020-12. It says what `agent.wire.decode` takes:
unknown fields are refused, and a field without a default is required.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any, Final

_PLAIN: Final[Mapping[Any, dict[str, Any]]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    Any: {},
}


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """One page of a long list of `kind`."""

    kind: type


@dataclasses.dataclass(frozen=True, slots=True)
class Newer:
    """`kind` as a newer peer may send it: with fields that are not known here, which are left out."""

    kind: type


class Schemas:
    """Collects the named schemas that others refer to."""

    def __init__(self, components: dict[str, dict[str, Any]] | None = None, *, newer: bool = False) -> None:
        self.components: dict[str, dict[str, Any]] = {} if components is None else components
        self._newer = newer

    def of(self, kind: Any) -> dict[str, Any]:
        """The schema of a type; a dataclass becomes a reference to its component."""
        if isinstance(kind, dict):
            return kind
        if isinstance(kind, Page):
            return {
                "type": "object",
                "required": ["items", "next"],
                "properties": {
                    "items": {"type": "array", "items": self.of(kind.kind)},
                    "next": {"type": ["string", "null"]},
                },
            }
        if isinstance(kind, Newer):
            return Schemas(self.components, newer=True).of(kind.kind)
        if kind in _PLAIN:
            return dict(_PLAIN[kind])
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin in (typing.Union, types.UnionType):
            present = [self.of(one) for one in arguments if one is not type(None)]
            return {"anyOf": [*present, {"type": "null"}]} if type(None) in arguments else {"anyOf": present}
        if origin in (tuple, list):
            return {"type": "array", "items": self.of(arguments[0])}
        if origin is not None and issubclass(origin, Mapping):
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return self._named(kind, lambda: {"type": "string", "enum": [one.value for one in kind]})
        if dataclasses.is_dataclass(kind):
            return self._named(kind, lambda: self._object(kind))
        raise TypeError(f"{kind!r} has no schema")

    def _named(self, kind: Any, make: typing.Callable[[], dict[str, Any]]) -> dict[str, Any]:
        name = f"{kind.__name__}OfAnyVersion" if self._newer else kind.__name__
        if name not in self.components:
            self.components[name] = {}  # a value may hold values of its own kind
            self.components[name] = {**_description(kind), **make()}
        return {"$ref": f"#/components/schemas/{name}"}

    def _object(self, kind: Any) -> dict[str, Any]:
        hints = typing.get_type_hints(kind)
        fields = dataclasses.fields(kind)
        required = [
            field.name
            for field in fields
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        ]
        found: dict[str, Any] = {
            "type": "object",
            "properties": {
                field.name: {**self.of(hints[field.name]), **field.metadata.get("schema", {})}
                for field in fields
            },
            "additionalProperties": self._newer,
        }
        return {**found, "required": required} if required else found


def _description(kind: type) -> dict[str, str]:
    """The first paragraph of the docstring; the signature that dataclasses make up is none."""
    text = (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " ")
    is_own = text and not text.startswith(f"{kind.__name__}(")
    return {"description": text} if is_own and kind.__doc__ != enum.Enum.__doc__ else {}
