"""What a disk holds before it is written, and the marker by which an installation of ours is known. Pure.

The marker is the last sector of the first MiB, between the partition table and the first partition of every
layout that we install:

    0–7 magic, 8–39 SHA-256 of bytes 40–511, 40–511 JSON of `Occupant`, padded with zeros

INVALIDATE clears it with the rest of the first MiB. COMMIT writes it before sector 0, so it is there whenever
the disk boots. Without the signature of sector 0 nothing boots, and a marker that is left counts for nothing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from agent.errors import AgentError
from agent.installer.layout import HEAD_BYTES, SECTOR_BYTES, SIGNATURE
from agent.protocol import Occupant
from agent.wire import encode

MARKER_OFFSET = HEAD_BYTES - SECTOR_BYTES
MAGIC = b"BRAMBLE\x01"
GPT_MAGIC = b"EFI PART"
"""At the start of sector 1. Source: UEFI 2.10 §5.3.2"""
UNKNOWN = "unknown"
_DIGEST_END = len(MAGIC) + hashlib.sha256().digest_size


@dataclass(frozen=True, slots=True)
class Finding:
    """`occupant` is None unless the disk holds an installation of ours; `text` says what is there."""

    occupant: Occupant | None
    text: str


def encode_marker(occupant: Occupant) -> bytes:
    """The marker's sector.

    Raises:
        AgentError: the names do not fit.
    """
    body = encode(occupant)
    if len(body) > SECTOR_BYTES - _DIGEST_END:
        raise AgentError(
            f"the marker of {occupant.node!r} has {len(body)} bytes, {SECTOR_BYTES - _DIGEST_END} fit",
            "The names in the install plan are too long; shorten them in cluster.yaml.",
        )
    padded = body.ljust(SECTOR_BYTES - _DIGEST_END, b"\0")
    return MAGIC + hashlib.sha256(padded).digest() + padded


def inspect_head(head: bytes) -> Finding:
    """Judge a disk by its first MiB. Any bytes, also too few, give an answer.

    A marker that is damaged, or of a later release, still says that somebody's node is here.
    """
    has_signature = head[510:512] == SIGNATURE
    marker = head[MARKER_OFFSET : MARKER_OFFSET + SECTOR_BYTES]
    if has_signature and marker.startswith(MAGIC):
        occupant = _parse_marker(marker)
        return Finding(occupant, f"an installation of {occupant.node} of cluster {occupant.cluster}")
    if has_signature or head[SECTOR_BYTES:].startswith(GPT_MAGIC):
        return Finding(None, "a partition table that is not Bramble's")
    return Finding(None, "no partition table")


def _parse_marker(marker: bytes) -> Occupant:
    body = marker[_DIGEST_END:]
    value: object = None
    if hashlib.sha256(body).digest() == marker[len(MAGIC) : _DIGEST_END]:
        try:
            value = json.loads(body.rstrip(b"\0"))
        except (ValueError, RecursionError):
            value = None
    fields = value if isinstance(value, dict) else {}

    def text(name: str) -> str:
        found = fields.get(name)
        return found if isinstance(found, str) and found and found.isprintable() else UNKNOWN

    return Occupant(
        cluster=text("cluster"),
        node=text("node"),
        image_id=text("image_id"),
        installation=text("installation"),
    )
