"""Every event of every board passes here once: to the diagnosis, to the counters, and folded to the timeline.

Owns the clock of the diagnosis; the rules themselves are pure and stand in `pxe.diagnosis`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from pxe.diagnosis.engine import Diagnostician
from pxe.diagnosis.finding import Diagnosis
from pxe.diagnosis.history import BoardHistory
from pxe.events import BoardEvent, RepeatFilter
from pxe.net.sparse_log import SparseLog

log = logging.getLogger(__name__)

TICK_S: Final = 1.0


class Observer:
    """Takes events of all services of one server.

    Args:
        doctor: the diagnosis.
        on_event: gets what is worth a line, and what is for live displays; must not block.
        count: gets every event, repeats as well; for metrics.
    """

    def __init__(
        self,
        doctor: Diagnostician,
        on_event: Callable[[BoardEvent], None],
        count: Callable[[BoardEvent], None] = lambda _event: None,
    ) -> None:
        self.doctor = doctor
        self._on_event = on_event
        self.count = count
        self._repeats = RepeatFilter()
        self._fault_log = SparseLog(log)

    def report(self, event: BoardEvent) -> None:
        """Take an event. A fault of the diagnosis is logged; boards boot on."""
        try:
            self.count(event)
            self.doctor.observe(event)
        except Exception:
            self._fault("observe")
        self._pass_on(event)

    async def run(self) -> None:
        """Look at the boards once a second, until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            self.look(time.time())

    def look(self, now: float) -> None:
        """Let the rules run, and tell what they find."""
        found: list[Diagnosis] = []
        try:
            found = self.doctor.tick(now)
        except Exception:
            self._fault("rules")
        for diagnosis in found:
            self.count(diagnosis)
            self._pass_on(diagnosis)

    def find(self, key: str) -> BoardHistory | None:
        """What was seen of a board, by the eight digits of its serial or by its MAC address."""
        return self.doctor.notebook.find(key)

    def _pass_on(self, event: BoardEvent) -> None:
        shown = self._repeats.admit(event)
        if shown is not None:
            self._on_event(shown)

    def _fault(self, step: str) -> None:
        self._fault_log.write(logging.ERROR, "fault in the diagnosis", {"step": step}, traceback=True)
