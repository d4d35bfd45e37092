"""Messages as JSON: what is sent for a frozen dataclass, and what is accepted as one.

Values in, bytes out, and back; nothing of what the messages mean. Standard library only, Python >= 3.10.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import math
import types
import typing
from typing import Any, NoReturn, TypeVar

MAX_BODY_BYTES = 64 * 1024
"""Largest JSON body that either side accepts."""

MAX_DIGITS = 20
"""Of an integer: what 64 bits hold."""

LATER = types.MappingProxyType({"later": True})
"""Metadata of a message's own field that a server of before refuses as unknown; it defaults to None."""


class ProtocolError(ValueError):
    """A message that is not what the protocol says; the text names the field."""


def encode(message: Any) -> bytes:
    """Canonical JSON of a message: sorted keys, no spaces, UTF-8.

    A field that is `LATER` is left out where it is None: a peer of before does not know it, and what is
    hashed over the message is the same on both sides.
    """
    value, kind = dataclasses.asdict(message), message.__class__
    for name in _later(kind):
        if value[name] is None:
            del value[name]
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


@functools.cache
def _later(kind: Any) -> tuple[str, ...]:
    return tuple(entry.name for entry in dataclasses.fields(kind) if "later" in entry.metadata)


def _parse_int(text: str) -> int:
    """No count or size has more digits, and `float` of one with hundreds of them raises."""
    if len(text.removeprefix("-")) > MAX_DIGITS:
        raise ProtocolError(f"a number is too large: it has more than {MAX_DIGITS} digits")
    return int(text)


def _refuse_constant(name: str) -> NoReturn:
    """NaN and infinities are no JSON (RFC 8259 §6), and no measurement either."""
    raise ProtocolError(f"the body holds {name}, which is no JSON number")


Message = TypeVar("Message")


def decode(
    kind: type[Message], body: bytes, *, newer_peer: bool = False, limit: int = MAX_BODY_BYTES
) -> Message:
    """Parse a JSON body into `kind`.

    Args:
        newer_peer: leave out fields that this version does not know. For what an agent hears and remembers:
            it must follow a newer server, if only to be updated by it, and read what a newer agent stored.
        limit: bytes; of what is no message, but holds some.

    Raises:
        ProtocolError: not JSON, too large, an unknown or missing field, or a field of another type.
    """
    if len(body) > limit:
        raise ProtocolError(f"the body has {len(body)} bytes, the limit is {limit}")
    try:
        value = json.loads(body.decode(), parse_constant=_refuse_constant, parse_int=_parse_int)
        if b"\\ud" in body.lower():
            # Half of a surrogate pair is JSON (RFC 8259 §8.2) and no text: nobody could print it.
            value = json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
    except ProtocolError:
        raise
    except (ValueError, RecursionError) as exc:  # ValueError also of integers with thousands of digits
        raise ProtocolError(f"the body is not JSON: {exc}") from exc
    decoded: Message = _convert(kind, value, kind.__name__, newer_peer)
    return decoded


def _convert(kind: Any, value: Any, where: str, lenient: bool) -> Any:
    """`value` as `kind`: dataclasses, enums, tuples, dicts, unions with None and plain JSON types.

    Nothing is coerced silently; an integer for a float is the one exception (JSON has a single number type).
    """
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(kind) if option is not type(None)]
        return None if value is None else _convert(options[0], value, where, lenient)
    if origin is tuple:
        if not isinstance(value, list):
            raise ProtocolError(f"{where}: expected a list, got {type(value).__name__}")
        item = typing.get_args(kind)[0]
        return tuple(_convert(item, entry, f"{where}[{index}]", lenient) for index, entry in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise ProtocolError(f"{where}: expected an object, got {type(value).__name__}")
        item = typing.get_args(kind)[1]
        return {str(key): _convert(item, entry, f"{where}.{key}", lenient) for key, entry in value.items()}
    if dataclasses.is_dataclass(kind):
        return _convert_dataclass(kind, value, where, lenient)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        try:
            return kind(value)
        except ValueError as exc:
            choices = ", ".join(str(member.value) for member in kind)
            raise ProtocolError(f"{where}: {value!r} is none of {choices}") from exc
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as exc:
            raise ProtocolError(f"{where}: the number is too large") from exc
    if type(value) is not kind:
        raise ProtocolError(f"{where}: expected {kind.__name__}, got {type(value).__name__}")
    if kind is float and not math.isfinite(value):  # 1e999 is JSON, and no measurement
        raise ProtocolError(f"{where}: the number is too large")
    return value


@functools.cache
def _shape(kind: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Types of a dataclass's fields, and the names of those that must be there.

    Asked for every report of every node, and costly to find out.
    """
    required = tuple(
        entry.name
        for entry in dataclasses.fields(kind)
        if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
    )
    return typing.get_type_hints(kind), required


def _convert_dataclass(kind: Any, value: Any, where: str, lenient: bool) -> Any:
    if not isinstance(value, dict):
        raise ProtocolError(f"{where}: expected an object, got {type(value).__name__}")
    hints, required = _shape(kind)
    unknown = sorted(value.keys() - hints.keys())
    if unknown and not lenient:
        raise ProtocolError(f"{where}: unknown field {unknown[0]!r}")
    missing = [name for name in required if name not in value]
    if missing:
        raise ProtocolError(f"{where}: field {missing[0]!r} is missing")
    fields = ((name, entry) for name, entry in value.items() if name in hints)
    return kind(**{name: _convert(hints[name], entry, f"{where}.{name}", lenient) for name, entry in fields})
