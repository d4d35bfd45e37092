"""What is said on stderr while something takes long."""

from __future__ import annotations

import pytest

from imagebuilder.cli import ProgressLine, time_left_s


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
