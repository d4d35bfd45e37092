"""The policy, and spans of time, in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_UNITS: Final = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"))


def span_text(seconds: float) -> str:
    """`40 s`, `15 min`, `2 h 30 min`, `3 d`: two units at most, the second only where it says something."""
    whole = max(int(seconds), 0)
    for place, (size, unit) in enumerate(_UNITS):
        count, rest = divmod(whole, int(size))
        if not count:
            continue
        if place + 1 == len(_UNITS):
            return f"{count} {unit}"
        smaller, name = _UNITS[place + 1]
        part = rest // int(smaller)
        return f"{count} {unit} {part} {name}" if part else f"{count} {unit}"
    return f"{whole} s"


def in_force_text(view: Mapping[str, Any]) -> str:
    """What Bramble does without anybody's word, in a sentence; of `PolicyDesk.view`."""
    what = "says what it would do (dry run)" if view["dry_run"] else "re-images failed nodes"
    windows = ", ".join(view["windows"]) or "at any time"
    if not view["when_failed"]:
        return "policy.reimage.when_failed is false: nothing is done without a person's word."
    return (
        f"Policy {what} after {span_text(view['after_s'])}, {view['max_parallel']} agent(s) at a time and "
        f"servers one by one; windows: {windows} ({view['zone']})."
    )
