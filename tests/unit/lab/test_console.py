from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.console import REMEMBERED_CHARS, Console


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    made = Console(tmp_path / "console.log")
    yield made
    made.close()


def test_text_is_kept_without_terminal_escapes_and_the_file_has_all(console: Console, tmp_path: Path) -> None:
    raw = b"\x1b[32mOK\x1b[0m\r\n\x1b]104\x07\x1b[!pDebian\x1b]0;title\x1b\\ login: "
    for position in range(len(raw)):  # escapes arrive in pieces
        console.write(raw[position : position + 1])
    assert console.tail() == "OK\nDebian login: "
    console.close()
    assert (tmp_path / "console.log").read_bytes() == raw


def test_waiting_sees_what_comes_later_from_another_thread(console: Console) -> None:
    writer = threading.Timer(0.01, console.write, [b"login: "])
    writer.start()
    found = console.wait_for(r"log(\w+):", 10.0)
    writer.join()
    assert found is not None
    assert found[1] == "in"


def test_waiting_ends_without_a_match_in_time_or_when_the_board_is_gone(console: Console) -> None:
    assert console.wait_for("login", 0.01) is None
    console.close()
    assert console.wait_for("login", 60.0) is None


def test_a_mark_hides_what_came_before_it(console: Console) -> None:
    console.write(b"login: ")
    mark = console.position
    assert console.wait_for("login", 0.0, since=mark) is None
    console.write(b"x" * REMEMBERED_CHARS)
    console.write(b"\nlogin: ")
    assert console.position == mark + REMEMBERED_CHARS + len("\nlogin: ")
    assert console.wait_for("login", 0.0, since=mark) is not None
