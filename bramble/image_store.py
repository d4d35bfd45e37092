"""Finished images in the cache of this machine, for a server that runs."""

from __future__ import annotations

from collections.abc import Iterable

from bramble.paths import agent_package, apt_access
from fleet.spec.model import ClusterSpec
from imagebuilder.build import KIND, Image, find_image, open_image
from imagebuilder.store import Store


class CachedImages:
    """Implements `bramble.images.ImageStore`; what it gave out stays in the cache while `store` lives."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def open(self, image_id: str) -> Image | None:
        return open_image(image_id, self._store)

    def ids(self) -> Iterable[str]:
        return [entry.name for entry in self._store.entries(KIND)]

    def built_for(self, spec: ClusterSpec) -> Image | None:
        return find_image(spec, store=self._store, agent_package=agent_package(), apt=apt_access())
