"""Slots: the places in an image where one node differs from another, as byte extents on the disk.

A slot is a file of fixed size (or a piece of text in one) whose blocks are known when the image is sealed. A
node's own values then go into place without allocating anything: no filesystem code runs, and the image's
metadata stay what they are.

    disk-signature        4 bytes at 440 of the MBR, little endian
    partuuid              8 hex digits, wherever a cmdline.txt (FAT) and /etc/fstab (ext4) name the disk
    one per ``SlotFile``  a whole file, padded with line feeds; which of them an image has is its dialect's
                          (``imagebuilder.dialects``)
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from imagebuilder.disk.blockmap import BOOT_PARTITION, ROOT_PARTITION
from imagebuilder.disk.ext4 import Ext4Volume
from imagebuilder.disk.fat import FatVolume
from imagebuilder.disk.mbr import MBR_BYTES, SIGNATURE_OFFSET, parse_mbr
from imagebuilder.disk.source import ByteSource
from imagebuilder.errors import ImageBuilderError, NotUnderstood

PADDING: Final = b"\n"
FSTAB_PATH: Final = "/etc/fstab"


class Volume(enum.StrEnum):
    """Which filesystem a file is on."""

    BOOT = "boot"
    ROOT = "root"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotFile:
    """A file that is a slot. ``placeholder`` is what it says while the image is nobody's yet."""

    name: str
    volume: Volume
    path: str
    size_bytes: int
    placeholder: str
    mode: int = 0o644

    @property
    def content(self) -> bytes:
        """The placeholder in its full size. Never zeros, which debugfs would not give blocks to."""
        return self.placeholder.encode().ljust(self.size_bytes, PADDING)


class SlotOverflow(ImageBuilderError):
    """A node's value does not fit its slot."""


