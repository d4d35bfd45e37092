"""How a node's row reads."""

from __future__ import annotations

import pytest
from rich.console import Console

from bramble.demo_screen import PlainScreen, describe_row, split_detail, summary_table
from lab.events import BoardEvent, EventKind


def row(state: str, detail: str = "", k3s: str = "") -> dict[str, str]:
    return {"state": state, "detail": detail, "k3s": k3s}


@pytest.mark.parametrize(
    ("state", "detail", "expected"),
    [
        pytest.param("imaging", "write 40 %", ("imaging: write", "40"), id="step and share"),
        pytest.param("imaging", "find disk 0 %", ("imaging: find disk", "0"), id="step of two words"),
        pytest.param("imaging", "write", ("imaging: write", ""), id="step alone"),
        pytest.param("imaging", "40 %", ("imaging", "40"), id="share alone"),
        pytest.param("ready", "", ("ready", ""), id="state alone"),
    ],
)
def test_split_detail(state: str, detail: str, expected: tuple[str, str]) -> None:
    assert split_detail(row(state, detail)) == expected


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        pytest.param(row("imaging", "write 40 %"), "imaging: write  40 %", id="no k3s yet"),
        pytest.param(row("ready", k3s="v1 (simulator)"), "ready  v1 (simulator)", id="no detail"),
        pytest.param(row("declared"), "declared", id="state alone"),
    ],
)
def test_a_row_in_one_line_has_no_holes(node: dict[str, str], expected: str) -> None:
    assert describe_row(node) == expected


def test_plain_screen_says_a_row_again_only_when_it_has_changed(capsys: pytest.CaptureFixture[str]) -> None:
    screen = PlainScreen()
    for detail in ("write 40 %", "write 40 %", "write 41 %"):
        screen.show({"pi5-1": row("imaging", detail)})
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("pi5-1: ")[2] for line in lines] == [
        "imaging: write  40 %",
        "imaging: write  41 %",
    ]


def test_plain_screen_says_progress_at_every_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    screen = PlainScreen()
    for share in (0.10, 0.11, 0.12, 0.2):
        screen.progress("compressing", share)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_plain_screen_leaves_out_files_that_need_not_be_there(capsys: pytest.CaptureFixture[str]) -> None:
    screen = PlainScreen()
    for kind in (EventKind.FILE_MISSING, EventKind.FILE_FETCHED):
        screen.board_event(BoardEvent(board="pi5-1", kind=kind, text=kind.value, at=0.0))
    assert capsys.readouterr().out.splitlines()[0].endswith("pi5-1: file-fetched")


def test_square_brackets_in_a_line_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    PlainScreen().say("section [all] [bold]")
    assert "section [all] [bold]" in capsys.readouterr().out


def test_the_summary_holds_every_measure_with_its_limit() -> None:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(summary_table([("whole demo", "300 s", "480 s")]))
    line = next(line for line in capture.get().splitlines() if "whole demo" in line)
    assert line.index("whole demo") < line.index("300 s") < line.index("480 s")
