"""Files that a bootloader can not take, known before it tries: block numbers, time, and boot.img's limit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from fleet.boards import Soc
from pxe.diagnosis.era import BLKSIZE_1468_SINCE, NEW_BLKSIZE, OLD_BLKSIZE, ROLLOVER_SINCE, BootloaderAge
from pxe.events import format_bytes

LARGEST_BLOCK_COUNT: Final = 65_535
"""Block numbers have 16 bits (RFC 1350 §5); bootloaders before 2025-09-23 do not go on with 0."""
BLOCK_SIZES: Final = (512, OLD_BLKSIZE, NEW_BLKSIZE)
TFTP_FILE_TIMEOUT_S: Final = 30.0
"""One file, default of the EEPROM. Source: Raspberry Pi documentation, EEPROM bootloader,
TFTP_FILE_TIMEOUT.
"""
SLOW_RATE: Final = {Soc.BCM2711: 1_700_000, Soc.BCM2712: 3_300_000}
"""Bytes a second over TFTP, the slowest that was reported of a sound network (rpi-eeprom issues 87 and
857).
"""
BOOT_IMG_BYTES: Final = 96 * 1000 * 1000
"""What the documentation allows for boot.img; bootloaders since 2022-03-10 take 128 MB on BCM2711."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeWarning:
    """A file that some bootloader will not take.

    Args:
        certain: False where it depends on a date or a rate that is not known.
    """

    name: str
    size_bytes: int
    text: str
    mend: str
    certain: bool


def rollover_block_bytes(sent_bytes: int) -> int | None:
    """The block size with which a transfer that ended here ended at the last block number; None for no such.

    A server may have sent one block more than the client counted.
    """
    for size in BLOCK_SIZES:
        if sent_bytes and sent_bytes % size == 0 and 0 <= sent_bytes // size - LARGEST_BLOCK_COUNT <= 1:
            return size
    return None


def check_sizes(
    files: Iterable[tuple[str, int]],
    soc: Soc,
    age: BootloaderAge | None = None,
    rate: float | None = None,
) -> list[SizeWarning]:
    """What is too large among the files that a board reads over TFTP.

    Args:
        files: name and size in bytes.
        soc: of the board.
        age: of its bootloader, as far as observed.
        rate: bytes a second, as observed; the slowest reported one where nothing was observed.
    """
    age = age or BootloaderAge()
    found: list[SizeWarning] = []
    for name, size in files:
        found += (warning for warning in _check(name, size, soc, age, rate) if warning is not None)
    return found


def _check(
    name: str, size: int, soc: Soc, age: BootloaderAge, rate: float | None
) -> tuple[SizeWarning | None, ...]:
    return _check_blocks(name, size, soc, age), _check_time(name, size, soc, rate), _check_ramdisk(name, size)


def _check_blocks(name: str, size: int, soc: Soc, age: BootloaderAge) -> SizeWarning | None:
    """Last block number. A file of exactly that many full blocks needs one more, empty, to end."""
    if not age.may_be_before(ROLLOVER_SINCE):
        return None
    may_be_1024 = soc is Soc.BCM2711 and age.may_be_before(BLKSIZE_1468_SINCE)
    for block, applies in ((NEW_BLKSIZE, True), (OLD_BLKSIZE, may_be_1024)):
        if applies and size >= LARGEST_BLOCK_COUNT * block:
            since = ROLLOVER_SINCE if block == NEW_BLKSIZE else BLKSIZE_1468_SINCE
            return SizeWarning(
                name=name,
                size_bytes=size,
                text=f"{name} has {format_bytes(size)}; a bootloader older than {since} stops after "
                f"{format_bytes(LARGEST_BLOCK_COUNT * block)} (65,535 blocks of {block} bytes)",
                mend="Update the board's EEPROM ('sudo rpi-eeprom-update -a'), or make the file smaller.",
                certain=age.is_certainly_before(since),
            )
    return None


def _check_time(name: str, size: int, soc: Soc, rate: float | None) -> SizeWarning | None:
    speed = rate or SLOW_RATE[soc]
    needed_s = size / speed
    if needed_s < TFTP_FILE_TIMEOUT_S:
        return None
    measured = "as measured with this board" if rate else f"the slowest rate reported of a {soc.name} board"
    return SizeWarning(
        name=name,
        size_bytes=size,
        text=f"{name} has {format_bytes(size)} and needs {needed_s:.0f} s at {format_bytes(int(speed))}/s "
        f"({measured}); a bootloader gives one file {TFTP_FILE_TIMEOUT_S:.0f} s",
        mend="Set TFTP_FILE_TIMEOUT=60000 in the EEPROM ('bramble eeprom config'), or make the file smaller.",
        certain=rate is not None,
    )


def _check_ramdisk(name: str, size: int) -> SizeWarning | None:
    if PurePosixPath(name).name != "boot.img" or size <= BOOT_IMG_BYTES:
        return None
    return SizeWarning(
        name=name,
        size_bytes=size,
        text=f"{name} has {format_bytes(size)}; bootloaders take {format_bytes(BOOT_IMG_BYTES)} for sure, "
        "newer ones of BCM2711 boards 128 MB",
        mend="Leave the other boards' files out of it ('bramble boot-image --board').",
        certain=False,
    )
