"""A virtual board's disks, and the boot partition as the bootloader reads it: MBR here, FAT by mtools."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleet.boards import DiskKind
from lab.errors import LabError
from lab.runner import run

SECTOR_BYTES: Final = 512
_MBR_SIGNATURE: Final = b"\x55\xaa"
_PARTITION_TABLE: Final = 446
_FAT_TYPES: Final = frozenset((0x01, 0x04, 0x06, 0x0B, 0x0C, 0x0E))
_WILDCARDS: Final = frozenset("*?[]\\")


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualDisk:
    """A disk of a board: a raw image file, sparse.

    Attributes:
        serial: What the guest reads as the drive's serial number: 1 to 20 letters, digits, dots, dashes and
            underscores (20 is what NVMe has room for).
    """

    kind: DiskKind
    path: Path
    size_bytes: int
    serial: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,20}", self.serial):
            raise LabError(
                f"{self.path}: {self.serial!r} is no serial number of a disk",
                "Take 1 to 20 letters, digits, dots, dashes and underscores.",
            )
        if self.size_bytes <= 0 or self.size_bytes % SECTOR_BYTES:
            raise LabError(f"{self.path}: {self.size_bytes} bytes is no disk size; whole sectors are")
        if self.kind is DiskKind.SD and self.size_bytes & (self.size_bytes - 1):
            raise LabError(
                f"{self.path}: an SD card of {self.size_bytes} bytes can not be emulated",
                "QEMU wants a power of two, like 8 GiB.",
            )

    def create(self) -> None:
        """Make the file, empty, unless it is there.

        Raises:
            LabError: A file is there and has another size, or can not be made.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                present = file.tell()
                if present == 0:
                    file.truncate(self.size_bytes)
        except OSError as exc:
            raise LabError(f"{self.path} can not be made: {exc.strerror}") from exc
        if present not in (0, self.size_bytes):
            raise LabError(
                f"{self.path} has {present} bytes, the board's {self.kind.title} has {self.size_bytes}",
                "Declare the size that the file has, or delete the file.",
            )


def fat_partitions(mbr: bytes) -> dict[int, int]:
    """Number → start in bytes of the FAT partitions; empty where the sector is no MBR or lists none.

    Layout: 446–509 four entries of 16 bytes (4 type, 8–11 first sector LE), 510–511 signature 55 aa.
    """
    if len(mbr) < SECTOR_BYTES or mbr[510:512] != _MBR_SIGNATURE:
        return {}
    found = {}
    for number, start in enumerate(range(_PARTITION_TABLE, 510, 16), 1):
        entry = mbr[start : start + 16]
        first_sector = int.from_bytes(entry[8:12], "little")
        if entry[4] in _FAT_TYPES and first_sector:
            found[number] = first_sector * SECTOR_BYTES
    return found


class DiskFiles:
    """The FAT partitions of a disk image and their files: a `BootDisk` for the bootloader."""

    def __init__(self, image: Path) -> None:
        self._image = image
        self._offsets: dict[int, int] = {}

    def partitions(self) -> tuple[int, ...]:
        """Numbers of the partitions that hold a FAT file system, ascending; the table is read anew."""
        self._offsets.clear()
        with self._image.open("rb") as disk:
            for number, offset in fat_partitions(disk.read(SECTOR_BYTES)).items():
                disk.seek(offset)
                if disk.read(SECTOR_BYTES)[510:512] == _MBR_SIGNATURE:
                    self._offsets[number] = offset
        return tuple(self._offsets)

    def read(self, partition: int, name: str) -> bytes | None:
        """Content of a file, path with slashes; None where it is missing or unreadable."""
        if _WILDCARDS & set(name) or partition not in self._offsets:
            return None
        # mtools checks that the geometry fits a floppy unless told not to.
        done = run(
            ["mcopy", "-n", "-i", f"{self._image}@@{self._offsets[partition]}", f"::/{name}", "-"],
            env={"MTOOLS_SKIP_CHECK": "1", "MTOOLSRC": os.devnull},
            check=False,
        )
        return done.stdout if done.returncode == 0 else None
