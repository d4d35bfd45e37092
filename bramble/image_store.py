"""Finished images in the cache of this machine, for a server that runs."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from bramble.kept_images import KeptImage, load_kept
from bramble.paths import agent_package, apt_access
from fleet.spec.model import ClusterSpec
from imagebuilder.build import KIND, Image, find_image, open_image
from imagebuilder.errors import ImageBuilderError
from imagebuilder.store import Store

log = logging.getLogger(__name__)


class CachedImages:
    """Implements `bramble.images.ImageStore`; what it gave out stays in the cache while `store` lives."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: dict[str, KeptImage | None] = {}

    def open(self, image_id: str) -> Image | None:
        return open_image(image_id, self._store)

    def ids(self) -> Iterable[str]:
        return [entry.name for entry in self._store.entries(KIND)]

    def kept(self) -> Iterable[KeptImage]:
        """Each is read once: what a finished image's manifest says does not change."""
        entries = {entry.name: entry for entry in self._store.entries(KIND)}
        self._kept = {
            name: self._kept[name] if name in self._kept else _look_at(entry)
            for name, entry in entries.items()
        }
        return [one for one in self._kept.values() if one is not None]

    def built_for(self, spec: ClusterSpec) -> Image | None:
        return find_image(spec, store=self._store, agent_package=agent_package(), apt=apt_access())


def _look_at(entry: Path) -> KeptImage | None:
    """An image that goes away, or is of another version of Bramble, is none to choose."""
    try:
        return load_kept(entry)
    except (OSError, ImageBuilderError) as error:
        log.info("an image is not shown: %s", error, extra={"image": entry.name})
        return None
