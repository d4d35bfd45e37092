"""The two filesystems of an image, opened for reading by what its partition table says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.disk.blockmap import BOOT_PARTITION, ROOT_PARTITION
from imagebuilder.disk.ext4 import Ext4Volume
from imagebuilder.disk.fat import FatVolume
from imagebuilder.disk.source import open_source
from imagebuilder.disk.table import read_table


@dataclass(frozen=True, slots=True)
class Volumes:
    """The boot partition's FAT and the root's ext4."""

    boot: FatVolume
    root: Ext4Volume

    def read_text(self, path: str) -> str:
        """A text file of the root filesystem; empty where there is none."""
        inode = self.root.find(path)
        if inode is None or not inode.is_file:
            return ""
        return self.root.read_inode(inode).decode("utf-8", "replace")


@contextmanager
def open_volumes(disk: Path) -> Iterator[Volumes]:
    """Both filesystems of a disk image.

    Raises:
        NotUnderstood: the image has another layout, or one of them is not what it should be.
    """
    with open_source(disk) as source:
        table = read_table(source, disk.stat().st_size)
        yield Volumes(
            FatVolume(source, table.partition(BOOT_PARTITION).offset),
            Ext4Volume(source, table.partition(ROOT_PARTITION).offset),
        )
