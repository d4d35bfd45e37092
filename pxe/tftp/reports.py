"""From the worker to its parent: what became of requests, as events, in batches that never block the
worker."""

from __future__ import annotations

import select
import time
from collections import deque
from multiprocessing.connection import Connection
from typing import Final

from pxe.boot.routes import Route, explain_missing
from pxe.events import (
    BoardEvent,
    BootFile,
    BootFileMissing,
    BootFileProbed,
    BootProgress,
    TransferFailed,
    TransferStatistics,
)
from pxe.tftp.session import Failed, Finished, Outcome, Probed

# Pickled, about 16 kB: a pipe that can be written at all takes that without waiting.
EVENTS_PER_BATCH: Final = 32
EVENTS_HELD: Final = 8192
EVENT_DELAY_S: Final = 0.05


class EventPipe:
    """Holds events until a batch is full or 50 ms are over.

    Args:
        parent: the pipe; stays the worker's own.

    Attributes:
        dropped: events that the parent was too slow to take.
    """

    def __init__(self, parent: Connection) -> None:
        self._parent = parent
        self._events: deque[BoardEvent] = deque()
        self._due = 0.0
        self.dropped = 0

    def add(self, event: BoardEvent) -> None:
        """Send this with the next batch."""
        if len(self._events) >= EVENTS_HELD:
            self.dropped += 1
            return
        if not self._events:
            self._due = time.monotonic() + EVENT_DELAY_S
        self._events.append(event)

    def next_timeout(self) -> float | None:
        """When `flush` wants to be called."""
        return self._due if self._events else None

    def flush(self, *, all_now: bool = False) -> None:
        """Send what is due, or everything.

        Raises:
            OSError: the parent is gone.
        """
        while self._events and (
            all_now or len(self._events) >= EVENTS_PER_BATCH or time.monotonic() >= self._due
        ):
            if not all_now and not select.select([], [self._parent], [], 0)[1]:
                self._due = time.monotonic() + EVENT_DELAY_S  # the parent is busy
                return
            self._parent.send(
                [self._events.popleft() for _ in range(min(len(self._events), EVENTS_PER_BATCH))]
            )


def outcome_event(
    found: Route, outcome: Outcome, seconds: float, statistics: TransferStatistics
) -> BoardEvent:
    """What became of a transfer."""
    at, board, node, name = time.time(), found.board, _node_name(found), found.name
    match outcome:
        case Finished(size):
            return BootFile(
                at=at,
                board=board,
                node=node,
                name=name,
                size_bytes=size,
                seconds=seconds,
                statistics=statistics,
            )
        case Probed(size):
            return BootFileProbed(at=at, board=board, node=node, name=name, size_bytes=size)
        case Failed(reason, sent, size):
            return TransferFailed(
                at=at,
                board=board,
                node=node,
                name=name,
                sent_bytes=sent,
                size_bytes=size,
                reason=reason,
                seconds=seconds,
                statistics=statistics,
            )


def progress_event(found: Route, sent_bytes: int, size_bytes: int) -> BoardEvent:
    """How far a transfer is."""
    return BootProgress(
        at=time.time(),
        board=found.board,
        node=_node_name(found),
        name=found.name,
        sent_bytes=sent_bytes,
        size_bytes=size_bytes,
    )


def missing_event(found: Route) -> BoardEvent:
    """A request was answered "not found"."""
    return BootFileMissing(
        at=time.time(),
        board=found.board,
        node=_node_name(found),
        name=found.name,
        reason=explain_missing(found),
    )


def _node_name(found: Route) -> str | None:
    return found.node.name if found.node is not None else None
