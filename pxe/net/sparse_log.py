"""What strangers can cause is logged sparsely: whoever sends packets must not fill the disk with them."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Final

LOG_EVERY_S: Final = 60.0


class SparseLog:
    """Writes the first message, then at most one each minute, which says how many were held back.

    Args:
        log: where to.
        every_s: seconds between two messages.
    """

    def __init__(self, log: logging.Logger, every_s: float = LOG_EVERY_S) -> None:
        self._log = log
        self._every_s = every_s
        self._due = float("-inf")
        self._held_back = 0

    def write(
        self, level: int, message: str, fields: Mapping[str, object], *, traceback: bool = False
    ) -> None:
        """Log this, or count it.

        Args:
            level: of `logging`.
            message: a fixed text.
            fields: what else is known; ``held_back`` is added.
            traceback: with that of the exception that is being handled.
        """
        now = time.monotonic()
        if now < self._due:
            self._held_back += 1
            return
        self._log.log(level, message, extra={**fields, "held_back": self._held_back}, exc_info=traceback)
        self._due = now + self._every_s
        self._held_back = 0
