"""The board's supply, looked at right before its disk is written: under a brown-out it is left as it is.

What the record says of a node's supply and storage is no gate here: a node's last system told it, perhaps of
the very supply or disk that a hand has replaced since. So the installer looks for itself. Where the kernel
has no reading (drivers that its initramfs lacks, virtual boards) nothing is known, and nothing is waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from agent.errors import AgentError
from agent.hardware import ROOT, read_text
from agent.health import Places, parse_throttled
from agent.join_gates import UNDER_VOLTAGE_NOW

LOOK_S: Final = 2.0
"""As often the driver of the voltage monitor asks the firmware. Source: Linux, drivers/hwmon,
raspberrypi-hwmon.c."""
GOOD_LOOKS: Final = 3
"""So many in a row, once it was low: a supply that recovers for an instant is weak still."""
PATIENCE_S: Final = 600.0
HINT: Final = "Use the board's own power supply or a stronger PoE port, and a short cable; unplug USB loads."


class Supply:
    """What this board's kernel tells of its supply."""

    def __init__(self, root: Path = ROOT) -> None:
        places = Places.find(root)
        self._throttled, self._alarm = places.throttled, places.under_voltage

    def is_low(self) -> bool | None:
        """Whether it is below 4.63 V at this moment; None: not known."""
        bits = None if self._throttled is None else parse_throttled(read_text(self._throttled) or "")
        alarm = None if self._alarm is None else read_text(self._alarm)
        if bits is None and alarm is None:
            return None
        return bool((bits or 0) & UNDER_VOLTAGE_NOW) or alarm == "1"


def await_supply(
    is_low: Callable[[], bool | None],
    *,
    note: Callable[[str], None],
    check: Callable[[], None],
    sleep: Callable[[float], None],
    clock: Callable[[], float],
) -> None:
    """Return when the supply is not low; at once where it is well, or not known.

    Args:
        note: Told that it waits, and that it goes on.
        check: Called while it waits; raises where the server ended the installation.

    Raises:
        AgentError: It was low for `PATIENCE_S`; nothing was written.
    """
    if not is_low():
        return
    note(f"waits, nothing is written: the supply voltage is below 4.63 V. {HINT}")
    end, good = clock() + PATIENCE_S, 0
    while good < GOOD_LOOKS:
        if clock() >= end:
            raise AgentError(
                f"the supply voltage was below 4.63 V for {PATIENCE_S / 60:.0f} minutes; nothing was written",
                HINT,
            )
        check()
        sleep(LOOK_S)
        good = 0 if is_low() else good + 1
    note("the supply voltage is right again, it goes on")
