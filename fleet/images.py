"""Images as the fleet knows them: by id, with what decides whether a node may get one. Pure.

Which image a node gets is decided here and nowhere else: the one that its open re-image names, else the
cluster's, which is that of the cluster.yaml in force.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fleet.refusal import RefusedError
from fleet.store.records import IntentRecord, ReimageRecord
from fleet.store.transaction import Reader

SHORT: Final = 12
"""Characters of an id that people read and type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """A finished image of this machine's store.

    Attributes:
        cluster: The cluster for which it was built.
        k3s_version: The release in it, `v1.33.5+k3s1`.
    """

    id: str
    cluster: str
    k3s_version: str

    @property
    def short(self) -> str:
        return self.id[:SHORT]


def image_of(intent: IntentRecord | None, order: ReimageRecord | None) -> str | None:
    """The image that an intent installs; None: the cluster's.

    Args:
        order: The node's open re-image.
    """
    if intent is None or order is None or order.number != intent.number:
        return None
    return order.image_id


def wanted_image(reader: Reader, intent: IntentRecord) -> str | None:
    """`image_of` from the store."""
    return image_of(intent, reader.reimage(intent.node, intent.number))


def wanted_images(intents: Mapping[str, IntentRecord], orders: Mapping[str, ReimageRecord]) -> dict[str, str]:
    """Node → image, of those whose open intent installs another than the cluster's."""
    found = {name: image_of(intent, orders.get(name)) for name, intent in intents.items()}
    return {name: image for name, image in found.items() if image is not None}


def unknown_image(text: str) -> RefusedError:
    """The answer where an image was named that is not there."""
    return RefusedError(
        404,
        "image",
        f"there is no image {text!r} in this server's store",
        "'bramble build' makes one and prints its id; 'bramble store list' shows those that are there.",
    )
