"""What a command says on stderr while it works: one line with what is done, how fast, and what time is left.

On a terminal the line is written over and over. Elsewhere (a log, a pipe, the journal) each step has one line
when it begins, and nothing is said in between.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import Final, Self

import click

SETTLED_S: Final = 3.0
SETTLED_SHARE: Final = 0.03
"""Sooner than that, the time that is left would jump about."""


class ProgressLine:
    """One line of progress. Silent until work begins, and when it has ended nothing of it is left.

    Args:
        show: False: nothing is printed, as with `--json`.
        on_step: Told each step when it begins, whether it is printed or not.
    """

    def __init__(
        self,
        *,
        show: bool,
        clock: Callable[[], float] = time.monotonic,
        on_step: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.used = False
        self._clock = clock
        self._on_step = on_step
        self._started: tuple[float, float] | None = None
        self._show = show
        self._step = ""
        self._last = ""
        self._terminal = sys.stderr.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def clear(self) -> None:
        """Wipe the line, so that something else can be printed; the next word of progress writes it again."""
        if self._terminal and self._last:
            click.echo("\r\x1b[K", nl=False, err=True)
        self._last = ""

    def update(self, text: str, share: float, items: str = "") -> None:
        """Work on the thing itself; `share` of it is done, 0.0–1.0, and the time left follows from that.

        Args:
            items: how many of how many, for a terminal.
        """
        self.used = self.used or share > 0
        if not self.used:
            return
        now = self._clock()
        if self._started is None or share < self._started[1]:
            self._started = now, share  # another piece of work begins
        began, before = self._started
        left_s = time_left_s(now - began, share - before, 1 - share)
        self._print(text, f"{share:4.0%} {text}", f" ({items})" if items else "", left_s)

    def fetch(self, text: str, share: float | None, amounts: str, left_s: float | None) -> None:
        """Something that the work needs is brought here.

        Args:
            text: what; the same from its beginning to its end.
            share: of it that is there; None where nobody knows how much it is.
            amounts: bytes and rate, for a terminal.
        """
        head = "" if share is None else f"{share:4.0%} "
        self._print(text, f"{head}{text}", f": {amounts}", left_s)

    def _print(self, step: str, line: str, detail: str, left_s: float | None) -> None:
        is_new = step != self._step
        if is_new:
            self._step = step
            self._on_step(step)
        if not self._show:
            return
        if not self._terminal:
            if is_new:
                click.echo(line, err=True)
            return
        rest = "" if left_s is None else f", {_duration(left_s)} left"
        line = f"{line}{detail}{rest}"[
            : shutil.get_terminal_size().columns - 1
        ]  # one that wraps is not wiped
        if line != self._last:
            self._last = line
            click.echo(f"\r\x1b[K{line}", nl=False, err=True)


def time_left_s(elapsed_s: float, done: float, rest: float) -> float | None:
    """How long `rest` of the work will take, when `done` of it took so long; None while that is a guess."""
    if elapsed_s < SETTLED_S or done < SETTLED_SHARE:
        return None
    return elapsed_s * rest / done


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
