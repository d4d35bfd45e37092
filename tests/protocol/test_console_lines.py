"""Consoles send pieces; lines come out, whatever anybody sends."""

from __future__ import annotations

from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from pxe.diagnosis.console import LINES_A_MINUTE, MAX_LINE, MAX_SOURCES, ConsoleBook

ONE, TWO = IPv4Address("10.0.0.21"), IPv4Address("10.0.0.22")


def test_pieces_become_lines_for_each_board() -> None:
    book = ConsoleBook()
    assert book.feed(ONE, b"Boot mode: NET", 0) == []
    assert book.feed(TWO, b"DHCP src: 10.0.0.1\r\nYI_", 0) == ["DHCP src: 10.0.0.1"]
    assert book.feed(ONE, b"WORK (02) order f1\n", 0) == ["Boot mode: NETWORK (02) order f1"]


def test_a_line_without_its_end_comes_after_a_second() -> None:
    book = ConsoleBook()
    book.feed(ONE, b"NETBOOT init failed", 10.0)
    assert book.flush(10.5) == []
    assert book.flush(11.0) == [(ONE, "NETBOOT init failed")]
    assert book.flush(12.0) == []


def test_a_flood_is_cut_and_counted_and_the_next_minute_is_free() -> None:
    book = ConsoleBook()
    lines = [line for _ in range(200) for line in book.feed(ONE, b"x\n" * 10, 60.0)]
    assert len(lines) == LINES_A_MINUTE
    assert book.dropped == 2000 - LINES_A_MINUTE
    assert book.feed(ONE, b"again\n", 121.0) == ["again"]


def test_invented_sources_can_not_fill_the_memory() -> None:
    book = ConsoleBook()
    for number in range(MAX_SOURCES + 100):
        book.feed(IPv4Address(number), b"partial", 0)
    assert len(book.flush(10)) == MAX_SOURCES


@given(st.lists(st.binary(max_size=1500), max_size=8))
def test_any_bytes_become_printable_bounded_lines(pieces: list[bytes]) -> None:
    book = ConsoleBook()
    lines = [line for piece in pieces for line in book.feed(ONE, piece, 0)]
    lines += [line for _source, line in book.flush(10)]
    assert all(line.isprintable() and 0 < len(line) <= MAX_LINE for line in lines)
