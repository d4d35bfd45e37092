"""boot.img: a bare FAT32 file system with given files, without root, loop device or mount.

The same files give the same bytes: sizes and the volume's id follow from the content, names are sorted, times
are fixed. Every file is read back through our own reader, and fsck.vfat has the last word.

Source: usbboot, `rpi-make-boot-image` (a FAT file system without a partition table); rpi-eeprom release notes
of 2021-10-27 and 2022-03-10 (96 MB, then 128 MB on BCM2711). Nobody has published the limit of BCM2712.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleet.boards import BoardModel
from imagebuilder.boot_image.select import Content, missing_files
from imagebuilder.disk.edit import ENVIRONMENT, ReadBackFailed
from imagebuilder.disk.edits import EPOCH
from imagebuilder.disk.fat import FatVolume
from imagebuilder.disk.source import open_source
from imagebuilder.errors import ImageBuilderError
from imagebuilder.runner import require_tools, run

TOOLS: Final = ("fsck.vfat", "mcopy", "mkfs.vfat", "mmd")
OLD_LIMIT_BYTES: Final = 96 << 20
"""Of BCM2711 bootloaders before 2022-03-10; every bootloader that boots over HTTP takes more."""
LIMIT_BYTES: Final = 128 << 20
SECTOR_BYTES: Final = 512
MIN_CLUSTERS: Final = 66_000
"""Fewer than 65,525 clusters would be read as FAT16."""
_SLACK_CLUSTERS: Final = 64

Progress = Callable[[str, float], None]


class BootImageTooLarge(ImageBuilderError):
    """The files do not fit into what a board's bootloader loads."""


class BootImageIncomplete(ImageBuilderError):
    """Files are missing without which the board does not start."""


@dataclass(frozen=True, slots=True)
class BootImage:
    """A finished boot.img."""

    path: Path
    size_bytes: int
    sha256: str
    files: int

    @property
    def warning(self) -> str:
        """What a person should know about it; empty where there is nothing."""
        if self.size_bytes <= OLD_LIMIT_BYTES:
            return ""
        return (
            f"{self.path.name} has {self.size_bytes / 2**20:.0f} MiB: bootloaders from before 2022-03-10 "
            f"take {OLD_LIMIT_BYTES >> 20} MiB, newer ones {LIMIT_BYTES >> 20} MiB; for a Pi 5 no limit is "
            f"published"
        )


