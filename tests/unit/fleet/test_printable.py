"""What a board or an installer writes cannot steer a person's terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fleet.printable import counted, printable
from fleet.timeline import Entry, Kind


@given(text=st.text(max_size=600), limit=st.integers(1, 500))
def test_result_is_printable_and_bounded(text: str, limit: int) -> None:
    clean = printable(text, limit)
    assert clean.isprintable()
    assert len(clean) <= limit


@given(text=st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=100))
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert printable(text, 100) == text


def test_every_entry_is_cleaned() -> None:
    entry = Entry(kind=Kind.BOOT, text="\x1b]0;title\x07name", hint="line\nline")
    assert (entry.kind, entry.text.isprintable(), entry.hint.isprintable()) == (Kind.BOOT, True, True)


def test_one_is_not_many() -> None:
    assert [counted(number, "node") for number in (0, 1, 2)] == ["0 nodes", "1 node", "2 nodes"]
