"""Messages as the values that JSON gives back: `json.loads(encode(message))`, without the text between."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, Final


def plain(value: Any) -> Any:
    """Dataclasses become objects, enums their values, tuples lists."""
    kind = type(value)
    if kind in (str, int, float, bool) or value is None:
        return value
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    names = _NAMES.get(kind)
    if names is None:
        names = _NAMES[kind] = tuple(field.name for field in dataclasses.fields(value))
    return {name: plain(getattr(value, name)) for name in names}


_NAMES: Final[dict[type, tuple[str, ...]]] = {}
"""Fields of the kinds that were seen: to look them up takes longer than to read them."""
