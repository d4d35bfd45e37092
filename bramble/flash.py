"""Cards and disks for declared nodes: who gets which medium, with which values, and what is kept of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

from agent.installer.occupant import encode_marker
from agent.protocol import Occupant
from bramble.node_images import Handouts, NodeImage, make_node_image
from fleet.errors import FleetError
from fleet.spec.model import ClusterSpec, NodeSpec
from imagebuilder.build import Image
from imagebuilder.errors import ImageBuilderError
from imagebuilder.flash.batch import Order, Result, flash_all
from imagebuilder.flash.media import Medium
from imagebuilder.flash.record import FlashRecord, write_record
from imagebuilder.flash.source import Patch, Piece, RawImage, open_raw
from imagebuilder.flash.target import FlashTarget
from imagebuilder.flash.writer import Phase
from imagebuilder.seal.chunks import load_chunks

RECORDS: Final = "cards"
"""Below the cluster's state directory."""


class Watcher(Protocol):
    """Shows what happens; called from one thread for each medium."""

    def progress(self, number: int, phase: Phase, done: int, total: int, /) -> None: ...

    def ended(self, number: int, result: Result, /) -> None: ...


@contextlib.contextmanager
def open_image(image: Image) -> Iterator[RawImage]:
    """The cluster's image with the pieces and digests of its index."""
    pieces = [Piece(chunk.offset, chunk.length, chunk.sha256) for chunk in load_chunks(image.index)]
    with open_raw(image.disk, image.id, pieces) as source:
        yield source


def flash_nodes(
    spec: ClusterSpec,
    image: Image,
    targets: Sequence[tuple[NodeSpec, Medium]],
    handouts: Handouts,
    *,
    records: Path,
    verify: bool,
    watcher: Watcher,
    clock: Callable[[], float] = time.time,
) -> list[Result]:
    """Write each node's own image to its medium, tell the control state, and keep a record of each.

    Raises:
        FleetError: a node may not be installed now; nothing was written.
        ImageBuilderError: the image cannot be read.
    """
    for _, medium in targets:  # a busy medium must not cost its node a ticket
        with FlashTarget(medium.path):
            pass
    made = [make_node_image(spec, node, image, handouts) for node, _ in targets]
    orders = [
        Order(
            path=medium.path,
            patches=tuple(Patch(offset, data) for offset, data in node_image.delta),
            marker=install_marker(spec, node, image, node_image),
            grow=True,
        )
        for (node, medium), node_image in zip(targets, made, strict=True)
    ]
    ended: dict[int, Result] = {}

    def end(number: int, result: Result) -> None:
        ended[number] = result
        watcher.ended(number, result)

    try:
        with open_image(image) as source:
            flash_all(source, orders, verify=verify, on_progress=watcher.progress, on_end=end)
    finally:  # of ^C as well: a card that is written is its node's
        for number, result in ended.items():
            ended[number] = _finish(targets[number], made[number], image, handouts, result)
        for number, result in ended.items():
            _record(targets[number], made[number], image, result, records, clock())
    return [ended[number] for number in range(len(targets))]


def install_marker(spec: ClusterSpec, node: NodeSpec, image: Image, made: NodeImage) -> bytes:
    """The sector by which an installer knows whose installation a disk holds."""
    occupant = Occupant(spec.name, node.name, image.id, made.handout.instance_id)
    return encode_marker(occupant)


def _finish(
    target: tuple[NodeSpec, Medium], made: NodeImage, image: Image, handouts: Handouts, result: Result
) -> Result:
    """Close the node's installation where its medium was written."""
    node, medium = target
    if result.outcome is not None:
        try:
            handouts.finish(node.name, made.handout.intent, image_id=image.id, medium=medium.title)
        except FleetError as error:
            return Result(None, ImageBuilderError(error.message, error.hint))
    return result


def _record(
    target: tuple[NodeSpec, Medium], made: NodeImage, image: Image, result: Result, records: Path, now: float
) -> None:
    node, medium = target
    write_record(
        records,
        FlashRecord(
            at=now,
            node=node.name,
            image_id=image.id,
            intent=made.handout.intent,
            path=medium.path,
            disk=medium.disk,
            size_bytes=medium.size_bytes,
            outcome=result.outcome,
            error=None if result.error is None else result.error.message,
        ),
    )
