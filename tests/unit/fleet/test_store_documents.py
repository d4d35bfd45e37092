"""JSON that is read when somebody looks into it: the same values as if it had been read at once."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Dialect
from sqlalchemy.dialects import postgresql, sqlite

from agent.protocol import Problem, Status
from agent.wire import encode
from fleet.store.documents import Document, DocumentColumn

SQLITE: Dialect = sqlite.dialect()
POSTGRESQL: Dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
TEXTS = st.text(st.characters(codec=None), max_size=4)
OBJECTS = st.dictionaries(
    TEXTS, st.none() | st.booleans() | st.integers() | TEXTS | st.lists(TEXTS), max_size=4
)


@given(st.builds(Status, sequence=st.integers(0, 2**53)))
def test_a_message_is_kept_as_json_gives_it_back(status: Status) -> None:
    text = encode(status)
    if b"NaN" not in text and b"Infinity" not in text:
        assert Document.of(status) == json.loads(text)


@given(OBJECTS)
def test_a_document_is_the_mapping_that_its_text_holds(value: dict[str, object]) -> None:
    document = Document(json.dumps(value))
    assert document == value
    assert dict(document) == value
    assert len(document) == len(value)
    assert document == Document(json.dumps(value, indent=1))
    assert document != {**value, "more": 1}
    assert document.get("no such key, ever") is None
    assert json.loads(json.dumps(document, default=Document.to_dict)) == value


@pytest.mark.parametrize("dialect", [SQLITE, POSTGRESQL], ids=lambda one: str(one.name))
@given(value=st.none() | OBJECTS)
def test_the_column_gives_back_what_it_took(dialect: Dialect, value: dict[str, object] | None) -> None:
    column = DocumentColumn()
    for given_value in (value, None if value is None else Document(json.dumps(value))):
        bound = column.process_bind_param(given_value, dialect)
        # PostgreSQL's driver does to the bound value what JSON does; SQLite keeps the text.
        stored = bound if isinstance(bound, str) else json.loads(json.dumps(bound))
        assert column.process_result_value(stored, dialect) == value


def test_half_a_surrogate_pair_is_kept() -> None:
    """JSON can name it, UTF-8 can not: a report that holds one costs its batch nothing."""
    problem = Problem("code", "half \ud800", "mend it")
    assert Document.of(problem)["message"] == "half \ud800"


def test_what_another_version_stored_for_nothing_is_nothing() -> None:
    column = DocumentColumn()
    assert column.process_result_value("null", SQLITE) is None
    assert column.process_result_value(None, SQLITE) is None
