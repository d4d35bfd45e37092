"""How fast something goes and how long it will take. Pure: the caller says what time it is."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

WINDOW_S: Final = 10.0
"""The rate is that of the last ten seconds: it follows the network, and does not jump with each packet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchProgress:
    """A step forward in ``phase``. Bytes; ``total`` None where unknown; rate in bytes per second and the
    seconds left are None until they can be told."""

    phase: str
    done: int
    total: int | None
    rate: float | None = None
    left_s: float | None = None

    @property
    def share(self) -> float:
        """What is done, 0.0–1.0; 0.0 while the total is unknown."""
        return min(1.0, self.done / self.total) if self.total else 0.0

    @property
    def amounts(self) -> str:
        """How much of how much, and how fast: ``123 of 456 MB, 11.0 MB/s``."""
        text = f"{self.done / 1e6:.0f}"
        text += f" of {self.total / 1e6:.0f} MB" if self.total else " MB"
        return text if self.rate is None else f"{text}, {self.rate / 1e6:.1f} MB/s"

    def __str__(self) -> str:
        text = f"{self.phase}: {self.amounts}"
        if self.left_s is not None:
            minutes, seconds = divmod(round(self.left_s), 60)
            text += f", {minutes}:{seconds:02} left"
        return text


class Meter:
    """Turns byte counts into progress with rate and time left; one instance per phase."""

    def __init__(self, phase: str, now: float) -> None:
        self._phase = phase
        self._seen: deque[tuple[float, int]] = deque()
        self._start = now

    def at(self, done: int, total: int | None, now: float) -> FetchProgress:
        """Progress at ``now`` (seconds, monotonic). The first count is where it began: resumed bytes are not
        speed."""
        if not self._seen:
            self._seen.append((self._start, done))
        self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[1][0] < now - WINDOW_S:
            self._seen.popleft()
        (then, before) = self._seen[0]
        if now - then < 0.5 or done <= before:
            return FetchProgress(phase=self._phase, done=done, total=total)
        rate = (done - before) / (now - then)
        left = None if total is None else max(0, total - done) / rate
        return FetchProgress(phase=self._phase, done=done, total=total, rate=rate, left_s=left)
