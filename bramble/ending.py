"""SIGTERM while a server starts: it ends then as cleanly as one that serves.

Python leaves SIGTERM to the kernel. A process dies of it with everything that it holds left lying, such as
the scratch files of half an image and the tool that works on them. Process 1 of a container does not even
die: the kernel passes it only signals that it has a handler for, so whoever stops the container waits for the
whole time of grace and kills it. Source: pid_namespaces(7), "The namespace init process".
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

PROCESS_1: Final = 1
ENDED: Final = 128 + signal.SIGTERM
"""Exit code, as a shell gives it for a process that died of the signal."""


def may_be_ended() -> None:
    """Let SIGTERM end this process where it is process 1, whichever command it runs.

    As early as can be: from here on the imports of a command take seconds on a small machine.
    """
    if os.getpid() == PROCESS_1 and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _unwind_with(ENDED))


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Within the block SIGTERM unwinds the stack and ends the process with code 0, as it ends a server. An
    event loop's own handler may take over and give back.

    It belongs into the main thread, as all handlers of signals do.
    """
    before = signal.signal(signal.SIGTERM, _unwind_with(0))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _unwind_with(code: int) -> Callable[[int, FrameType | None], None]:
    def end(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # another one must not cut the clean-up off
        raise SystemExit(code)

    return end
