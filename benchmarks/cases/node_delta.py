"""What makes an image one node's own: a delta, beside a copy of the image."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from benchmarks.bench import Bench
from benchmarks.demo_image import demo_spec, linked_store, require_base
from benchmarks.errors import BenchmarkError
from benchmarks.measure import Better, Subject, Table, interleave
from benchmarks.processes import timed
from bramble.paths import agent_package
from fleet.boards import Serial
from fleet.spec.model import ClusterSpec, NodeSpec
from imagebuilder.build import Image, build_image
from imagebuilder.delta import disk_signature
from imagebuilder.disk.mbr import MBR_BYTES, parse_mbr
from imagebuilder.disk.source import open_source
from imagebuilder.render import node_values
from imagebuilder.slots import read_slot

NODES: Final = 100
CA_PEM: Final = f"-----BEGIN CERTIFICATE-----\n{'A' * 64}\n" * 12 + "-----END CERTIFICATE-----\n"
"""As long as the certificate of a control CA."""

Delta = tuple[tuple[int, bytes], ...]


def run(bench: Bench) -> Table:
    """A hundred nodes' deltas; the alternative that other tools take is one customised copy for each node."""
    require_base(bench.store)
    with bench.directory("spec") as directory, linked_store(bench) as store:
        spec = demo_spec(directory)
        image = build_image(spec, store=store, agent_package=agent_package())
        nodes = [make_node(spec.nodes[0], number) for number in range(NODES)]
        sizes = {sum(len(data) for _offset, data in render(spec, image, node)) for node in nodes}
        _check(bench, spec, image, nodes[-1])
        rows = interleave(
            [
                Subject(
                    name="bramble: node delta",
                    measure=lambda: _render_all(spec, image, nodes),
                    note=" or ".join(f"{size} bytes" for size in sorted(sizes)) + " a node",
                ),
                Subject(
                    name="cp --sparse=always of the image",
                    measure=lambda: _copy(bench, image),
                    note=f"{image.manifest.mapped_bytes / 1e6:.0f} MB a node, not yet customised",
                ),
            ],
            bench.rounds,
        )
    return Table(
        title=f"Node delta, {NODES} nodes",
        unit="ms a node",
        better=Better.LOWER,
        work="Templates, JSON and bytes at their places on the disk, for the demo's image. One delta is laid "
        "over a copy, in which then the node's own name, signature and ticket are read back.",
        rows=rows,
    )


def make_node(like: NodeSpec, number: int) -> NodeSpec:
    """One of many nodes."""
    return replace(
        like,
        name=f"node-{number:03d}",
        serial=Serial.parse(f"{0xC0FFEE00_20000000 + number:016x}"),
        address=IPv4Address("10.77.0.20") + number,
    )


def render(spec: ClusterSpec, image: Image, node: NodeSpec) -> Delta:
    """A node's delta, as the control server makes it."""
    values = node_values(
        spec,
        node,
        control_urls=["https://10.77.0.1:7443"],
        ca_pem=CA_PEM,
        ticket="0" * 64,
        disk_signature=disk_signature(spec.name, node.name, 1),
        instance_id=f"{node.name}-1",
    )
    return image.render_delta(values)


def _render_all(spec: ClusterSpec, image: Image, nodes: Iterable[NodeSpec]) -> float:
    started = time.perf_counter()
    for node in nodes:
        render(spec, image, node)
    return (time.perf_counter() - started) * 1000 / NODES


def _copy(bench: Bench, image: Image) -> float:
    with bench.directory("copy") as directory:
        return timed(["cp", "--sparse=always", "--", image.disk, directory / "disk.img"])[0] * 1000


def _check(bench: Bench, spec: ClusterSpec, image: Image, node: NodeSpec) -> None:
    """Lay a delta over a copy and read the node's values back through the filesystems."""
    with bench.directory("check") as directory:
        disk = directory / "disk.img"
        timed(["cp", "--sparse=always", "--", image.disk, disk])
        _apply(disk, render(spec, image, node))
        with open_source(disk) as source:
            signature = parse_mbr(source.read_at(0, MBR_BYTES)).signature
            written = json.loads(read_slot(source, image.manifest.slots.file("node-json")))
    expected = disk_signature(spec.name, node.name, 1)
    if signature != expected or written["node"] != node.name or written["ticket"] != "0" * 64:
        raise BenchmarkError(f"the delta of {node.name} did not make the image its own")


def _apply(disk: Path, delta: Delta) -> None:
    with disk.open("r+b") as file:
        for offset, data in delta:
            file.seek(offset)
            file.write(data)
