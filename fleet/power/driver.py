"""What every power driver is: three methods over one outlet, and one kind of error.

A driver is made for one outlet of one node and can not name another: no order reaches two.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from fleet.errors import FleetError


class PowerState(StrEnum):
    """What the device says of the outlet."""

    ON = "on"
    OFF = "off"
    UNKNOWN = "unknown"
    """It can not be asked."""


class PowerError(FleetError):
    """The device did not do it, or did not say so in words that can be believed."""


class PersonNeededError(PowerError):
    """Nothing switches this board but a hand."""


class PowerDriver(Protocol):
    """One outlet. A call ends within its own time limit and raises `PowerError` where it did not succeed."""

    async def on(self) -> None:
        """Give power. Repeating it changes nothing."""

    async def off(self) -> None:
        """Take it away. Repeating it changes nothing."""

    async def state(self) -> PowerState:
        """Ask the device; nothing changes."""
