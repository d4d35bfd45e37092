"""The image room as the controller needs it: the images that this server serves, and plans for one node.

The cluster's image is that of the cluster.yaml in force. Others are served while a re-image or a rollout
names them. An image that was found once is in use until this process ends, so no garbage collection takes it
away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Protocol

from agent.protocol import DiskSelector, ImageSource, Patch
from bramble.boot_images import serve_boot_images
from bramble.boot_table import ControlAddress, make_boot_table
from bramble.kept_images import KeptImage, kept_image
from fleet.boots import NodeBoot
from fleet.images import SHORT, ImageFacts, unknown_image
from fleet.installs import PlannedImage, PlanRequest
from fleet.refusal import RefusedError
from fleet.spec.export import digest, image_inputs
from fleet.spec.model import ClusterSpec
from imagebuilder.build import Image
from imagebuilder.render import node_values
from pxe.boot.table import BootTable, NodeBootState


@dataclass(frozen=True, slots=True)
class ContentAddress:
    """Where image files are served, plain HTTP."""

    address: IPv4Address
    port: int

    def url(self, image: Image, file: str) -> str:
        return f"http://{self.address}:{self.port}/images/{image.id}/{file}"


class ImageStore(Protocol):
    """Where finished images are; `bramble.image_store` has it over the cache."""

    def open(self, image_id: str) -> Image | None:
        """The image of this id; None where there is none."""
        ...

    def ids(self) -> Iterable[str]:
        """Ids of all that are there."""
        ...

    def kept(self) -> Iterable[KeptImage]:
        """All that are there, without using any."""
        ...

    def built_for(self, spec: ClusterSpec) -> Image | None:
        """The image of a cluster.yaml, where it is built and up to date. Takes seconds."""
        ...


class ClusterImages:
    """Implements `fleet.installs.ImageProvider` for one cluster.

    Args:
        image: The cluster's.
    """

    def __init__(self, spec: ClusterSpec, image: Image, content: ContentAddress, others: ImageStore) -> None:
        self._spec = spec
        self._image = image
        self._content = content
        self._others = others
        self._opened = {image.id: image}
        others.open(image.id)  # whoever looked it up need not keep it in use
        self._prepared = {digest(image_inputs(spec)): image}

    @property
    def current(self) -> Image:
        """The cluster's image."""
        return self._image

    def shown(self) -> list[KeptImage]:
        """Every image of this cluster, its present one first, then the newest ones."""
        mine = [one for one in self._others.kept() if one.cluster == self._spec.name]
        found = {one.id: one for one in sorted(mine, key=lambda one: (one.made_at, one.id))}
        current = found.pop(self._image.id, None) or kept_image(self._image.manifest, 0.0)
        return [current, *reversed(found.values())]

    def prepare(self, spec: ClusterSpec) -> ImageFacts | None:
        """Look for the finished image of a cluster.yaml, which `declare` then makes the cluster's.

        None: it is not built. Looked for anew each time: overlays change where the file does not.
        """
        found = self._others.built_for(spec)
        if found is None:
            return None
        self._prepared[digest(image_inputs(spec))] = self._opened[found.id] = found
        return _facts(found)

    def declare(self, spec: ClusterSpec) -> None:
        """Render plans from another cluster.yaml; its image is the cluster's from now on, where it was
        prepared."""
        self._spec = spec
        self._image = self._prepared.get(digest(image_inputs(spec)), self._image)

    def find(self, image_id: str | None) -> Image | None:
        """An image by its whole id; None: the cluster's."""
        if image_id is None:
            return self._image
        found = self._opened.get(image_id) or self._others.open(image_id)
        if found is not None:
            self._opened[found.id] = found
        return found

    def describe(self, image: str | None) -> ImageFacts:
        """See `fleet.installs.ImageProvider`."""
        if image is None:
            return _facts(self._image)
        ids = [known for known in {*self._others.ids(), *self._opened} if known.startswith(image)]
        if len(ids) > 1:
            shown = ", ".join(sorted(known[:SHORT] for known in ids))
            raise RefusedError(
                409, "image", f"several images begin with {image!r}: {shown}", "Say more of it."
            )
        found = self.find(ids[0]) if ids and image else None
        if found is None:
            raise unknown_image(image)
        facts = _facts(found)
        if facts.cluster != self._spec.name:
            raise RefusedError(
                409,
                "image",
                f"image {facts.short} was built for cluster {facts.cluster!r}, this is {self._spec.name!r}",
                "'bramble build' makes one of this cluster.",
            )
        return facts

    def plan_for(self, request: PlanRequest) -> PlannedImage:
        """What this node's installer is to write. Milliseconds: a delta is bytes in known places."""
        image = self.find(request.image_id)
        if image is None:
            raise unknown_image(request.image_id or "")
        node = request.node
        values = node_values(
            self._spec,
            node,
            control_urls=request.control.urls,
            ca_pem=request.control.ca_pem,
            ticket=request.ticket.reveal(),
            disk_signature=request.disk_signature,
            instance_id=request.instance_id,
        )
        delta = tuple(Patch(offset, data.hex()) for offset, data in image.render_delta(values))
        return PlannedImage(
            image=ImageSource(
                image_id=image.id,
                image_url=self._content.url(image, image.compressed.name),
                index_url=self._content.url(image, image.index.name),
                index_sha256=image.index_sha256,
                size_bytes=image.disk.stat().st_size,
            ),
            disk=DiskSelector(kind=node.disk.kind.value, serial=node.disk.serial),
            delta=delta,
        )


def make_table(
    states: Iterable[NodeBoot],
    find: Callable[[str | None], Image | None],
    control: ControlAddress,
    boot_images: Path,
) -> BootTable:
    """What every node may boot now, each from the image that its intent names.

    A node whose image is not there any more is held: another image than the wanted one is none.

    Args:
        find: `ClusterImages.find`; the cluster's image is always served.
        boot_images: Where signed boot images of nodes are.
    """
    states = list(states)
    made: dict[str, NodeBootState] = {}
    files: dict[str, Path] = {}
    wanted = dict.fromkeys([None, *(state.image_id for state in states)])
    for image_id in wanted:
        group = [state for state in states if state.image_id == image_id]
        image = find(image_id)
        if image is None:
            made |= {state.name: _held(state) for state in group}
            continue
        table = serve_boot_images(make_boot_table(group, image, control), group, image, control, boot_images)
        made |= {node.name: node for node in table.nodes}
        files |= table.images
    return BootTable(nodes=tuple(made[state.name] for state in states), images=files)


def _held(state: NodeBoot) -> NodeBootState:
    return NodeBootState(
        name=state.name,
        mac=state.mac,
        serial=state.serial,
        address=state.address,
        install_intent=None,
        reason=f"its image {(state.image_id or '')[:SHORT]} is not in this server's store: build it again",
        hold=True,
    )


def _facts(image: Image) -> ImageFacts:
    return ImageFacts(id=image.id, cluster=image.manifest.cluster, k3s_version=image.manifest.k3s.version)
