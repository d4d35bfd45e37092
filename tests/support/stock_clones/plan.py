"""What a clone consists of, as values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stock_clones.tree import Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A disk. Starts and lengths count 512-byte sectors.

    Attributes:
        disk_sectors: length of the image, which may be more than the end of its last partition.
        boot_active: status byte 0x80 of the first partition.
        cluster_sectors: sectors per cluster of the FAT; None: what mkfs.vfat chooses for the size.
        ext4_features: words for ``tune2fs -O`` on top of the base's features; empty for none.
        ext4_64bit: 64-byte group descriptors.
    """

    signature: int
    boot_start: int
    boot_sectors: int
    root_start: int
    root_sectors: int
    disk_sectors: int
    boot_active: bool = False
    fat_label: str
    cluster_sectors: int | None
    ext4_label: str
    ext4_features: str = ""
    ext4_64bit: bool = False

    def partuuid(self, number: int) -> str:
        return f"{self.signature:08x}-{number:02x}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BootSources:
    """Files that a boot partition is put together from.

    Attributes:
        firmware: name → file of the base's boot partition (start4.elf and its like, device trees).
        kernel: the base's kernel as gzip, as the stock images keep theirs.
        kernel_16k: the same, whose header says 16 KiB pages (the code behind it is the same kernel).
        initramfs: the base's.
        overlays: name → content.
    """

    firmware: Mapping[str, Path]
    kernel: Path
    kernel_16k: Path
    initramfs: Path
    overlays: Mapping[str, bytes] = field(default_factory=dict)

    def tree(self, name: str) -> Path:
        """The base's device tree for the board of ``name``: its own, or that of its chip's main board."""
        if name in self.firmware:
            return self.firmware[name]
        if name == "bcm2711-rpi-cm4.dtb":
            return self.firmware["bcm2711-rpi-cm4-io.dtb"]
        return self.firmware["bcm2711-rpi-4-b.dtb" if name.startswith("bcm2711") else "bcm2712-rpi-5-b.dtb"]


BootFiles = Mapping[str, bytes | Path]
"""Path on the boot partition (no leading slash) → content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClonePlan:
    """One stock image.

    Attributes:
        file_name: of the download, without the suffix of its compression.
        boot: the boot partition's files.
        root: changes the base's root tree into that of the stock image.
        bootargs: what its device trees put in front of the command line.
    """

    name: str
    file_name: str
    layout: Layout
    boot: Callable[[Layout, BootSources], BootFiles]
    root: Callable[[Layout, Tree], None]
    bootargs: str
