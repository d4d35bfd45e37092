"""A proof of one node of a cluster: its board, its own bytes, and what it must be in the end."""

from __future__ import annotations

import secrets
import tempfile
import time
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

from bramble.prove import Request
from bramble.verdict import Expectation
from fleet.boards import BoardModel, DiskKind, MacAddress, Serial
from fleet.spec.model import ClusterSpec, NodeSpec
from fleet.trust.pki import open_pki
from imagebuilder.build import Image
from imagebuilder.delta import NodeValues
from imagebuilder.manifest import FILE_NAME, load_manifest
from imagebuilder.render import node_values
from lab.errors import LabError
from lab.qemu import MachineKind, UserNetwork

STRANGER_SERIAL: Final = Serial.parse("10000000d03114aa")
STRANGER_MAC: Final = MacAddress.parse("dc:a6:32:01:02:03")
STRANGER_NETWORK: Final = UserNetwork(subnet=IPv4Network("10.0.2.0/24"), host=IPv4Address("10.0.2.2"))


def request_for_board(
    file: Path, model: BoardModel, *, machine: MachineKind, timeout_s: float | None
) -> Request:
    """A proof that an image boots on a board, whatever it is for."""
    return Request(
        file=file,
        model=model,
        serial=STRANGER_SERIAL,
        mac=STRANGER_MAC,
        disk=_disk(model.disks[0], machine),
        network=STRANGER_NETWORK,
        machine=machine,
        timeout_s=timeout_s,
    )


def request_for_node(
    file: Path, spec: ClusterSpec, node: NodeSpec, *, machine: MachineKind, timeout_s: float | None
) -> Request:
    """A proof of a node.

    Where ``file`` is the cluster's image in the store, the node's values are made up for the proof (a ticket
    that no server knows, a CA that nobody has) and put onto the copy; any other image is taken as the node's
    own.
    """
    if machine is MachineKind.RASPI4B and node.board is not BoardModel.PI4:
        raise LabError(
            f"{node.name} is a {node.board.title}; QEMU's raspi4b is a Raspberry Pi 4",
            "Prove it on --machine virt.",
        )
    image = _cluster_image(file)
    values = _made_up(spec, node) if image is not None else None
    expected = Expectation.of(
        spec,
        node,
        instance_id=values.instance_id if values else None,
        disk_signature=values.disk_signature if values else None,
    )
    if machine is MachineKind.RASPI4B:
        # That machine has no Ethernet of the board's. Its USB adapter has another MAC address than the node,
        # and the node's address is bound to the node's: any address will do.
        expected = replace(expected, address=None)
    return Request(
        file=file,
        model=node.board,
        serial=node.serial or STRANGER_SERIAL,
        mac=node.mac or STRANGER_MAC,
        disk=_disk(node.disk.kind, machine),
        network=UserNetwork(subnet=spec.network.subnet, host=_free_address(spec)),
        machine=machine,
        timeout_s=timeout_s,
        delta=image.render_delta(values) if image is not None and values is not None else (),
        expected=expected,
    )


def _cluster_image(file: Path) -> Image | None:
    directory = file.resolve().parent
    if file.resolve().name != "disk.img" or not (directory / FILE_NAME).is_file():
        return None
    manifest = load_manifest(directory)
    return Image(id=manifest.image_id, root=directory, manifest=manifest)


def _made_up(spec: ClusterSpec, node: NodeSpec) -> NodeValues:
    with tempfile.TemporaryDirectory(prefix="bramble-proof-") as scratch:
        ca_pem = open_pki(Path(scratch), spec.name, time.time()).ca_pem
    return node_values(
        spec,
        node,
        control_urls=[f"https://{_free_address(spec)}:{spec.network.ports.control}"],
        ca_pem=ca_pem,
        ticket=secrets.token_hex(32),
        disk_signature=secrets.randbits(32) or 1,
        instance_id=f"proof-{secrets.token_hex(4)}",
    )


def _free_address(spec: ClusterSpec) -> IPv4Address:
    """The gateway's, where there is one: QEMU plays it. Otherwise the first that no node has."""
    taken = {node.address for node in spec.nodes}
    if spec.network.gateway is not None and spec.network.gateway not in taken:
        return spec.network.gateway
    return next(address for address in spec.network.subnet.hosts() if address not in taken)


def _disk(kind: DiskKind, machine: MachineKind) -> DiskKind:
    """The model of the Pi 4 has an SD card and nothing else."""
    return DiskKind.SD if machine is MachineKind.RASPI4B else kind
