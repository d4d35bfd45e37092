"""The last lines that the agent logged, in memory: all that is left where the journal can not be read."""

from __future__ import annotations

import logging
from collections import deque

from agent.redact import redact

RING_LINES = 200
RING_LINE_CHARACTERS = 300


class Ring(logging.Handler):
    """The last lines that the agent logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=RING_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        # Cut behind: half a secret would not be known as one.
        self.lines.append(redact(self.format(record))[:RING_LINE_CHARACTERS])
