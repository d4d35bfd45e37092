"""Child processes as the kernel lists them."""

from __future__ import annotations

import os
from pathlib import Path


def children(pid: int) -> list[int]:
    """Children of a process that runs: of all its threads."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += [int(child) for child in (task / "children").read_text(encoding="ascii").split()]
        except OSError:  # that thread ended as we looked
            continue
    return found


def tftp_workers(parent: int | None = None) -> list[int]:
    """Children of a process (this one) that are TFTP workers and live; one may end at any moment."""
    return [pid for pid in children(parent or os.getpid()) if b"pxe.tftp.process" in _command_line(pid)]


def _command_line(pid: int) -> bytes:
    """Empty where the process has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
