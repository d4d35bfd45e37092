"""What commands need that make boot files outside of a running server: the cluster, its image, the server's
address and pin, and what every node may boot now.

The store is only read, so it works beside a running server, and gives what that server would serve.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from bramble.boot_table import ControlAddress
from bramble.paths import StateLayout, agent_package, make_private, state_layout, store
from fleet.boots import NodeBoot, boots_before_the_first_start, read_boots
from fleet.errors import FleetError
from fleet.spec import load_cluster
from fleet.spec.model import ClusterSpec
from fleet.store.database import NoRecordError, Store
from fleet.trust.pki import open_pki
from imagebuilder.build import Image, find_image
from pxe.net.interfaces import require_interface


@dataclass(frozen=True, slots=True, kw_only=True)
class BootSources:
    """Everything that a boot file is made from.

    Attributes:
        boot_images: Where the server looks for boot images.
    """

    spec: ClusterSpec
    image: Image
    control: ControlAddress
    states: list[NodeBoot]
    boot_images: Path


def load_sources(file: Path) -> BootSources:
    """Read cluster.yaml, find its image, and ask the server's state.

    Raises:
        FleetError: The image was not built yet, or the state can not be read.
        PxeError: The interface that names the server's address is not there.
    """
    spec = load_cluster(file)
    image = find_image(spec, store=store(), agent_package=agent_package())
    if image is None:
        raise FleetError(
            f"{spec.path}: the cluster's image is not there yet, or is out of date",
            f"Build it first: bramble build {file}",
        )
    state = state_layout(spec)
    make_private(state.directory)
    now = time.time()
    pki = open_pki(state.directory, spec.name, now)
    address = spec.network.server_address or require_interface(spec.network.interface).address
    pki.ensure_server_certificate([address], [f"control.{spec.domain}"], now)
    control = ControlAddress(address=address, port=spec.network.ports.control, pin=pki.server_pin())
    return BootSources(
        spec=spec,
        image=image,
        control=control,
        states=_states(spec, state, now),
        boot_images=state.boot_images,
    )


def _states(spec: ClusterSpec, state: StateLayout, now: float) -> list[NodeBoot]:
    first = {boot.name: boot for boot in boots_before_the_first_start(spec)}
    try:
        opened = Store.open_readonly(state.database)
        try:
            known = {boot.name: boot for boot in read_boots(opened, spec, now)}
        finally:
            opened.close()
    except NoRecordError:
        return list(first.values())
    return [known.get(name, boot) for name, boot in first.items()]
