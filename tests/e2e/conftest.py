"""What the end-to-end tests share: base and image from the store, a network that this process is alone in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bramble.demo import ensure_base, write_spec
from bramble.demo_screen import PlainScreen
from bramble.paths import MIRROR_VARIABLE, agent_package, store
from bramble.rehearsal import Rehearsal
from fleet.spec import load_cluster
from fleet.spec.model import ClusterSpec
from imagebuilder.build import Image, build_image
from lab.network import enter_private_network, has_private_network

Rehearse = Callable[[ClusterSpec], Rehearsal]


@pytest.fixture(scope="session")
def demo_spec(tmp_path_factory: pytest.TempPathFactory) -> ClusterSpec:
    """The demo's cluster, with the simulator's release."""
    return load_cluster(write_spec(tmp_path_factory.mktemp("cluster"), None))


@pytest.fixture(scope="session")
def image(demo_spec: ClusterSpec) -> Image:
    """The cluster's image; the base is built first where the store does not have it."""
    ensure_base(store(), PlainScreen(), mirror=os.environ.get(MIRROR_VARIABLE))
    return build_image(demo_spec, store=store(), agent_package=agent_package())


@pytest.fixture(scope="session")
def private_network(image: Image) -> None:
    """From here on this process sees the lab's network only; the image was made before."""
    if not has_private_network():
        enter_private_network()


@pytest.fixture
def rehearse(private_network: None, tmp_path: Path) -> Iterator[Rehearse]:
    """Start the server of a cluster; it and all boards end with the test."""
    running: list[Rehearsal] = []

    def start(spec: ClusterSpec) -> Rehearsal:
        rehearsal = Rehearsal(spec, tmp_path / "lab")
        running.append(rehearsal.__enter__())
        return rehearsal

    yield start
    for rehearsal in running:
        rehearsal.__exit__(None, None, None)


@pytest.fixture
def cluster_of(demo_spec: ClusterSpec, tmp_path: Path) -> Callable[..., ClusterSpec]:
    """The demo's cluster with some of its nodes, changed: `cluster_of(pi4_agent={"disk": "usb"})`."""

    def make(**nodes: dict[str, Any]) -> ClusterSpec:
        document = yaml.safe_load(demo_spec.path.read_text("utf-8"))
        wanted = {name.replace("_", "-"): changes for name, changes in nodes.items()}
        document["nodes"] = [
            {**node, **wanted[node["name"]]} for node in document["nodes"] if node["name"] in wanted
        ]
        path = tmp_path / "cluster.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False), "utf-8")
        return load_cluster(path)

    return make
