"""What the demo shows: a live table on a terminal, a line per event elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fleet.spec.model import ClusterSpec
from lab.events import BoardEvent, EventKind

LINES_SHOWN: Final = 12
QUIET: Final = frozenset({EventKind.FILE_MISSING})
"""Events that the screen leaves out: a board asks for many files that need not be there."""
STATE_STYLES: Final = {
    "ready": "bold green",
    "pending": "yellow",
    "imaging": "cyan",
    "quarantined": "bold red",
}

Rows = Mapping[str, Mapping[str, Any]]


class Screen(Protocol):
    """Where the demo writes. `board_event` is called from the boards' threads."""

    def say(self, text: str) -> None: ...
    def progress(self, text: str, share: float) -> None: ...
    def board_event(self, event: BoardEvent) -> None: ...
    def watching(self, spec: ClusterSpec) -> contextlib.AbstractContextManager[None]: ...
    def show(self, rows: Rows) -> None: ...
    def summarise(self, rows: Sequence[tuple[str, str, str]]) -> None: ...


class PlainScreen:
    """One line per event, with seconds since the start: for logs and pipes."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._started = time.monotonic()
        self._last: dict[str, str] = {}
        self._last_progress = ""

    def say(self, text: str) -> None:
        self._console.print(f"{self._seconds():6.1f} s  {text}", markup=False)

    def progress(self, text: str, share: float) -> None:
        """A line per step; within a step, at every tenth."""
        line = f"{text} {share * 10:.0f}0 %"
        if line != self._last_progress:
            self._last_progress = line
            self.say(f"{text}: {share:.0%}")

    def board_event(self, event: BoardEvent) -> None:
        if event.kind not in QUIET:
            self.say(f"{event.board}: {event.text}")

    @contextlib.contextmanager
    def watching(self, spec: ClusterSpec) -> Iterator[None]:
        yield

    def show(self, rows: Rows) -> None:
        for name, node in rows.items():
            text = describe_row(node)
            if self._last.get(name) != text:
                self._last[name] = text
                self.say(f"{name}: {text}")

    def summarise(self, rows: Sequence[tuple[str, str, str]]) -> None:
        self._console.print(summary_table(rows))

    def _seconds(self) -> float:
        return time.monotonic() - self._started


class TableScreen:
    """A live table of the nodes with the last events below it; lines where there is no terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._plain = None if self._console.is_terminal else PlainScreen()
        self._started = time.monotonic()
        self._since: dict[str, tuple[str, float]] = {}
        self._lines: deque[str] = deque(maxlen=LINES_SHOWN)
        self._live: Live | None = None
        self._rows: Rows = {}
        self._spec: ClusterSpec | None = None

    def say(self, text: str) -> None:
        if self._plain is not None:
            self._plain.say(text)
        elif self._live is None:
            self._console.print(text, markup=False)
        else:
            self._lines.append(f"{self.seconds():6.1f} s  {text}")

    def progress(self, text: str, share: float) -> None:
        if self._plain is not None:
            self._plain.progress(text, share)
        else:
            self._console.print(Text(f"\r\x1b[2K{text}: {share:.0%}"), end="")
            if share >= 1:
                self._console.print()

    def board_event(self, event: BoardEvent) -> None:
        if self._plain is not None:
            self._plain.board_event(event)
        elif event.kind not in QUIET:
            self._lines.append(f"{self.seconds():6.1f} s  {event.board}: {event.text}")

    @contextlib.contextmanager
    def watching(self, spec: ClusterSpec) -> Iterator[None]:
        """The live table while the block runs."""
        self._spec = spec
        if self._plain is not None:
            yield
            return
        self._started = time.monotonic()
        with Live(self.render(), console=self._console, auto_refresh=False) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def show(self, rows: Rows) -> None:
        self._rows = rows
        if self._plain is not None:
            self._plain.show(rows)
        elif self._live is not None:
            self._live.update(self.render(), refresh=True)

    def summarise(self, rows: Sequence[tuple[str, str, str]]) -> None:
        self._console.print(summary_table(rows))

    def render(self) -> Group:
        """What the terminal shows now."""
        table = Table(expand=True)
        for heading in ("node", "board", "role", "phase", "%", "seconds", "k3s"):
            table.add_column(
                heading, justify="right" if heading in ("%", "seconds") else "left", no_wrap=True
            )
        now = time.monotonic()
        for name, node in self._rows.items():
            phase, percent = split_detail(node)
            state, since = self._since.get(name, ("", now))
            if state != phase:
                since = now
                self._since[name] = (phase, now)
            style = STATE_STYLES.get(node["state"], "")
            table.add_row(
                name,
                node["board"],
                node["role"],
                Text(phase, style=style),
                percent,
                f"{now - since:.0f}",
                node["k3s"],
            )
        lines = [Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in list(self._lines)]
        return Group(table, *lines)

    def seconds(self) -> float:
        """Since the boards were switched on."""
        return time.monotonic() - self._started


def split_detail(node: Mapping[str, Any]) -> tuple[str, str]:
    """A node's phase in words, and its percentage where the detail carries one: ("imaging: write", "40")."""
    detail = str(node["detail"])
    step, _, percent = (
        detail.removesuffix(" %").rpartition(" ") if detail.endswith(" %") else (detail, "", "")
    )
    return (f"{node['state']}: {step}" if step else str(node["state"])), percent


def describe_row(node: Mapping[str, Any]) -> str:
    """A node's row as one line."""
    phase, percent = split_detail(node)
    words = [phase, f"{percent} %" if percent else "", node["k3s"]]
    return "  ".join(word for word in words if word)


def summary_table(rows: Sequence[tuple[str, str, str]]) -> Table:
    """The closing summary."""
    table = Table(title="measured in this run")
    for heading in ("what", "measured", "limit"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for row in rows:
        table.add_row(*row)
    return table
