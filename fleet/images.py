"""Images as the fleet knows them: by id, with what decides whether a node may get one. Pure.

Which image a node gets is decided here and nowhere else: the one that its open re-image names, else the
cluster's, which is that of the cluster.yaml in force.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fleet.refusal import RefusedError
from fleet.store.records import ReimageRecord
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


def wanted_image(reader: Reader, node: str) -> str | None:
    """The image that the node's open re-image names; None: the cluster's.

    It counts for every intent while the order is open: a person who lets a quarantined node try again opens
    another one.
    """
    order = reader.open_reimage(node)
    return None if order is None else order.image_id


def wanted_images(orders: Mapping[str, ReimageRecord]) -> dict[str, str]:
    """Node → image, of those whose open re-image names one."""
    return {name: order.image_id for name, order in orders.items() if order.image_id is not None}


def unknown_image(text: str) -> RefusedError:
    """The answer where an image was named that is not there."""
    return RefusedError(
        404,
        "image",
        f"there is no image {text!r} in this server's store",
        "'bramble build' makes one and prints its id; 'bramble store list' shows those that are there.",
    )
