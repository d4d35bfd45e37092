"""How often a board may lose its power: pure, over what was done to it lately.

A board that is cut while it starts never starts, and supplies, plugs and file systems wear with each cut.
Switching on is never refused: it ends whatever went before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

MIN_BETWEEN_S: Final = 60.0
"""A board needs that long to start at least."""
WINDOW_S: Final = 3600.0
MAX_IN_WINDOW: Final = 6
KEPT: Final = 12
"""Cuts that are remembered of one node."""


def refusal(cuts: Sequence[float], now: float) -> str | None:
    """Why the node's power may not be cut now; None: it may.

    Args:
        cuts: UTC seconds of those before. One of the future (the clock was set back) counts as just now.
    """
    ages = [max(now - cut, 0.0) for cut in cuts]
    if ages and min(ages) < MIN_BETWEEN_S:
        wait_s = MIN_BETWEEN_S - min(ages)
        return (
            f"its power was cut {min(ages):.0f} s ago; a board needs {MIN_BETWEEN_S:.0f} s to start, "
            f"so wait another {wait_s:.0f} s"
        )
    recent = [age for age in ages if age < WINDOW_S]
    if len(recent) >= MAX_IN_WINDOW:
        return (
            f"its power was cut {len(recent)} times within an hour: what is wrong with it is not mended by "
            f"that; the next cut is possible in {(WINDOW_S - max(recent)) / 60:.0f} min"
        )
    return None
