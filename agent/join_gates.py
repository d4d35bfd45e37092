"""What keeps k3s from starting on this node for now, and how fast the disk is that etcd would write to.

k3s that starts with a wrong clock, without the memory cgroup or on a sagging supply fails later and
elsewhere, with a text that names something else. So it is not started, and the reason is told.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from pathlib import Path
from typing import BinaryIO

from agent.health import find_missing_cgroup
from agent.protocol import Problem

UNDER_VOLTAGE_NOW = 0x1
"""get_throttled bit 0. Source: Raspberry Pi documentation, vcgencmd get_throttled."""

SYNC_WRITE_BYTES = 2300
"""About one entry of etcd's log. Source: etcd documentation, "Hardware", its fio measurement."""
SYNC_WRITES = 100
SYNC_BUDGET_S = 1.0
"""A join is not kept waiting for longer; a disk so slow that few writes fit is told by those."""
MIN_SYNC_WRITES = 5


def find_gates(root: Path, wrong_clock: Problem | None, throttled: int | None) -> tuple[Problem, ...]:
    """Every reason not to start k3s now; empty: it may start."""
    found = (find_missing_cgroup(root), wrong_clock, find_under_voltage(throttled))
    return tuple(problem for problem in found if problem is not None)


def find_under_voltage(throttled: int | None) -> Problem | None:
    """The supply is too weak at this moment: what is written now may be written wrong."""
    if throttled is None or not throttled & UNDER_VOLTAGE_NOW:
        return None
    return Problem(
        code="under_voltage",
        message=f"the supply voltage is below 4.63 V at this moment (throttled 0x{throttled:x})",
        hint="Use the board's own power supply and a short cable; joining goes on when the voltage is right.",
    )


def find_data_disk(root: Path) -> Path:
    """The directory that is there and nearest to k3s's data."""
    wanted = root / "var/lib/rancher/k3s"
    return next((path for path in (wanted, *wanted.parents) if path.is_dir()), root)


def _nameless_file(directory: Path) -> BinaryIO:
    """A file that is gone when it is closed, also by a power cut. Source: open(2), O_TMPFILE."""
    return os.fdopen(os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), "wb", buffering=0)


def measure_sync_ms(directory: Path) -> float | None:
    """Milliseconds that 99 of 100 synced writes take at most; None where it can not be measured.

    Writes a quarter of a MiB at most, to a file that has no name when this ends.
    """
    taken: list[float] = []
    block = b"\x5a" * SYNC_WRITE_BYTES
    # Not with `tempfile`: it brings half a MiB of compressors with it.
    with contextlib.suppress(OSError), _nameless_file(directory) as file:
        end = time.monotonic() + SYNC_BUDGET_S
        while len(taken) < SYNC_WRITES and (time.monotonic() < end or len(taken) < MIN_SYNC_WRITES):
            file.write(block)
            before = time.monotonic()
            os.fdatasync(file.fileno())
            taken.append((time.monotonic() - before) * 1000)
    return percentile(taken, 0.99)


def percentile(values: list[float], share: float) -> float | None:
    """The smallest value that `share` of all values do not exceed; None of nothing."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