def make_boot_image(
    files: Mapping[str, Content],
    board: BoardModel,
    target: Path,
    *,
    progress: Progress = lambda text, share: None,
) -> BootImage:
    """Write `target`, completely or not at all.

    Args:
        files: Relative name → content, as `select_files` gives them.
        board: Whose bootloader will load it.
        target: The file; replaced if it is there.
        progress: Called with what is done and its share of the work, 0.0–1.0.

    Raises:
        BootImageIncomplete: A file is missing that the board needs.
        BootImageTooLarge: It would be larger than the bootloader's limit.
        ImageBuilderError: A tool is missing or failed.
    """
    require_tools(*TOOLS)
    if missing := missing_files(files, board):
        raise BootImageIncomplete(
            f"a {board.title} does not boot from these files: {', '.join(missing)} missing",
            "Use a base that supports the board; 'bramble base list' names them.",
        )
    sizes = {name: _size(content) for name, content in files.items()}
    clusters = max(_clusters(sizes), MIN_CLUSTERS)
    total = _total_bytes(clusters)
    if total > LIMIT_BYTES:
        largest = sorted(sizes.items(), key=lambda item: -item[1])[:3]
        names = ", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in largest)
        raise BootImageTooLarge(
            f"boot.img would have {total / 2**20:.0f} MiB, the bootloader of a {board.title} loads "
            f"{LIMIT_BYTES >> 20} MiB; the largest files are {names}",
            "Put fewer modules into the initramfs, or boot this board over TFTP, which has no such limit.",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.parent / f".{target.name}.{os.getpid()}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        image = scratch / "image"
        digests = _digests(files)
        _format(image, total, digests)
        _copy(image, files, scratch / "staged", progress)
        progress("reading it back", 0.8)
        _read_back(image, digests)
        with image.open("rb") as written:
            os.fsync(written.fileno())
            sha256 = hashlib.file_digest(written, "sha256").hexdigest()
        image.replace(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    progress("done", 1.0)
    return BootImage(target, total, sha256, len(files))


def _size(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _clusters(sizes: Mapping[str, int]) -> int:
    """Clusters of one sector for the files and their directories (a long name takes several entries)."""
    clusters = _SLACK_CLUSTERS
    entries: dict[str, int] = {}
    for name, size in sizes.items():
        clusters += -(-size // SECTOR_BYTES)
        parent = name
        while parent:
            parent, _, base = parent.rpartition("/")
            entries[parent] = entries.get(parent, 2) + 2 + len(base) // 13
    return clusters + sum(-(-count * 32 // SECTOR_BYTES) for count in entries.values())


def _total_bytes(clusters: int) -> int:
    """With 32 reserved sectors and one FAT of four bytes a cluster; a multiple of 1 KiB for mkfs."""
    fat_sectors = -(-(clusters + 2) * 4 // SECTOR_BYTES)
    sectors = 32 + fat_sectors + clusters
    return (sectors + sectors % 2) * SECTOR_BYTES


def _digests(files: Mapping[str, Content]) -> dict[str, str]:
    found = {}
    for name, content in files.items():
        if isinstance(content, bytes):
            found[name] = hashlib.sha256(content).hexdigest()
        else:
            with content.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _format(image: Path, total: int, digests: Mapping[str, str]) -> None:
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    volume_id = hashlib.sha256(listing.encode()).hexdigest()[:8]
    geometry = ["-F", "32", "-S", str(SECTOR_BYTES), "-s", "1", "-f", "1", "-R", "32"]
    name = ["--invariant", "-i", volume_id, "-n", "BOOT"]
    run(["mkfs.vfat", *geometry, *name, "-C", image, str(total // 1024)], env=ENVIRONMENT)


def _copy(image: Path, files: Mapping[str, Content], staged: Path, progress: Progress) -> None:
    groups: dict[str, list[str]] = {}
    for name in sorted(files):
        groups.setdefault(posixpath.dirname(name), []).append(name)
    for number, (directory, names) in enumerate(sorted(groups.items())):
        progress("copying files", 0.1 + 0.7 * number / len(groups))
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        for name in names:
            content, place = files[name], staged / posixpath.basename(name)
            if isinstance(content, bytes):
                place.write_bytes(content)
                os.utime(place, (EPOCH, EPOCH))
            else:
                place.symlink_to(content.resolve())
        if directory:
            _make_directories(image, directory)
        sources = [staged / posixpath.basename(name) for name in names]
        # Without -m the time of the copy counts, which SOURCE_DATE_EPOCH fixes.
        run(["mcopy", "-i", image, "-D", "o", *sources, f"::/{directory}"], env=ENVIRONMENT)
    shutil.rmtree(staged, ignore_errors=True)


def _make_directories(image: Path, directory: str) -> None:
    """`directory` and its parents; one that is there is left alone (-D s)."""
    parts = directory.split("/")
    for depth in range(1, len(parts) + 1):
        path = "/".join(parts[:depth])
        run(["mmd", "-i", image, "-D", "s", f"::/{path}"], env=ENVIRONMENT, check=False)


def _read_back(image: Path, digests: Mapping[str, str]) -> None:
    with open_source(image) as source:
        volume = FatVolume(source, 0)
        present = {entry.path.lstrip("/") for entry in volume.walk() if not entry.is_directory}
        for name, digest in digests.items():
            found = hashlib.sha256(volume.read(f"/{name}")).hexdigest() if name in present else "nothing"
            if found != digest:
                raise ReadBackFailed(f"/{name}", digest, found)
    run(["fsck.vfat", "-n", image], env=ENVIRONMENT)
