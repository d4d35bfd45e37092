"""Progress for the control server, from a thread of its own: a slow or absent server never slows the disk.

What waits to be sent is the newest progress of each step; at most one call a second, a step's first report
and a failure at once. The server can end the install: then `check` raises in the installer's thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from agent.client import Refused
from agent.errors import AgentError
from agent.protocol import InstallProgress, InstallStep

INTERVAL_S = 1.0
CLOSE_TIMEOUT_S = 10.0
INTENT_CLOSED = frozenset({401, 403, 409, 410})
"""Statuses that say: this install may not go on (intent closed or another session took it over)."""


class Reporter:
    """Sends progress while it is open. `send` is called from the reporter's thread only.

    Args:
        send: delivers one report; raises AgentError when it can not.
    """

    def __init__(
        self,
        send: Callable[[InstallProgress], None],
        *,
        interval_s: float = INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._interval_s = interval_s
        self._clock = clock
        self._pending: dict[InstallStep, InstallProgress] = {}
        self._closing = False
        self._ended: Refused | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)

    def __enter__(self) -> Reporter:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Deliver what waits, for a bounded time."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(CLOSE_TIMEOUT_S)

    def put(self, progress: InstallProgress) -> None:
        """Queue a report; an older one of the same step is replaced."""
        with self._changed:
            self._pending[progress.step] = progress
            self._changed.notify()

    def check(self) -> None:
        """Raise what the server answered if it closed the install."""
        if self._ended is not None:
            raise self._ended

    def _run(self) -> None:
        sent_at = float("-inf")
        sent_step: InstallStep | None = None
        while True:
            with self._changed:
                while True:
                    if self._pending:
                        progress = next(iter(self._pending.values()))
                        wait_s = sent_at + self._interval_s - self._clock()
                        if self._closing or progress.failed or progress.step is not sent_step or wait_s <= 0:
                            break
                        self._changed.wait(wait_s)
                    elif self._closing:
                        return
                    else:
                        self._changed.wait()
                del self._pending[progress.step]
            try:
                self._send(progress)
            except Refused as exc:
                if exc.status in INTENT_CLOSED:
                    self._ended = exc
                    return
            except AgentError:
                # The write goes on; the next report carries newer numbers anyway.
                pass
            sent_at, sent_step = self._clock(), progress.step
