"""The disk modes: which partition is booted (autoboot.txt, PARTITION, a reboot's argument, PARTITION_WALK),
and the loader over its files. Pure: the disk is handed in.

Source: Raspberry Pi documentation, "autoboot.txt" and PARTITION (read 2026-11); release notes of 2025-08-13
(PARTITION_WALK) and 2025-08-27 (PARTITION).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from lab.bootloader.files import Boot, BootFiles, ModeFailedError, read_all
from lab.bootloader.filters import section_name
from lab.bootloader.loader import load

MAX_AUTOBOOT_BYTES: Final = 512
MAX_PARTITION: Final = 31
_FILTERS: Final = frozenset(("all", "none", "tryboot"))


class BootDisk(Protocol):
    """A disk as the firmware sees it."""

    def partitions(self) -> Sequence[int]:
        """Numbers of the FAT partitions, ascending."""

    def read(self, partition: int, name: str) -> bytes | None:
        """Content of a file; None where there is none of that name."""


@dataclass(frozen=True, slots=True)
class Autoboot:
    """What autoboot.txt says: the partition (0: nothing), and how a tryboot is done."""

    boot_partition: int = 0
    tryboot_a_b: bool = False


def parse_autoboot(data: bytes, *, tryboot: bool) -> Autoboot:
    """Read autoboot.txt. A file of more than 512 bytes, and filters other than three, say nothing."""
    if len(data) > MAX_AUTOBOOT_BYTES:
        return Autoboot()
    holds = True
    values: dict[str, str] = {}
    for raw in data.decode("utf-8", "replace").splitlines():
        line = raw.strip()
        name = section_name(line)
        if name is not None:
            holds = name == "all" or (name == "tryboot" and tryboot)
            if name not in _FILTERS:
                holds = False
        elif holds and "=" in line and not line.startswith("#"):
            key, value = (part.strip() for part in line.split("=", 1))
            values[key] = value
    number = values.get("boot_partition", "0")
    return Autoboot(
        boot_partition=int(number) if number.isascii() and number.isdecimal() else 0,
        tryboot_a_b=values.get("tryboot_a_b") == "1",
    )


def boot_from_disk(boot: Boot, disk: BootDisk) -> BootFiles:
    """Run one disk mode.

    Raises:
        ModeFailedError: No partition can be booted; the text names each and its reason.
        BoardStuckError: A file is missing at a point from which the firmware does not come back.
    """
    present = list(disk.partitions())
    if not present:
        raise ModeFailedError("no partition table with a FAT partition")
    tryboot = boot.circumstances.tryboot
    asked = boot.circumstances.partition
    wanted = asked if 0 < asked <= MAX_PARTITION else boot.profile.settings.partition
    autoboot = Autoboot()
    if not wanted:
        autoboot = parse_autoboot(disk.read(present[0], "autoboot.txt") or b"", tryboot=tryboot)
    first = wanted or autoboot.boot_partition or present[0]
    if autoboot.tryboot_a_b:
        # The other system's own config.txt, not a tryboot.txt beside the first one's.
        boot = replace(boot, circumstances=replace(boot.circumstances, tryboot=False))
    tried = [first]
    if boot.profile.settings.partition_walk:
        tried += [number for number in present if number > first]
        tried += [number for number in present if number < first]
    reasons: list[str] = []
    for number in tried:
        if number not in present:
            reasons.append(f"partition {number}: it is no FAT partition")
            continue
        try:
            files = read_all(load(boot), lambda name, number=number: disk.read(number, name))  # type: ignore[misc]
        except ModeFailedError as error:
            reasons.append(f"partition {number}: {error}")
        else:
            return replace(files, partition=number)
    raise ModeFailedError("; ".join(reasons))
