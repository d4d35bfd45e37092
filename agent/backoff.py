"""Waiting times between attempts: exponential with jitter, so that forty boards do not ask in step."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """`first_s`, then twice as long each time up to `cap_s`; every value is scaled by 0.5 to 1.0."""

    first_s: float = 1.0
    cap_s: float = 60.0
    jitter: Callable[[], float] = random.random
    """Values in [0, 1); a test gives a constant."""

    def delays(self) -> Iterator[float]:
        """An endless row of seconds to wait."""
        delay_s = self.first_s
        while True:
            yield delay_s * (0.5 + self.jitter() / 2)
            delay_s = min(delay_s * 2, self.cap_s)
