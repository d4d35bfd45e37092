"""A process that ends itself, as power does, at a chosen one of its operations on files and commands."""

from __future__ import annotations

import os
import signal
import sys

WATCHED = frozenset(
    (
        *("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.utime", "os.chmod"),
        *("fcntl.flock", "shutil.rmtree", "socket.connect", "subprocess.Popen", "tempfile.mkdtemp"),
    )
)
"""Audit events of Python that count as an operation."""


class Death:
    """Counts operations, and ends the process with SIGKILL at the wanted one; 0: it lives."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.count = 0

    def step(self) -> None:
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        """From now on; an audit hook stays as long as the process lives."""
        sys.addaudithook(lambda event, args: self.step() if event in WATCHED else None)
