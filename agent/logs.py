"""Log lines for the control server, on request: the journal's of our units, bounded and without secrets.

The agent's own last lines are kept in memory too, for a node whose journal can not be read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from agent.commands import CommandError, Runner
from agent.errands import MAX_LOG_BYTES, MAX_LOG_LINES, Errand, LogUpload
from agent.redact import redact_lines
from agent.ring import Ring

UNITS = ("bramble-agent.service", "k3s.service", "k3s-agent.service")
MAX_LINE_CHARACTERS = 2000
CURSOR_PREFIX = "-- cursor: "
"""What `journalctl --show-cursor` puts before the cursor, on the last line. Source: journalctl(1)."""


def collect(errand: Errand, run: Runner, ring: Ring) -> LogUpload:
    """The lines that an errand asks for; the newest where there are too many."""
    wanted = min(max(errand.lines, 1), MAX_LOG_LINES)
    argv = ["journalctl", "--no-pager", "--output=short-iso", "--show-cursor", f"--lines={wanted}"]
    argv += [f"--unit={unit}" for unit in UNITS]
    argv += [f"--after-cursor={errand.cursor}"] if errand.cursor else ["--boot"]
    try:
        lines, cursor = split_cursor(run(argv).text.splitlines())
        source = "journal"
    except CommandError:
        lines, cursor, source = list(ring.lines)[-wanted:], "", "memory"
    kept, dropped = fit([line[:MAX_LINE_CHARACTERS] for line in redact_lines(lines)])
    return LogUpload(errand.number, tuple(kept), cursor or errand.cursor, dropped, source)


def split_cursor(lines: Sequence[str]) -> tuple[list[str], str]:
    """The journal's lines and the cursor behind them; no lines at all are told by a line of their own."""
    found = [line for line in lines if not line.startswith("-- ")]
    cursors = [line.removeprefix(CURSOR_PREFIX) for line in lines if line.startswith(CURSOR_PREFIX)]
    return found, cursors[-1].strip() if cursors else ""


def fit(lines: Sequence[str]) -> tuple[list[str], int]:
    """The newest lines that fit into one upload, and how many did not."""
    size, kept = 0, 0
    for line in reversed(lines):
        size += len(json.dumps(line)) + 1
        if size > MAX_LOG_BYTES:
            break
        kept += 1
    return list(lines[len(lines) - kept :]), len(lines) - kept
