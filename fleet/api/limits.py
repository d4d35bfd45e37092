"""How often one source may ask.

Pure: a token bucket per source, with a bound on how many sources are remembered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_SOURCES: Final = 4096


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class RateLimit:
    """Lets `burst` requests of a source through at once, then `per_second`."""

    def __init__(self, *, burst: int, per_second: float) -> None:
        self._burst = float(burst)
        self._per_second = per_second
        self._buckets: dict[str, _Bucket] = {}

    def allows(self, source: str, now: float) -> bool:
        """Take one token of `source`, if it has one. `now` is in seconds of any steady clock."""
        bucket = self._buckets.get(source)
        if bucket is None:
            self._make_room(now)
            bucket = self._buckets[source] = _Bucket(self._burst, now)
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.at) * self._per_second)
        bucket.at = now
        if bucket.tokens < 1.0:
            return False
        bucket.tokens -= 1.0
        return True

    def _make_room(self, now: float) -> None:
        """Forget sources whose bucket is full again: they are indistinguishable from new ones."""
        if len(self._buckets) < MAX_SOURCES:
            return
        refill_s = self._burst / self._per_second
        self._buckets = {name: item for name, item in self._buckets.items() if now - item.at < refill_s}
        while len(self._buckets) >= MAX_SOURCES:
            self._buckets.pop(next(iter(self._buckets)))
