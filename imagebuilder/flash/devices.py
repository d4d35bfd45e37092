"""Which disks this machine has, what each is used for, and why one must not be written.

What the kernel says comes in as values (`Inventory`); the rules are pure.

Source: sysfs ABI of the kernel (Documentation/ABI/stable/sysfs-block, testing/sysfs-block-device), proc(5)
for mountinfo and swaps.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SECTOR_BYTES: Final = 512
"""/sys/block/*/size counts these, whatever the device's own sectors are."""
SYSTEM_MOUNTS: Final = ("/", "/boot", "/boot/efi", "/boot/firmware", "/usr", "/var", "/home")
_NOT_DISKS: Final = re.compile(r"(?:ram|zram|loop|dm-|md|sr|nbd|fd|drbd|mtdblock|rbd)\d*")
"""Not media that a board boots from. A loop device may be named by hand."""
_BOOT_AREA: Final = re.compile(r"mmcblk\d+(?:boot\d+|rpmb)")
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Use:
    """Something on this machine that uses the disk: ``mounted on /home``, ``swap``, ``held by md0``."""

    what: str
    is_system: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A whole block device.

    Args:
        name: the kernel's, ``sdb``; the device is ``/dev/<name>``.
        transport: ``usb``, ``mmc``, ``nvme``, ``sata``, ``virtio`` or ``other``.
        removable: the medium can be taken out, or the whole device hangs on USB.
        uses: by itself, its partitions, and what is built on them.
    """

    name: str
    size_bytes: int
    model: str
    serial: str
    transport: str
    removable: bool
    read_only: bool
    uses: tuple[Use, ...]

    @property
    def path(self) -> Path:
        return Path("/dev") / self.name

    @property
    def title(self) -> str:
        """``SanDisk Ultra, 31.9 GB, usb, /dev/sdb``."""
        size = f"{self.size_bytes / 1e9:.1f} GB"
        return ", ".join(part for part in (self.model, size, self.transport, str(self.path)) if part)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a disk is not written, and what would change that."""

    reason: str
    mend: str


def refusals(disk: Disk, *, needed_bytes: int = 0, allow_fixed: bool = False) -> tuple[Refusal, ...]:
    """Everything that speaks against writing to ``disk``, the gravest first; empty for a good target.

    Args:
        needed_bytes: the image's size; 0 where no image is chosen yet.
        allow_fixed: the user named a disk that is not removable on purpose.
    """
    found = []
    system = [use.what for use in disk.uses if use.is_system]
    others = [use.what for use in disk.uses if not use.is_system]
    if system:
        found.append(Refusal(f"this machine runs from it ({', '.join(system)})", "Never."))
    if others:
        found.append(Refusal(f"it is in use: {', '.join(others)}", _mend_uses(others)))
    if disk.size_bytes == 0:
        found.append(Refusal("there is no medium in it", "Put a card in."))
    elif disk.size_bytes < needed_bytes:
        short = f"it has {disk.size_bytes} bytes, the image needs {needed_bytes}"
        found.append(Refusal(short, "Take a larger one."))
    if disk.read_only:
        found.append(Refusal("it is write-protected", "Slide the card's lock, or 'blockdev --setrw'."))
    if not disk.removable and not allow_fixed:
        found.append(Refusal("it is not removable", "Say --allow-fixed if it is really meant."))
    return tuple(found)


def _mend_uses(uses: Sequence[str]) -> str:
    mounted = any(use.startswith("mounted") for use in uses)
    return (
        "Unmount it first." if mounted else "Stop what uses it first (swapoff, vgchange -an, mdadm --stop)."
    )


@dataclass(frozen=True, slots=True)
class Inventory:
    """What the kernel says: the root of sysfs, and the texts of mountinfo and swaps.

    Args:
        sysfs: ``/sys``.
        mountinfo: of ``/proc/self/mountinfo``.
        swaps: of ``/proc/swaps``.
    """

    sysfs: Path
    mountinfo: str
    swaps: str

    @classmethod
    def of_this_machine(cls) -> Inventory:
        return cls(
            Path("/sys"),
            Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape"),
            Path("/proc/swaps").read_text(encoding="utf-8", errors="surrogateescape"),
        )

    def disks(self) -> list[Disk]:
        """Every disk that a board could boot from, by name."""
        mounts, swaps = parse_mounts(self.mountinfo), parse_swaps(self.swaps)
        block = self.sysfs / "block"
        names = sorted(entry.name for entry in block.iterdir()) if block.is_dir() else []
        return [
            self.disk(name, mounts, swaps)
            for name in names
            if not _NOT_DISKS.fullmatch(name) and not _BOOT_AREA.fullmatch(name)
        ]

    def find(self, path: Path) -> Disk | None:
        """The whole disk behind a device path, or a link like ``/dev/disk/by-id/…``; None for all else."""
        name = Path(os.path.realpath(path)).name
        if not (self.sysfs / "block" / name).exists():
            return None
        return self.disk(name, parse_mounts(self.mountinfo), parse_swaps(self.swaps))

    def disk(self, name: str, mounts: Mapping[str, Sequence[str]], swaps: Sequence[str]) -> Disk:
        entry = self.sysfs / "block" / name
        chain = os.path.realpath(entry)
        transport = _transport(name, chain)
        return Disk(
            name=name,
            size_bytes=int(_text(entry / "size") or 0) * SECTOR_BYTES,
            model=" ".join(
                word
                for word in (_text(entry / "device/vendor"), _text(entry / "device/model"))
                if word and word != "ATA" and not word.startswith("0x")
            )
            or _text(entry / "device/name"),
            serial=_text(entry / "device/serial") or _text(entry / "serial"),
            transport=transport,
            removable=_text(entry / "removable") == "1" or transport in ("usb", "mmc"),
            read_only=_text(entry / "ro") == "1",
            uses=tuple(self._uses(entry, mounts, swaps)),
        )

    def _uses(
        self, entry: Path, mounts: Mapping[str, Sequence[str]], swaps: Sequence[str], depth: int = 0
    ) -> Iterator[Use]:
        """Uses of a device, of its partitions, and of what the kernel builds on them (RAID, LVM, crypt)."""
        for place in (*mounts.get(_text(entry / "dev"), ()), *mounts.get(entry.name, ())):
            yield Use(f"mounted on {place}", place in SYSTEM_MOUNTS)
        if entry.name in swaps:
            yield Use("swap", is_system=True)
        if depth > 8:  # a loop in sysfs can not be; if it is, the disk is in use
            yield Use("held by too many layers", is_system=True)
            return
        for holder in _children(entry / "holders"):
            inner = list(self._uses(self.sysfs / "block" / holder.name, mounts, swaps, depth + 1))
            yield Use(f"held by {holder.name}", any(use.is_system for use in inner))
        for part in _children(entry):
            if (part / "partition").exists():
                yield from self._uses(part, mounts, swaps, depth + 1)


def parse_mounts(mountinfo: str) -> dict[str, list[str]]:
    """Where devices are mounted, by their number (``8:1``), or by their name (``sda1``) where the filesystem
    has a number of its own, as btrfs.

    Fields: 3 the number, 5 the mount point with octal escapes; behind a dash: type, device, options.
    """
    found: dict[str, list[str]] = {}
    for line in mountinfo.splitlines():
        mount, _, what = line.partition(" - ")
        fields, source = mount.split(" "), what.split(" ")[1:2]
        if len(fields) <= 4:
            continue
        place = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])
        is_virtual = fields[2].startswith("0:")
        key = Path(source[0]).name if is_virtual and source and source[0].startswith("/dev/") else fields[2]
        found.setdefault(key, []).append(place)
    return found


def parse_swaps(swaps: str) -> list[str]:
    """Kernel names of the block devices that are swapped to."""
    lines = swaps.splitlines()[1:]
    return [Path(line.split()[0]).name for line in lines if line.startswith("/dev/")]


def _transport(name: str, chain: str) -> str:
    if "/usb" in chain:
        return "usb"
    if name.startswith("mmcblk"):
        return "mmc"
    if name.startswith("nvme"):
        return "nvme"
    if "/ata" in chain:
        return "sata"
    return "virtio" if "/virtio" in chain else "other"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _children(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except OSError:
        return []