@dataclass(frozen=True, slots=True)
class Extent:
    """``length`` bytes at ``offset`` of the disk."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Slot:
    """One value's place: its extents in the order of its bytes."""

    name: str
    extents: tuple[Extent, ...]

    @property
    def size_bytes(self) -> int:
        return sum(extent.length for extent in self.extents)

    def patches(self, value: bytes) -> tuple[tuple[int, bytes], ...]:
        """(offset, bytes) that put ``value``, padded with line feeds, into the slot.

        Raises:
            SlotOverflow: it is too long.
        """
        if len(value) > self.size_bytes:
            raise SlotOverflow(
                f"{self.name} has {len(value)} bytes, its slot in the image has {self.size_bytes}",
                "Shorten it: fewer or shorter addresses, names and certificates.",
            )
        padded = value.ljust(self.size_bytes, PADDING)
        patches, position = [], 0
        for extent in self.extents:
            patches.append((extent.offset, padded[position : position + extent.length]))
            position += extent.length
        return tuple(patches)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotMap:
    """All slots of an image. ``partuuids`` are the 8 digits, once for each place where they stand; ``files``
    are whole files by the names of their ``SlotFile``."""

    disk_signature: Slot
    partuuids: tuple[Slot, ...]
    files: tuple[Slot, ...]

    def file(self, name: str) -> Slot:
        """The slot of one file.

        Raises:
            KeyError: images of this dialect have none of that name.
        """
        return {slot.name: slot for slot in self.files}[name]

    def to_json(self) -> dict[str, Any]:
        """The form in the manifest: lists of [offset, length]; for ``files`` by name."""
        return {
            "disk_signature": _plain(self.disk_signature),
            "partuuids": [_plain(slot) for slot in self.partuuids],
            "files": {slot.name: _plain(slot) for slot in self.files},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What ``to_json`` made.

        Raises:
            NotUnderstood: something else.
        """
        try:
            return cls(
                disk_signature=_slot("disk signature", data["disk_signature"]),
                partuuids=tuple(_slot("PARTUUID", item) for item in data["partuuids"]),
                files=tuple(_slot(name, data["files"][name]) for name in sorted(data["files"])),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise NotUnderstood(
                f"the slots in the image's manifest are not readable: {exc}",
                "The image was built by another version of Bramble; build it again.",
            ) from exc


def find_slots(source: ByteSource, files: Sequence[SlotFile], cmdlines: Sequence[str]) -> SlotMap:
    """Locate all slots of a finished image, and check the raw bytes there against the files.

    Args:
        source: the disk, with an MBR.
        files: the slots that its dialect has.
        cmdlines: paths of its command line files.

    Raises:
        NotUnderstood: a slot is missing, has another size, or its extents hold other bytes than its file.
    """
    mbr = parse_mbr(source.read_at(0, MBR_BYTES))
    fat = FatVolume(source, mbr.partition(BOOT_PARTITION).offset)
    ext4 = Ext4Volume(source, mbr.partition(ROOT_PARTITION).offset)
    signature = f"{mbr.signature:08x}"
    partuuids: list[Slot] = []
    places: list[tuple[FatVolume | Ext4Volume, str]] = [(fat, path) for path in cmdlines]
    for volume, path in (*places, (ext4, FSTAB_PATH)):
        place = Slot(path, _extents(volume.extents(path)))
        _require_content(source, place, volume.read(path))
        partuuids.extend(_partuuids(source, place, signature))
    found = []
    for file in files:
        volume = fat if file.volume is Volume.BOOT else ext4
        slot = Slot(file.name, _extents(volume.extents(file.path)))
        if slot.size_bytes != file.size_bytes:
            raise NotUnderstood(
                f"the slot {file.path} has {slot.size_bytes} bytes, expected {file.size_bytes}",
                "An overlay replaces a file that belongs to Bramble; take it out.",
            )
        _require_content(source, slot, volume.read(file.path))
        found.append(slot)
    return SlotMap(
        disk_signature=Slot("disk signature", (Extent(SIGNATURE_OFFSET, 4),)),
        partuuids=tuple(partuuids),
        files=tuple(sorted(found, key=lambda slot: slot.name)),
    )


def _partuuids(source: ByteSource, slot: Slot, signature: str) -> tuple[Slot, ...]:
    text = read_slot(source, slot)
    found = [
        Slot("PARTUUID", tuple(_slice(slot.extents, match.start(1), 8)))
        for match in re.finditer(rb"PARTUUID=([0-9a-f]{8})-0[1-4]", text)
        if match.group(1).decode() == signature
    ]
    if not found:
        raise NotUnderstood(
            f"{slot.name} does not name the disk as PARTUUID={signature}-…; it reads {text[:200]!r}",
            "A base must find its partitions by PARTUUID, as Raspberry Pi OS does.",
        )
    for place in found:
        _require_content(source, place, signature.encode())
    return tuple(found)


def read_slot(source: ByteSource, slot: Slot) -> bytes:
    """The raw bytes at a slot's extents."""
    return b"".join(source.read_at(extent.offset, extent.length) for extent in slot.extents)


def _require_content(source: ByteSource, slot: Slot, content: bytes) -> None:
    if read_slot(source, slot) != content:
        raise NotUnderstood(
            f"the bytes at the extents of {slot.name} are not its content",
            "This is a fault of Bramble or of the disk under the store; the image was not kept.",
        )


def _slice(extents: Sequence[Extent], start: int, length: int) -> Iterable[Extent]:
    """The part of a chain of extents that holds ``length`` bytes from byte ``start`` of the file."""
    for extent in extents:
        skipped = min(start, extent.length)
        taken = min(extent.length - skipped, length)
        if taken:
            yield Extent(extent.offset + skipped, taken)
        start -= skipped
        length -= taken


def _extents(pairs: Iterable[tuple[int, int]]) -> tuple[Extent, ...]:
    return tuple(Extent(offset, length) for offset, length in pairs)


def _plain(slot: Slot) -> list[list[int]]:
    return [[extent.offset, extent.length] for extent in slot.extents]


def _slot(name: str, pairs: Sequence[Sequence[int]]) -> Slot:
    if not pairs:
        raise ValueError(f"{name} has no extents")
    return Slot(name, tuple(Extent(int(offset), int(length)) for offset, length in pairs))
