"""What a virtual board tells about itself, in words for a person and kinds for a program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class EventKind(StrEnum):
    """Kinds of events; the first group comes from the bootloader, the second from the machine behind it."""

    DHCP_DISCOVER = "dhcp-discover"
    DHCP_OFFER = "dhcp-offer"
    DHCP_BOUND = "dhcp-bound"
    FILE_FETCHED = "file-fetched"
    FILE_MISSING = "file-missing"
    MODE_STARTED = "mode-started"
    MODE_FAILED = "mode-failed"
    EEPROM_PROBLEM = "eeprom-problem"
    """A line of the EEPROM's configuration that has no effect."""
    STUCK = "stuck"
    """The firmware stopped with an error; only a power cycle helps."""

    POWERED_ON = "powered-on"
    KERNEL_STARTED = "kernel-started"
    PANIC = "panic"
    REBOOTED = "rebooted"
    POWERED_OFF = "powered-off"
    """The guest shut itself down."""
    POWER_CUT = "power-cut"
    BROKEN = "broken"
    """The lab itself failed: QEMU ended with an error, a tool is missing. Not something a board does."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing that the bootloader did or saw."""

    kind: EventKind
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardEvent:
    """One event of one board.

    Attributes:
        board: The board's name in the lab.
        at: `time.monotonic()` seconds.
    """

    board: str
    kind: EventKind
    text: str
    at: float


EventHandler = Callable[[BoardEvent], None]
"""Called on the board's own thread, so it must be quick and safe to call from there."""
