"""What the end-to-end tests share: base and image from the store, a network that this process is alone in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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
    with _rehearsals(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def rehearse_for_module(
    private_network: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rehearse]:
    """The same for a cluster that all tests of a module go on with: to install one takes five minutes."""
    with _rehearsals(tmp_path_factory.mktemp("module")) as start:
        yield start


@contextmanager
def _rehearsals(directory: Path) -> Iterator[Rehearse]:
    with ExitStack() as running:
        yield lambda spec: running.enter_context(Rehearsal(spec, directory / "lab"))


@pytest.fixture(scope="session")
def cluster_of(
    demo_spec: ClusterSpec, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., ClusterSpec]:
    """The demo's cluster with some of its nodes, changed: `cluster_of(pi4_agent={"disk": "usb"})`."""

    def make(**nodes: dict[str, Any]) -> ClusterSpec:
        document = yaml.safe_load(demo_spec.path.read_text("utf-8"))
        wanted = {name.replace("_", "-"): changes for name, changes in nodes.items()}
        document["nodes"] = [
            {**node, **wanted[node["name"]]} for node in document["nodes"] if node["name"] in wanted
        ]
        path = tmp_path_factory.mktemp("cluster") / "cluster.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False), "utf-8")
        return load_cluster(path)

    return make
