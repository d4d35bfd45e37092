"""JSON in the store: objects are read when somebody looks into them.

A node's last report is 1.5 KiB of JSON, and most of what goes through the nodes (time limits, listings, a
batch of reports) never looks into it. To decode it takes longer than to fetch its row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
import sqlalchemy as sa


class Document(Mapping[str, Any]):
    """A JSON object as its text; the same values as the dict that is in it."""

    __slots__ = ("_value", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._value: dict[str, Any] | None = None

    @classmethod
    def of(cls, message: Any) -> Document:
        """A message (a dataclass) as the store keeps it: tuples are lists, enums their values."""
        return cls(_render(message))

    def to_dict(self) -> dict[str, Any]:
        """The object that the text holds; the caller must not change it."""
        if self._value is None:
            self._value = _parse(self.text)
        return self._value

    def __getitem__(self, key: str) -> Any:
        return self.to_dict()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_dict())

    def __len__(self) -> int:
        return len(self.to_dict())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Document):
            return self.text == other.text or self.to_dict() == other.to_dict()
        return isinstance(other, Mapping) and self.to_dict() == other

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Document({self.text!r})"


class DocumentColumn(sa.types.TypeDecorator[Mapping[str, Any]]):
    """A JSON column of objects; its values are mappings, or None.

    The column is what `sa.JSON` makes it. On SQLite, where that is text, it is left as text both ways.
    """

    impl = sa.JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        return dialect.type_descriptor(_JsonText() if dialect.name == "sqlite" else sa.JSON())

    def process_bind_param(self, value: Mapping[str, Any] | None, dialect: sa.Dialect) -> Any:
        if dialect.name == "sqlite":
            return NOTHING if value is None else _text_of(value)
        return value.to_dict() if isinstance(value, Document) else value

    def process_result_value(self, value: Any, _dialect: sa.Dialect) -> Mapping[str, Any] | None:
        if value is None or value == NOTHING:
            return None
        return Document(value) if isinstance(value, str) else value  # PostgreSQL's driver has read it


class _JsonText(sa.Text):
    """Declared as JSON, taken as text: SQLite has one and the same for both."""

    __visit_name__ = "JSON"


NOTHING: Final = "null"
"""What `sa.JSON` stores for None."""


def _text_of(value: Mapping[str, Any]) -> str:
    return value.text if isinstance(value, Document) else _render(value)


def _render(value: Any) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can name and UTF-8 can not
        return json.dumps(msgspec.to_builtins(value, str_keys=True))


def _parse(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, ValueError):
        value: dict[str, Any] = json.loads(text)
        return value
