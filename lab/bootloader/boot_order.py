"""BOOT_ORDER: which boot mode is tried next.

Source: Raspberry Pi documentation, "BOOT_ORDER" (read 2026-11): a 32-bit number read from the least
significant nibble up.
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


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a boot mode, after a pause."""

    mode: BootMode
    pause_s: float = 0.0


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
        if modes[-1] in (BootMode.STOP, BootMode.RESTART):
            break
    return tuple(modes)


def network_first(disks: Sequence[DiskKind]) -> int:
    """BOOT_ORDER that asks the network, then the disks, then starts over: 0xf12 for one SD card."""
    modes = [BootMode.NETWORK, *(_MODE_OF_DISK[kind] for kind in disks), BootMode.RESTART]
    return sum(mode.value << 4 * place for place, mode in enumerate(modes))


def walk(boot_order: int, *, net_boot_max_retries: int = 0) -> Iterator[Attempt]:
    """All attempts of one power-on; without end where the order says RESTART.

    Args:
        boot_order: The number.
        net_boot_max_retries: Further tries of the network before the next mode; -1 is for ever.
    """
    modes = parse_boot_order(boot_order)
    if not any(mode not in (BootMode.STOP, BootMode.RESTART) for mode in modes):
        return
    while True:
        for mode in modes:
            if mode is BootMode.STOP:
                return
            if mode is BootMode.RESTART:
                break
            yield Attempt(mode)
            retries = 0
            while mode is BootMode.NETWORK and retries != net_boot_max_retries:
                retries += 1
                yield Attempt(mode, NET_RETRY_PAUSE_S)
        else:
            return
