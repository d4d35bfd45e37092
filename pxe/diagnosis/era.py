"""How old is a board's bootloader? It never says so; what it says otherwise has changed over the years.

Sources: the release notes of raspberrypi/rpi-eeprom for BCM2711 and BCM2712, by the dates named below.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Final

from fleet.boards import Soc
from pxe.boot.identity import LEGACY_STYLE, BoardIdentity

GUID_SINCE: Final = date(2020, 3, 11)  # option 97 with model and serial; the serial four times before
BLKSIZE_1468_SINCE: Final = date(2022, 10, 3)  # a beta; the release followed in December
PI5_FOURCC_SINCE: Final = date(2023, 10, 30)  # a Pi 5 called itself a Pi 4 before
ROLLOVER_SINCE: Final = date(2025, 9, 23)  # block numbers go on after 65,535
WATCHDOG_SINCE: Final = {Soc.BCM2711: date(2025, 7, 3), Soc.BCM2712: date(2025, 6, 20)}
PHY_WAKE_SINCE: Final = date(
    2022, 4, 22
)  # Pi 4 revision 1.1 wakes its network chip after Linux 5.16 and later

OLD_BLKSIZE: Final = 1024
NEW_BLKSIZE: Final = 1468
_PI4_FOURCCS: Final = ("RPi4", "4iPR")


@dataclass(frozen=True, slots=True, kw_only=True)
class BootloaderAge:
    """Bounds of the date of a bootloader; None where nothing is known.

    Args:
        since: it is of this day or newer.
        before: it is older than this day.
        signs: what shows it, for people.
    """

    since: date | None = None
    before: date | None = None
    signs: tuple[str, ...] = ()

    def is_certainly_before(self, day: date) -> bool:
        """Whether the bootloader is older than `day` for sure."""
        return self.before is not None and self.before <= day

    def may_be_before(self, day: date) -> bool:
        """Whether nothing rules out that it is older than `day`."""
        return self.since is None or self.since < day

    def describe(self) -> str:
        """``before 2022-10-03``, ``2022-10-03 or later``, ``of unknown age``."""
        if self.before is not None:
            return f"before {self.before}"
        return f"{self.since} or later" if self.since is not None else "of unknown age"


def age_of(board: BoardIdentity, blksize: int | None = None) -> BootloaderAge:
    """The age of a board's bootloader, by what it said.

    Args:
        board: with the spelling of option 97.
        blksize: what it asked for over TFTP, bytes; None where nothing was seen.
    """
    since: list[date] = []
    before: list[date] = []
    signs: list[str] = []
    if board.eeprom_style == LEGACY_STYLE:
        before.append(GUID_SINCE)
        signs.append("option 97 holds the serial four times (or DHCP_OPTION97=0 is set)")
    elif board.eeprom_style:
        since.append(GUID_SINCE)
    if board.family is Soc.BCM2712 and board.eeprom_style:
        if board.eeprom_style in _PI4_FOURCCS:
            before.append(PI5_FOURCC_SINCE)
            signs.append(f"a Pi 5 that calls itself {board.eeprom_style} in option 97")
        else:
            since.append(PI5_FOURCC_SINCE)
    if blksize == OLD_BLKSIZE:
        before.append(BLKSIZE_1468_SINCE)
        signs.append("TFTP blocks of 1,024 bytes")
    elif blksize == NEW_BLKSIZE and board.family is not Soc.BCM2712:
        since.append(BLKSIZE_1468_SINCE)
        signs.append("TFTP blocks of 1,468 bytes")
    return BootloaderAge(since=max(since, default=None), before=min(before, default=None), signs=tuple(signs))
