"""What is to be said in the next report, and how much of it: a report that is too large is heard never.

The server takes 64 KiB. What goes into a problem is other programs' and the server's own words, of any
length, and what is noted while the server is away or lets nobody in may be noted thousands of times.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from agent.protocol import Problem
from agent.wire import encode

MAX_NOTES = 32
MAX_MESSAGE, MAX_HINT = 1500, 500
"""Characters, of which each takes up to 12 bytes: one problem always fits."""
MAX_LINES_BYTES = 18 * 1024
"""Of the lines of one problem, as JSON."""
MAX_PROBLEMS_BYTES = 44 * 1024
"""Of all problems of a report, as JSON; the rest of a report takes a few KiB."""


class Notes:
    """Waits for reports that were heard, the oldest first."""

    def __init__(self) -> None:
        self._waiting: list[Problem] = []

    def add(self, code: str, message: str, hint: str) -> None:
        """Say it in the next report. Where there are too many, an older one of the same code is dropped."""
        if len(self._waiting) >= MAX_NOTES:
            same = (index for index, known in enumerate(self._waiting) if known.code == code)
            del self._waiting[next(same, 0)]
        self._waiting.append(Problem(code, message, hint))

    def beside(self, problems: Iterable[Problem]) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
        """As many of the notes as there is room for beside `problems`, and as many of those as fit."""
        kept, left = fit(problems, MAX_PROBLEMS_BYTES)
        notes, _ = fit(self._waiting, left)
        return notes, kept

    def told(self, count: int) -> None:
        """The first notes were heard."""
        del self._waiting[:count]


def fit(problems: Iterable[Problem], room: int) -> tuple[tuple[Problem, ...], int]:
    """The first problems, shortened, as far as there is room for them in JSON; and the room that is left."""
    kept = []
    for problem in map(_shorten, problems):
        size = len(encode(problem)) + 1
        if size > room:
            break
        room -= size
        kept.append(problem)
    return tuple(kept), room


def _shorten(problem: Problem) -> Problem:
    """The cause stands at the end of a message of several lines (stderr), and at the beginning of others."""
    lines: list[str] = []
    size = 0
    for line in reversed(problem.lines):
        size += len(encode(Problem("", line, "")))
        if size > MAX_LINES_BYTES:
            break
        lines.append(line)
    return dataclasses.replace(
        problem,
        message=_cut(problem.message, MAX_MESSAGE),
        hint=_cut(problem.hint, MAX_HINT),
        lines=tuple(reversed(lines)),
    )


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    half = limit // 2 - 2
    return f"{text[:half]} […] {text[-half:]}"
