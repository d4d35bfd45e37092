"""Slots: the places in an image where one node differs from another, as byte extents on the disk.

A slot is a file of fixed size (or a piece of text in one) whose blocks are known when the image is sealed. A
node's own values then go into place without allocating anything: no filesystem code runs, and the image's
metadata stay what they are.

    disk-signature    4 bytes at 440 of the MBR, little endian
    partuuid          8 hex digits, wherever cmdline.txt (FAT) and /etc/fstab (ext4) name the disk
    meta-data         FAT /meta-data, padded with line feeds
    network-config    FAT /network-config, padded with line feeds
    node-json         ext4 /etc/bramble/node.json, mode 0600, padded with line feeds
"""

from __future__ import annotations

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

META_DATA_PATH: Final = "/meta-data"
META_DATA_BYTES: Final = 1024
NETWORK_CONFIG_PATH: Final = "/network-config"
NETWORK_CONFIG_BYTES: Final = 4096
NODE_JSON_PATH: Final = "/etc/bramble/node.json"
NODE_JSON_BYTES: Final = 8192
CMDLINE_PATH: Final = "/cmdline.txt"
FSTAB_PATH: Final = "/etc/fstab"

PADDING: Final = b"\n"


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
    """All slots of an image. ``partuuids`` are the 8 digits, once for each place where they stand."""

    disk_signature: Slot
    partuuids: tuple[Slot, ...]
    meta_data: Slot
    network_config: Slot
    node_json: Slot

    def to_json(self) -> dict[str, Any]:
        """The form in the manifest: name → [[offset, length], …]; for partuuid a list of those."""
        return {
            "disk_signature": _plain(self.disk_signature),
            "partuuids": [_plain(slot) for slot in self.partuuids],
            "meta_data": _plain(self.meta_data),
            "network_config": _plain(self.network_config),
            "node_json": _plain(self.node_json),
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
                meta_data=_slot("meta-data", data["meta_data"]),
                network_config=_slot("network-config", data["network_config"]),
                node_json=_slot("node.json", data["node_json"]),
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise NotUnderstood(
                f"the slots in the image's manifest are not readable: {exc}",
                "The image was built by another version of Bramble; build it again.",
            ) from exc


def find_slots(source: ByteSource) -> SlotMap:
    """Locate all slots of a finished image, and check the raw bytes there against the files.

    Raises:
        NotUnderstood: a slot is missing, has another size, or its extents hold other bytes than its file.
    """
    mbr = parse_mbr(source.read_at(0, MBR_BYTES))
    fat = FatVolume(source, mbr.partition(BOOT_PARTITION).offset)
    ext4 = Ext4Volume(source, mbr.partition(ROOT_PARTITION).offset)
    signature = f"{mbr.signature:08x}"
    cmdline = Slot("cmdline.txt", _extents(fat.extents(CMDLINE_PATH)))
    fstab = Slot("fstab", _extents(ext4.extents(FSTAB_PATH)))
    _require_content(source, cmdline, fat.read(CMDLINE_PATH))
    _require_content(source, fstab, ext4.read(FSTAB_PATH))
    slots = SlotMap(
        disk_signature=Slot("disk signature", (Extent(SIGNATURE_OFFSET, 4),)),
        partuuids=(*_partuuids(source, cmdline, signature), *_partuuids(source, fstab, signature)),
        meta_data=Slot("meta-data", _extents(fat.extents(META_DATA_PATH))),
        network_config=Slot("network-config", _extents(fat.extents(NETWORK_CONFIG_PATH))),
        node_json=Slot("node.json", _extents(ext4.extents(NODE_JSON_PATH))),
    )
    for slot, content, size in (
        (slots.meta_data, fat.read(META_DATA_PATH), META_DATA_BYTES),
        (slots.network_config, fat.read(NETWORK_CONFIG_PATH), NETWORK_CONFIG_BYTES),
        (slots.node_json, ext4.read(NODE_JSON_PATH), NODE_JSON_BYTES),
    ):
        if slot.size_bytes != size:
            raise NotUnderstood(
                f"the slot {slot.name} has {slot.size_bytes} bytes, expected {size}",
                "An overlay replaces a file that belongs to Bramble; take it out.",
            )
        _require_content(source, slot, content)
    return slots


def placeholder(size_bytes: int, text: str) -> bytes:
    """What a slot holds before a node's values go in: never zeros, which debugfs would not give blocks to."""
    return text.encode().ljust(size_bytes, PADDING)


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
