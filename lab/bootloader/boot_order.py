"""BOOT_ORDER: which boot mode is tried next.

Source: Raspberry Pi documentation, "BOOT_ORDER" (read 2026-11): a 32-bit number read from the least
significant nibble up; release notes of 2020-06-03 (unknown nibbles, the pause) and 2024-05-17 (MAX_RESTARTS).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from fleet.boards import BootMode, DiskKind

MAX_BOOT_ORDER: Final = 0xFFFF_FFFF
NET_RETRY_PAUSE_S: Final = 5.0
"""Pause before the network mode is tried again (release note of 2020-06-03)."""

DISK_MODES: Final = {
    BootMode.SD: DiskKind.SD,
    BootMode.NVME: DiskKind.NVME,
    BootMode.USB_MSD: DiskKind.USB,
    BootMode.BCM_USB_MSD: DiskKind.USB,
}
"""Boot modes that read a disk."""

_MODE_OF_DISK: Final = {
    DiskKind.SD: BootMode.SD,
    DiskKind.NVME: BootMode.NVME,
    DiskKind.USB: BootMode.USB_MSD,
}
_ENDS: Final = (BootMode.STOP, BootMode.RESTART)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a boot mode.

    Attributes:
        mode: Which.
        pause_s: Before it.
        rest: The order that is left after this mode, as the firmware prints it.
        begins_round: Whether it is the first one after a start or a RESTART.
    """

    mode: BootMode
    pause_s: float = 0.0
    rest: int = 0
    begins_round: bool = False


class RestartsUsedUpError(Exception):
    """RESTART was met more often than MAX_RESTARTS allows: the watchdog resets the board."""


def parse_boot_order(value: int) -> tuple[BootMode, ...]:
    """The modes of a BOOT_ORDER in the order in which they are tried, up to the one that ends the list.

    A nibble without a meaning counts as SD (release note of 2020-06-03).

    Raises:
        ValueError: The number is zero or has more than 32 bits.
    """
    if not 0 < value <= MAX_BOOT_ORDER:
        raise ValueError(f"BOOT_ORDER {value:#x} is not a number of one to eight hexadecimal digits")
    known = {mode.value: mode for mode in BootMode}
    modes: list[BootMode] = []
    while value:
        modes.append(known.get(value & 0xF, BootMode.SD))
        value >>= 4
        if modes[-1] in _ENDS:
            break
    return tuple(modes)


def network_first(disks: Sequence[DiskKind]) -> int:
    """BOOT_ORDER that asks the network, then the disks, then starts over: 0xf12 for one SD card."""
    modes = [BootMode.NETWORK, *(_MODE_OF_DISK[kind] for kind in disks), BootMode.RESTART]
    return sum(mode.value << 4 * place for place, mode in enumerate(modes))


def walk(
    boot_order: int,
    *,
    net_boot_max_retries: int = 0,
    sd_boot_max_retries: int = 0,
    max_restarts: int = -1,
) -> Iterator[Attempt]:
    """All attempts of one power-on; without end where the order says RESTART.

    Args:
        boot_order: The number.
        net_boot_max_retries: Further tries of the network before the next mode; -1 is for ever.
        sd_boot_max_retries: The same for the SD card, without a pause.
        max_restarts: How often RESTART may start over; -1 is without end.

    Raises (when run):
        RestartsUsedUpError: RESTART is met once more than that.
    """
    modes = parse_boot_order(boot_order)
    if not any(mode not in _ENDS for mode in modes):
        return
    restarts = 0
    while True:
        for place, mode in enumerate(modes):
            if mode is BootMode.STOP:
                return
            if mode is BootMode.RESTART:
                break
            rest = boot_order >> 4 * (place + 1)
            yield Attempt(mode, rest=rest, begins_round=place == 0)
            retries = 0
            while mode is BootMode.NETWORK and retries != net_boot_max_retries:
                retries += 1
                yield Attempt(mode, NET_RETRY_PAUSE_S, rest)
            while mode is BootMode.SD and retries != sd_boot_max_retries:
                retries += 1
                yield Attempt(mode, 0.0, rest)
        else:
            return
        if restarts == max_restarts:
            raise RestartsUsedUpError(f"RESTART {restarts + 1} times, MAX_RESTARTS is {max_restarts}")
        restarts += 1
