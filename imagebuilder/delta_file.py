"""A node delta as a file: what makes an image one node's own, to be laid over it later or elsewhere.

JSON with these keys:

    format      "bramble-node-delta"
    version     1
    image_id    the image that it belongs to
    size_bytes  the size of that image
    node        the node's name
    patches     [{"offset": N, "data": BASE64, "before": SHA256}, …], ascending and disjoint: bytes of the
                disk, and the digest of what the image has there
    sha256      of the text of all this without the key sha256, keys sorted, no spaces

``before`` is what makes a wrong image, or one that is another node's already, be noticed before anything is
written. The file holds the node's single-use ticket: it is as secret as the card. Pure, but for ``load``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Self

from imagebuilder.disk.source import ByteSource
from imagebuilder.errors import ImageBuilderError, NotUnderstood

FORMAT: Final = "bramble-node-delta"
VERSION: Final = 1
MAX_DELTA_BYTES: Final = 128 * 1024
MAX_FILE_BYTES: Final = 4 * MAX_DELTA_BYTES


class DeltaError(ImageBuilderError):
    """The delta does not belong to this image, or is damaged."""


@dataclass(frozen=True, slots=True)
class DeltaPatch:
    """``data`` replaces bytes at ``offset`` whose SHA-256 is ``before``."""

    offset: int
    data: bytes = field(repr=False)
    before: str

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaFile:
    """One node's delta against one image."""

    image_id: str
    size_bytes: int
    node: str
    patches: tuple[DeltaPatch, ...]

    def render(self) -> str:
        """The text of the file."""
        body = self._body()
        return json.dumps({**body, "sha256": _digest(body)}, indent=1, sort_keys=True) + "\n"

    def _body(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "image_id": self.image_id,
            "size_bytes": self.size_bytes,
            "node": self.node,
            "patches": [
                {
                    "offset": patch.offset,
                    "data": base64.b64encode(patch.data).decode(),
                    "before": patch.before,
                }
                for patch in self.patches
            ],
        }

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what ``render`` wrote.

        Raises:
            NotUnderstood: something else, a damaged one, or patches that cannot be.
        """
        try:
            body = json.loads(text)
            if not isinstance(body, dict) or body.get("format") != FORMAT or body.get("version") != VERSION:
                raise ValueError(f"it is not a {FORMAT} of version {VERSION}")
            said = body.pop("sha256")
            if said != _digest(body):
                raise ValueError(f"its sha256 is {_digest(body)}, it says {said}: it is damaged")
            patches = tuple(
                DeltaPatch(
                    int(item["offset"]), base64.b64decode(item["data"], validate=True), str(item["before"])
                )
                for item in body["patches"]
            )
            delta = cls(
                image_id=str(body["image_id"]),
                size_bytes=int(body["size_bytes"]),
                node=str(body["node"]),
                patches=patches,
            )
        except (ValueError, KeyError, TypeError, binascii.Error, RecursionError) as exc:
            raise NotUnderstood(
                f"the delta cannot be read: {exc}", "Make it again: bramble image node NODE --delta -o FILE"
            ) from exc
        delta._require_sound()
        return delta

    def _require_sound(self) -> None:
        total = sum(len(patch.data) for patch in self.patches)
        ascending = all(one.end <= other.offset for one, other in pairwise(self.patches))
        inside = all(patch.offset >= 0 and patch.end <= self.size_bytes for patch in self.patches)
        if not (self.patches and ascending and inside and total <= MAX_DELTA_BYTES):
            raise NotUnderstood(
                f"the delta's {len(self.patches)} patches of together {total} bytes do not ascend, overlap, "
                f"leave the image of {self.size_bytes} bytes, or are more than {MAX_DELTA_BYTES} bytes",
                "Make it again: bramble image node NODE --delta -o FILE",
            )


def make_delta_file(
    image_id: str, size_bytes: int, node: str, patches: Sequence[tuple[int, bytes]], source: ByteSource
) -> DeltaFile:
    """The file of a rendered delta.

    Args:
        patches: (offset, bytes), ascending and disjoint.
        source: the image as it was built.

    Raises:
        NotUnderstood: the patches cannot be a delta of an image of this size.
    """
    delta = DeltaFile(
        image_id=image_id,
        size_bytes=size_bytes,
        node=node,
        patches=tuple(
            DeltaPatch(offset, data, hashlib.sha256(source.read_at(offset, len(data))).hexdigest())
            for offset, data in patches
        ),
    )
    delta._require_sound()
    return delta


def require_applicable(delta: DeltaFile, source: ByteSource, size_bytes: int) -> bool:
    """Whether the delta is still to be applied to this disk; False where it was applied already.

    Args:
        source: an image, or a disk that begins with one.
        size_bytes: its size; a disk may be larger than the image.

    Raises:
        DeltaError: it belongs to another image, or the image is another node's already.
    """
    if size_bytes < delta.size_bytes:
        raise DeltaError(
            f"the delta of {delta.node} is for an image of {delta.size_bytes} bytes, this has {size_bytes}",
            f"Take the image {delta.image_id}: 'bramble image show' names the one of a cluster.",
        )
    found = [source.read_at(patch.offset, len(patch.data)) for patch in delta.patches]
    if all(data == patch.data for data, patch in zip(found, delta.patches, strict=True)):
        return False
    # A run that was interrupted leaves some patches applied and others not.
    wrong = [
        patch
        for data, patch in zip(found, delta.patches, strict=True)
        if data != patch.data and hashlib.sha256(data).hexdigest() != patch.before
    ]
    if wrong:
        raise DeltaError(
            f"{len(wrong)} of {len(found)} places that the delta of {delta.node} changes hold other bytes "
            f"than the image {delta.image_id} has there; the first is byte {wrong[0].offset}",
            "The delta is of another image, or this one was made another node's. Nothing was written. Take "
            "the image as it was built.",
        )
    return True


def load_delta(path: Path) -> DeltaFile:
    """The delta in a file.

    Raises:
        NotUnderstood: it is none.
    """
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise NotUnderstood(
            f"{path} has more than {MAX_FILE_BYTES} bytes and is no delta",
            "Give the delta first, then the image.",
        )
    return DeltaFile.parse(data.decode("utf-8", "replace"))


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
