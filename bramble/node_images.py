"""One node's own image outside of the network boot: its values come from the control server's state.

Whoever writes a card gets them from the running server, or, where none runs, from the state that the next one
will find. The store lets in one of them at a time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from bramble.paths import StateLayout, make_private
from fleet.admin_client import FleetReader
from fleet.controller import Controller
from fleet.errors import FleetError, InputError
from fleet.handout import Handout
from fleet.images import ImageFacts
from fleet.installs import ControlInfo, ImageProvider, PlannedImage, PlanRequest
from fleet.k3s.material import open_k3s
from fleet.spec.model import ClusterSpec, NodeSpec
from fleet.spec.values import suggest
from fleet.store.database import Store
from fleet.trust.pki import open_pki
from imagebuilder.build import Image
from imagebuilder.render import node_values
from pxe.net.interfaces import require_interface


class Handouts(Protocol):
    """Gives out nodes' values, and is told when they were written."""

    def begin(self, name: str) -> Handout: ...

    def finish(self, name: str, intent: int, *, image_id: str, medium: str) -> None: ...


@dataclass(frozen=True, slots=True)
class NodeImage:
    """The delta that makes the cluster's image one node's own, and what it was made from."""

    handout: Handout
    delta: tuple[tuple[int, bytes], ...]


def make_node_image(spec: ClusterSpec, node: NodeSpec, image: Image, handouts: Handouts) -> NodeImage:
    """Open an installation of ``node`` and render its delta against ``image``.

    Raises:
        FleetError: the node may not be installed now.
    """
    handout = handouts.begin(node.name)
    values = node_values(
        spec,
        node,
        control_urls=handout.control_urls,
        ca_pem=handout.ca_pem,
        ticket=handout.ticket.reveal(),
        disk_signature=handout.disk_signature,
        instance_id=handout.instance_id,
    )
    return NodeImage(handout, image.render_delta(values))


def require_node(spec: ClusterSpec, name: str) -> NodeSpec:
    """The declared node ``name``.

    Raises:
        InputError: there is none.
    """
    node = spec.find_node(name)
    if node is None:
        hint = suggest(name, (node.name for node in spec.nodes))
        raise InputError(f"{spec.path}: there is no node {name!r}", hint)
    return node


@contextlib.contextmanager
def open_handouts(spec: ClusterSpec, state: StateLayout) -> Iterator[Handouts]:
    """The running server's desk, or one over its state where no server runs.

    Raises:
        FleetError: the state cannot be used.
    """
    reader = FleetReader(state.directory, state.database)
    if reader.is_served():
        yield _ServedHandouts(reader)
        return
    make_private(state.directory)
    now = time.time()
    pki = open_pki(state.directory, spec.name, now)
    address = spec.network.server_address or require_interface(spec.network.interface).address
    control = ControlInfo((f"https://{address}:{spec.network.ports.control}",), pki.ca_pem)
    store = Store.open(state.database)
    try:
        k3s = open_k3s(state.k3s, spec.name, now)
        yield Controller(store, spec, pki, k3s, _NoInstallers(), control).handouts
    finally:
        store.close()


class _ServedHandouts:
    """The running server's desk, over its admin socket."""

    def __init__(self, reader: FleetReader) -> None:
        self._reader = reader

    def begin(self, name: str) -> Handout:
        return self._reader.begin_handout(name)

    def finish(self, name: str, intent: int, *, image_id: str, medium: str) -> None:
        self._reader.finish_handout(name, intent, image_id=image_id, medium=medium)


class _NoInstallers(ImageProvider):
    """No installer can ask while no server runs."""

    def plan_for(self, request: PlanRequest) -> PlannedImage:
        raise FleetError(f"no server runs that could install {request.node.name}")

    def prepare(self, spec: ClusterSpec) -> ImageFacts | None:
        raise FleetError("no server runs that could serve an image")

    def describe(self, image: str | None) -> ImageFacts:
        raise FleetError("no server runs that could serve an image")
