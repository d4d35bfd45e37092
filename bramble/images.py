"""The image room as the controller needs it: plans for one node, rendered against the cluster's image."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from agent.protocol import DiskSelector, ImageSource, Patch
from fleet.installs import ControlInfo, PlannedImage
from fleet.secret import Secret
from fleet.spec.model import ClusterSpec, NodeSpec
from imagebuilder.build import Image
from imagebuilder.render import node_values


@dataclass(frozen=True, slots=True)
class ContentAddress:
    """Where image files are served, plain HTTP."""

    address: IPv4Address
    port: int

    def url(self, image: Image, file: str) -> str:
        return f"http://{self.address}:{self.port}/images/{image.id}/{file}"


class ClusterImages:
    """Implements `fleet.installs.ImageProvider` for one cluster with one image."""

    def __init__(self, spec: ClusterSpec, image: Image, content: ContentAddress) -> None:
        self._spec = spec
        self._image = image
        self._content = content

    def declare(self, spec: ClusterSpec) -> None:
        """Render plans from another cluster.yaml, of which the image is the same."""
        self._spec = spec

    def plan_for(
        self, node: NodeSpec, control: ControlInfo, *, ticket: Secret, disk_signature: int, instance_id: str
    ) -> PlannedImage:
        """What this node's installer is to write. Milliseconds: a delta is bytes in known places."""
        image = self._image
        values = node_values(
            self._spec,
            node,
            control_urls=control.urls,
            ca_pem=control.ca_pem,
            ticket=ticket.reveal(),
            disk_signature=disk_signature,
            instance_id=instance_id,
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
