"""How much of what nodes cause a timeline keeps: one that reports nonsense for ever must not fill the disk.

Boot lines have a limit of their own (`fleet.boots`). Alarms, admissions and the audit are kept: a node must
not be able to push out what tells against it.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from fleet.ground import Ground
from fleet.timeline import Kind

LIMITED: Final = frozenset({Kind.JOIN, Kind.STATE, Kind.HEALTH, Kind.AGENT, Kind.INSTALL})
MAX_NODE_EVENTS: Final = 3000
"""Lines of one kind that a node's timeline keeps, the newest."""
INTERVAL_S: Final = 60.0


class TimelineLimit:
    """Looks once a minute at what was written since, and deletes where it is too much."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._looked_at = float("-inf")
        self._last = 0
        self._kept: Counter[tuple[str, str]] = Counter()
        """Lines of each node and kind; no fewer than there are."""

    def tick(self) -> None:
        """Apply the limit, if it is time."""
        now = self._ground.clock()
        if 0 <= now - self._looked_at < INTERVAL_S:
            return
        self._looked_at = now
        with self._ground.store.read() as reader:
            newest, written = reader.events_since(self._last)
        kept = self._kept + Counter({key: count for key, count in written.items() if key[1] in LIMITED})
        too_many = [key for key, count in kept.items() if count > MAX_NODE_EVENTS]
        if too_many:
            with self._ground.store.write() as tx:
                for node, kind in too_many:
                    tx.trim_events(node, kind, MAX_NODE_EVENTS)
        # From here on nothing fails: where the disk was full, the next look counts the same again.
        self._kept, self._last = kept, newest
        for key in too_many:
            self._kept[key] = MAX_NODE_EVENTS
