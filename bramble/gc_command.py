"""`bramble gc` that knows what the fleet needs: images that nodes hold, that orders and rollouts name.

An image that a node holds stays, because it is what one goes back to: 'bramble rollout --image OLD'.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from bramble.paths import state_layout, store
from fleet.cli.names import default_file
from fleet.spec import load_cluster
from fleet.spec.model import ClusterSpec
from fleet.store.database import NoRecordError
from fleet.store.database import Store as Record
from imagebuilder.build import KIND
from imagebuilder.cli_store import gc as plain_gc
from imagebuilder.store import Store


def needed_images(spec: ClusterSpec) -> Iterator[str]:
    """Ids of images that a cluster's record names.

    Raises:
        FleetError: The record can not be read.
    """
    try:
        record = Record.open_readonly(state_layout(spec).database)
    except NoRecordError:
        return
    try:
        with record.read() as reader:
            found = [node.image_id for node in reader.nodes()]
            found += [order.image_id for order in reader.open_reimages().values()]
            rollout = reader.open_rollout()
    finally:
        record.close()
    if rollout is not None:
        found.append(rollout.image_id)
    yield from sorted({image for image in found if image is not None})


def _gc(clusters: tuple[Path, ...], no_cluster: bool, **arguments: Any) -> None:
    """What the fleet needs is in use while the cache is cleaned."""
    keeper = Store(store().root)
    meant = default_file()
    clusters = clusters or ((meant,) if meant.is_file() and not no_cluster else ())
    for file in clusters:
        for image in needed_images(load_cluster(file)):
            keeper.find(KIND, image)
    if plain_gc.callback is None:
        raise RuntimeError("bramble gc has no callback")
    plain_gc.callback(clusters=clusters, no_cluster=no_cluster, **arguments)


def _with_fleet(command: click.Command) -> click.Command:
    extended = copy.copy(command)
    extended.callback = _gc
    return extended


gc = _with_fleet(plain_gc)
