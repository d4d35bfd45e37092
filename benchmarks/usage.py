"""What the processes of a server cost: processor time and memory, of all that it runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.measure import Row
from benchmarks.processes import process_tree

TICKS: Final = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process tree, and of its children that have ended and were waited for.

    Source: proc(5), /proc/pid/stat, fields 14–17 (utime, stime, cutime, cstime), in ticks.
    """
    total = 0
    for member in process_tree(pid):
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{member}/stat").read_text("ascii", "replace")
            total += sum(int(ticks) for ticks in stat.rpartition(")")[2].split()[11:15])
    return total / TICKS


class CpuLog:
    """Processor time of each subject in each round, beside what the table shows.

    Args:
        unmeasured: rounds at the beginning that do not count, as in `interleave`.
    """

    def __init__(self, unmeasured: int = 1) -> None:
        self._unmeasured = unmeasured
        self._samples: dict[str, list[float]] = {}

    def add(self, name: str, seconds: float, size_bytes: int) -> None:
        """One round: what it cost to send so much. The kernel counts in ticks: less than one is not known."""
        self._samples.setdefault(name, []).append(max(seconds, 1 / TICKS) / size_bytes * 1e9)

    def rows(self, names: Sequence[str], notes: dict[str, str] | None = None) -> tuple[Row, ...]:
        """Seconds of processor time for each GB."""
        return tuple(
            Row(
                name=name,
                samples=tuple(self._samples.get(name, [])[self._unmeasured :]),
                note=(notes or {}).get(name, ""),
            )
            for name in names
        )
