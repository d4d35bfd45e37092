"""Finished images as they are shown and chosen from: a few words of each, and no hold on any."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fleet.images import SHORT
from imagebuilder.manifest import Manifest, load_manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptImage:
    """One image of this machine's store. A manifest is up to a megabyte; this is what is left of it.

    Attributes:
        cluster: For which it was built.
        k3s: The release in it, and whether that is a simulator, for people.
        places: Where a node's own bytes are laid over it.
        made_at: UTC seconds; 0: nobody knows.
    """

    id: str
    cluster: str
    base: str
    kernel: str
    k3s: str
    size_bytes: int
    mapped_bytes: int
    compressed_bytes: int
    changed_files: int
    packages: tuple[str, ...]
    places: int
    made_at: float

    @property
    def short(self) -> str:
        return self.id[:SHORT]


def kept_image(manifest: Manifest, made_at: float) -> KeptImage:
    """What is shown of an image."""
    return KeptImage(
        id=manifest.image_id,
        cluster=manifest.cluster,
        base=manifest.base.name,
        kernel=manifest.base.kernel,
        k3s=manifest.k3s.title,
        size_bytes=manifest.size_bytes,
        mapped_bytes=manifest.mapped_bytes,
        compressed_bytes=manifest.compressed_bytes,
        changed_files=len(manifest.changes),
        packages=manifest.packages,
        places=len(manifest.slots.files) + len(manifest.slots.partuuids) + 1,
        made_at=made_at,
    )


def load_kept(entry: Path) -> KeptImage:
    """Look at an entry of the store.

    Raises:
        OSError: It is gone.
        ImageBuilderError: Its manifest is of another version of Bramble.
    """
    return kept_image(load_manifest(entry), entry.stat().st_mtime)
