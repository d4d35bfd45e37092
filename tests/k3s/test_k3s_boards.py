"""A real release on virtual boards: blank disks to a Ready server and a Ready agent, on the product's own
path. Collected only where K3S names a directory with the release's files for arm64; boots are emulated, so
this takes its time: five minutes with k3s v1.21.3 on two cores (docs/proven.md says what that run was).

K3S_CLUSTER may name a YAML file with what this release needs of cluster.yaml besides: its mappings are laid
over the demo's, key by key, and anything else takes the place of what was there; paths in it are absolute. A
k3s that was built without the programs that releases carry gets those of Debian so, by `image.packages` and
`image.overlays`, and `cluster.k3s.airgap_images: false`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from k3s_release import board_version, given_release

from bramble.demo import ensure_base, write_spec
from bramble.demo_screen import PlainScreen
from bramble.paths import MIRROR_VARIABLE, agent_package, apt_access, store
from bramble.rehearsal import Rehearsal
from fleet.spec import load_cluster
from fleet.spec.model import ClusterSpec
from imagebuilder.build import build_image
from lab.network import enter_private_network, has_private_network

pytestmark = pytest.mark.e2e

READY_S = 2400.0
BOARDS = ("pi5-server", "cm5-agent")
MEMORY_MIB = 2048
"""What k3s asks of a server. Source: its documentation, installation, requirements."""
MORE = "K3S_CLUSTER"


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ClusterSpec:
    """The demo's cluster with two of its boards and the given release, its image made."""
    release = given_release()
    assert release is not None
    path = write_spec(tmp_path_factory.mktemp("cluster"), release)
    document = yaml.safe_load(path.read_text("utf-8"))
    document["cluster"]["k3s"]["version"] = str(board_version(release))
    document["nodes"] = [node for node in document["nodes"] if node["name"] in BOARDS]
    if more := os.environ.get(MORE):
        document = laid_over(document, yaml.safe_load(Path(more).read_text("utf-8")))
    path.write_text(yaml.safe_dump(document, sort_keys=False), "utf-8")
    ensure_base(store(), PlainScreen(), mirror=os.environ.get(MIRROR_VARIABLE))
    loaded = load_cluster(path)
    build_image(loaded, store=store(), agent_package=agent_package(), apt=apt_access())
    return loaded


def laid_over(document: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """The document with the values of another one: mappings key by key, anything else in whole."""
    return {**document, **{key: _either(document.get(key), value) for key, value in more.items()}}


def _either(old: object, new: object) -> object:
    return laid_over(old, new) if isinstance(old, Mapping) and isinstance(new, Mapping) else new


@pytest.fixture
def rehearsal(spec: ClusterSpec, tmp_path: Path) -> Iterator[Rehearsal]:
    if not has_private_network():
        enter_private_network()
    with Rehearsal(spec, tmp_path / "lab") as started:
        yield started


def test_blank_boards_become_nodes_of_the_given_release(rehearsal: Rehearsal) -> None:
    for node in rehearsal.spec.nodes:
        rehearsal.add_board(node, memory_mib=MEMORY_MIB).power_on()
    rehearsal.wait_for_state("pi5-server", "pending", timeout_s=READY_S)
    rehearsal.admin.approve("pi5-server")
    for name in BOARDS:
        row = rehearsal.wait_for_state(name, "ready", timeout_s=READY_S)
        assert rehearsal.spec.k3s.version in row["k3s"]
        assert rehearsal.count_installs(name) == 1
