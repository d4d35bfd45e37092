"""From the worker to its parent: what became of requests, as events, in batches that never block the
worker."""

from __future__ import annotations

import contextlib
import select
import time
from collections import deque
from dataclasses import dataclass, fields, replace
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


@dataclass(slots=True, kw_only=True)
class TftpCounters:
    """What a worker did since it started, and what it has to do now; for metrics.

    Args:
        active: transfers under way.
        waiting: requests in the queue.
        started, finished, probed, failed: transfers.
        sent_bytes: acknowledged by clients.
        missing: requests that were answered "not found".
        malformed: datagrams that were no requests.
        dropped: requests without an answer: the queue or the process was full.
        expired: requests that waited for longer than a client does.
        broken: transfers and requests that ended in a mistake of ours; the log has it.
    """

    active: int = 0
    waiting: int = 0
    started: int = 0
    finished: int = 0
    probed: int = 0
    failed: int = 0
    sent_bytes: int = 0
    missing: int = 0
    malformed: int = 0
    dropped: int = 0
    expired: int = 0
    broken: int = 0

    def count(self, outcome: Outcome, sent_bytes: int) -> None:
        """A transfer has ended."""
        self.sent_bytes += sent_bytes
        match outcome:
            case Finished():
                self.finished += 1
            case Probed():
                self.probed += 1
            case Failed():
                self.failed += 1

    def add(self, other: TftpCounters) -> None:
        """Sum up several workers."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


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
        self._counters: TftpCounters | None = None
        self.dropped = 0

    def count(self, counters: TftpCounters) -> None:
        """Send the counters when they have changed and the parent takes something."""
        if counters != self._counters and select.select([], [self._parent], [], 0)[1]:
            self._counters = replace(counters)
            with contextlib.suppress(OSError):  # `flush` notices
                self._parent.send(self._counters)

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
