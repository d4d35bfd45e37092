"""The master boot record: sector 0 of a disk, as values. Pure: bytes in, values out.

Layout of the 512 bytes (little endian):

    0–439    boot code (empty on a Raspberry Pi: its boot ROM reads the FAT itself)
    440–443  disk signature; Linux calls partition N PARTUUID ``<signature as 8 hex digits>-<N as 2>``
    444–445  0
    446–509  four entries of 16 bytes:
               0 status (0x80 bootable) · 1–3 CHS of the first sector · 4 type · 5–7 CHS of the last sector
               8–11 first sector (LBA) · 12–15 number of sectors
    510–511  0x55 0xAA

Source: UEFI specification 2.10 §5.2.1 for the fields; the layout of Raspberry Pi OS from pi-gen's
``export-image/prerun.sh``, 8 MiB alignment since 2025-03-12.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass, field, replace
from typing import Final

from imagebuilder.errors import NotUnderstood

SECTOR_BYTES: Final = 512
MBR_BYTES: Final = 512
SIGNATURE_OFFSET: Final = 440
ENTRIES_OFFSET: Final = 446
ENTRY_COUNT: Final = 4
MAGIC: Final = b"\x55\xaa"

TYPE_FAT32_LBA: Final = 0x0C
TYPE_LINUX: Final = 0x83
TYPE_GPT_PROTECTIVE: Final = 0xEE

MAX_SECTOR: Final = 0xFFFF_FFFF
"""Start and length are 32 bits wide: 2 TiB."""

_ENTRY: Final = struct.Struct("<B3sB3sII")
# The geometry that every LBA-era tool assumes; sectors beyond its 1024 cylinders get the highest value.
_HEADS: Final = 255
_SECTORS_PER_TRACK: Final = 63
_CHS_BEYOND: Final = b"\xfe\xff\xff"


class MbrError(NotUnderstood):
    """Sector 0 is not a partition table that we can use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """One used entry. ``start_lba`` and ``sectors`` count 512-byte sectors."""

    start_lba: int
    sectors: int
    type: int
    bootable: bool = False

    def __post_init__(self) -> None:
        if self.sectors <= 0:
            raise MbrError(
                f"partition at sector {self.start_lba} has {self.sectors} sectors, expected at least 1",
                "The partition table is damaged, or was written by a tool that keeps empty entries.",
            )
        if self.start_lba <= 0 or self.start_lba + self.sectors - 1 > MAX_SECTOR:
            raise MbrError(
                f"partition of {self.sectors} sectors at sector {self.start_lba} does not fit the table; "
                f"sectors 1–{MAX_SECTOR} can be used",
                "An MBR reaches 2 TiB; choose a smaller partition.",
            )
        if not 0 < self.type <= 0xFF:
            raise MbrError(
                f"partition type {self.type:#x} is not 0x01–0xff", "Use 0x0c for FAT32, 0x83 for Linux."
            )

    @property
    def end_lba(self) -> int:
        """The first sector after the partition."""
        return self.start_lba + self.sectors

    @property
    def offset(self) -> int:
        """Bytes from the start of the disk."""
        return self.start_lba * SECTOR_BYTES

    @property
    def size_bytes(self) -> int:
        return self.sectors * SECTOR_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Mbr:
    """A partition table: the disk signature and four entries, of which any may be unused (None).

    ``boot_code`` holds bytes 0–439 as they were read, so that parsing and encoding keeps foreign code.
    """

    signature: int
    entries: tuple[Partition | None, Partition | None, Partition | None, Partition | None]
    boot_code: bytes = field(default=bytes(SIGNATURE_OFFSET), repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.signature <= 0xFFFF_FFFF:
            raise MbrError(f"disk signature {self.signature:#x} has more than 32 bits", "Use 8 hex digits.")
        if len(self.boot_code) != SIGNATURE_OFFSET:
            raise MbrError(
                f"boot code has {len(self.boot_code)} bytes, expected {SIGNATURE_OFFSET}",
                "Pad it with zeros.",
            )
        used = sorted(self.partitions, key=lambda numbered: numbered[1].start_lba)
        for (number, entry), (next_number, next_entry) in itertools.pairwise(used):
            if entry.end_lba > next_entry.start_lba:
                raise MbrError(
                    f"partitions {number} (sectors {entry.start_lba}–{entry.end_lba - 1}) and {next_number} "
                    f"(from sector {next_entry.start_lba}) overlap",
                    "The partition table is damaged; take the image from its source again.",
                )

    @property
    def partitions(self) -> tuple[tuple[int, Partition], ...]:
        """The used entries with their numbers, which start at 1."""
        return tuple((number, entry) for number, entry in enumerate(self.entries, 1) if entry is not None)

    def partition(self, number: int) -> Partition:
        """Partition ``number`` (1–4).

        Raises:
            MbrError: the entry is unused.
        """
        entry = self.entries[number - 1] if 1 <= number <= ENTRY_COUNT else None
        if entry is None:
            have = ", ".join(str(n) for n, _ in self.partitions) or "none"
            raise MbrError(
                f"the disk has no partition {number} (it has: {have})",
                "A Raspberry Pi image has a FAT as partition 1 and an ext4 as partition 2.",
            )
        return entry

    def partuuid(self, number: int) -> str:
        """What Linux calls partition ``number``, e.g. ``1a2b3c4d-02``."""
        return f"{self.signature:08x}-{number:02x}"

    def with_partition(self, number: int, partition: Partition) -> Mbr:
        """The table with entry ``number`` (1–4) set."""
        one, two, three, four = (
            partition if index == number else entry for index, entry in enumerate(self.entries, 1)
        )
        return replace(self, entries=(one, two, three, four))

    def require_within(self, disk_bytes: int) -> None:
        """Raise ``MbrError`` if a partition ends after ``disk_bytes``."""
        for number, entry in self.partitions:
            if entry.end_lba * SECTOR_BYTES > disk_bytes:
                raise MbrError(
                    f"partition {number} ends at byte {entry.offset + entry.size_bytes}, "
                    f"the disk has {disk_bytes}",
                    "The image is cut short; fetch it again. On a card: it is smaller than the image.",
                )

    def encode(self) -> bytes:
        """The 512 bytes of sector 0."""
        entries = b"".join(map(_encode_entry, self.entries))
        return self.boot_code + struct.pack("<IH", self.signature, 0) + entries + MAGIC


def parse_mbr(data: bytes, *, disk_bytes: int | None = None) -> Mbr:
    """Read sector 0.

    Args:
        data: at least the first 512 bytes of the disk.
        disk_bytes: size of the disk; when given, partitions must lie inside it.

    Raises:
        MbrError: too short, no 0x55 0xAA, a GPT, or empty, overlapping or overlong partitions.
    """
    if len(data) < MBR_BYTES:
        raise MbrError(
            f"sector 0 has {len(data)} bytes, expected {MBR_BYTES}", "The image is cut short; fetch it again."
        )
    if data[510:512] != MAGIC:
        raise MbrError(
            f"sector 0 ends in {data[510:512].hex(' ')}, a partition table ends in {MAGIC.hex(' ')}",
            "This is not a disk image. If it is compressed, keep the name that its source gave it (.img.xz).",
        )
    (signature,) = struct.unpack_from("<I", data, SIGNATURE_OFFSET)
    one, two, three, four = (
        _parse_entry(data[offset : offset + _ENTRY.size])
        for offset in range(ENTRIES_OFFSET, ENTRIES_OFFSET + ENTRY_COUNT * _ENTRY.size, _ENTRY.size)
    )
    mbr = Mbr(signature=signature, entries=(one, two, three, four), boot_code=bytes(data[:SIGNATURE_OFFSET]))
    if any(entry.type == TYPE_GPT_PROTECTIVE for _, entry in mbr.partitions):
        raise MbrError(
            "the disk has a GPT (partition type 0xee), expected an MBR partition table",
            "Use an image for the Raspberry Pi; images for UEFI machines are laid out in another way.",
        )
    if disk_bytes is not None:
        mbr.require_within(disk_bytes)
    return mbr


def _parse_entry(data: bytes) -> Partition | None:
    status, _, kind, _, start_lba, sectors = _ENTRY.unpack(data)
    if kind == 0:
        return None
    return Partition(start_lba=start_lba, sectors=sectors, type=kind, bootable=bool(status & 0x80))


def _encode_entry(entry: Partition | None) -> bytes:
    if entry is None:
        return bytes(_ENTRY.size)
    return _ENTRY.pack(
        0x80 if entry.bootable else 0,
        _chs(entry.start_lba),
        entry.type,
        _chs(entry.end_lba - 1),
        entry.start_lba,
        entry.sectors,
    )


def _chs(lba: int) -> bytes:
    """Cylinder, head, sector of ``lba``: head, sector | cylinder bits 8–9 << 6, cylinder bits 0–7."""
    cylinder, rest = divmod(lba, _HEADS * _SECTORS_PER_TRACK)
    if cylinder > 1023:
        return _CHS_BEYOND
    head, sector = divmod(rest, _SECTORS_PER_TRACK)
    return bytes((head, (sector + 1) | (cylinder >> 2) & 0xC0, cylinder & 0xFF))


PI_BOOT_START_LBA: Final = 16384
PI_BOOT_SECTORS: Final = 1_048_576
PI_ROOT_START_LBA: Final = 1_064_960
PI_ALIGNMENT_BYTES: Final = 8 * 2**20


def raspios_layout(signature: int, root_bytes: int) -> Mbr:
    """The table of Raspberry Pi OS trixie: 512 MiB FAT32 at 8 MiB, ext4 behind it.

    Args:
        signature: disk signature.
        root_bytes: size of the ext4 partition, a multiple of 512.
    """
    boot = Partition(start_lba=PI_BOOT_START_LBA, sectors=PI_BOOT_SECTORS, type=TYPE_FAT32_LBA)
    root = Partition(start_lba=PI_ROOT_START_LBA, sectors=root_bytes // SECTOR_BYTES, type=TYPE_LINUX)
    return Mbr(signature=signature, entries=(boot, root, None, None))


def raspios_root_bytes(used_bytes: int) -> int:
    """Size of the root partition for ``used_bytes`` of files: 20 % and 200 MiB more, rounded up to 8 MiB.

    Source: pi-gen, ``export-image/prerun.sh``.
    """
    wanted = used_bytes * 12 // 10 + 200 * 2**20
    return -(-wanted // PI_ALIGNMENT_BYTES) * PI_ALIGNMENT_BYTES
