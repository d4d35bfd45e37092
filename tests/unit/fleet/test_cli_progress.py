"""What is said on stderr while something takes long."""

from __future__ import annotations

import pytest

from fleet.cli.progress import ProgressLine, time_left_s


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def told(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    steps: list[tuple[float, str, float]],
    *,
    terminal: bool,
) -> list[str]:
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    clock = Clock()
    with ProgressLine(show=True, clock=clock) as line:
        for at, text, share in steps:
            clock.now = at
            line.update(text, share)
    return [part for part in capsys.readouterr().err.replace("\r\x1b[K", "\n").split("\n") if part]


def test_a_terminal_is_told_how_long_the_rest_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [(0.0, "hashing", 0.01), (1.0, "hashing", 0.2), (10.0, "hashing", 0.51), (600.0, "hashing", 0.61)]
    assert told(capsys, monkeypatch, steps, terminal=True) == [
        "  1% hashing",
        " 20% hashing",
        " 51% hashing, 10 s left",
        " 61% hashing, 6 min left",
    ]


def test_elsewhere_there_is_a_line_for_each_step_and_no_more(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [(0.0, "hashing", 0.1), (9.0, "hashing", 0.2), (20.0, "packing", 0.6)]
    assert told(capsys, monkeypatch, steps, terminal=False) == [" 10% hashing", " 60% packing"]


def test_what_is_fetched_is_told_with_amounts_and_does_not_count_as_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with ProgressLine(show=True) as line:
        line.fetch("downloading k3s-arm64", None, "3 MB", None)
        line.fetch("downloading k3s-arm64", 0.5, "30 of 60 MB, 10.0 MB/s", 3.0)
        assert not line.used
    assert capsys.readouterr().err.split("\r\x1b[K")[1:] == [
        "downloading k3s-arm64: 3 MB",
        " 50% downloading k3s-arm64: 30 of 60 MB, 10.0 MB/s, 3 s left",
        "",
    ]


def test_counts_make_no_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    with ProgressLine(show=True) as line:
        for done in range(1, 10):
            line.fetch("downloading", done / 10, f"{done} of 10 MB", 1.0)
        for done in range(1, 10):
            line.update("unpacking", done / 10, f"{done} of 10")
    assert capsys.readouterr().err.splitlines() == [" 10% downloading", " 10% unpacking"]


def test_a_line_never_wraps(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    with ProgressLine(show=True) as line:
        line.update("x" * 200, 0.5)
    assert max(map(len, capsys.readouterr().err.split("\r\x1b[K"))) == 39


@pytest.mark.parametrize("terminal", [True, False])
def test_with_json_nothing_is_printed_and_steps_are_told_all_the_same(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    steps: list[str] = []
    with ProgressLine(show=False, on_step=steps.append) as line:
        line.fetch("downloading", 0.5, "1 of 2 MB", None)
        line.update("hashing", 0.1)
        line.update("hashing", 0.2)
    assert steps == ["downloading", "hashing"]
    assert capsys.readouterr().err == ""


def test_a_second_piece_of_work_is_measured_from_its_own_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [(0.0, "one", 0.5), (100.0, "one", 1.0), (101.0, "two", 0.1), (105.0, "two", 0.5)]
    assert told(capsys, monkeypatch, steps, terminal=True)[-1] == " 50% two, 5 s left"


@pytest.mark.parametrize(
    ("elapsed", "done", "rest", "left"),
    [(1.0, 0.5, 0.5, None), (60.0, 0.01, 0.99, None), (30.0, 0.25, 0.75, 90.0), (30.0, 1.0, 0.0, 0.0)],
)
def test_the_time_left_follows_from_what_was_done(
    elapsed: float, done: float, rest: float, left: float | None
) -> None:
    assert time_left_s(elapsed, done, rest) == left
