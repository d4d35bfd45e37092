"""Every stock layout: built, booted on a virtual board to the end of its first boot, its settings applied.

The bases are clones (tests/support/stock_clones): laid out like the stock images, Debian inside.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from stock_clones import CLONES, ready_clone

from bramble.paths import agent_package, apt_access, store
from bramble.proof_request import request_for_node
from bramble.prove import Proof, prove
from bramble.verdict import Outcome
from fleet.spec import load_cluster
from fleet.spec.model import ClusterSpec
from imagebuilder.build import Image, build_image
from imagebuilder.disk.sparse import copy_sparse
from imagebuilder.inspect import inspect_image
from imagebuilder.preflight import Expected, Severity, check_image, open_evidence
from imagebuilder.runner import run
from lab.qemu import MachineKind

pytestmark = pytest.mark.e2e

NODE = "pi4-agent"


@pytest.fixture(scope="module")
def made(demo_spec: ClusterSpec, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {
        "document": yaml.safe_load(demo_spec.path.read_text("utf-8")),
        "work": tmp_path_factory.mktemp("stock"),
    }


def _build(made: dict[str, Any], name: str) -> tuple[ClusterSpec, Image]:
    """The demo's cluster with a clone as its base."""
    document = {**made["document"], "image": {**made["document"]["image"], "timezone": "Europe/Madrid"}}
    document["image"]["base"] = {"path": str(ready_clone(name).disk)}
    path: Path = made["work"] / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), "utf-8")
    spec = load_cluster(path)
    return spec, build_image(spec, store=store(), agent_package=agent_package(), apt=apt_access())


def _told(proof: Proof) -> str:
    lines = "\n".join(f"{line.outcome.value:7} {line.what}: {line.text}" for line in proof.lines)
    return f"{proof.reason}\n{lines}\n{proof.console}"


@pytest.mark.parametrize("name", CLONES)
def test_a_stock_image_becomes_the_declared_node_at_its_first_boot(made: dict[str, Any], name: str) -> None:
    spec, image = _build(made, name)
    node = spec.find_node(NODE)
    assert node is not None
    expected = Expected(
        user=spec.image.user.name,
        ssh_authorized_keys=spec.image.user.ssh_authorized_keys,
        timezone=spec.image.timezone,
    )
    with open_evidence(image.disk, (node.board,), expected) as evidence:
        errors = [finding for finding in check_image(evidence) if finding.severity is Severity.ERROR]
    assert errors == [], "what the preflight says of an image of ours"

    request = request_for_node(image.disk, spec, node, machine=MachineKind.VIRT, timeout_s=None)
    proof = prove(request, work=made["work"] / name)

    assert proof.proven, _told(proof)
    assert proof.boots == 1, "no stock first-boot program may run and reboot"
    applied = {line.what for line in proof.lines if line.outcome is Outcome.OK}
    assert applied >= {"host name", "time zone", "user", "ssh key", "address", "disk", "memory cgroup", "ssh",
                       "agent", "k3s"}  # fmt: skip


def test_the_pi_4_model_boots_with_the_image_s_own_device_tree(made: dict[str, Any]) -> None:
    spec, image = _build(made, "raspios-lite-trixie")
    node = spec.find_node(NODE)
    assert node is not None
    request = request_for_node(image.disk, spec, node, machine=MachineKind.RASPI4B, timeout_s=None)
    proof = prove(request, work=made["work"] / "raspi4b")
    assert proof.proven, _told(proof)


def test_an_image_that_does_not_find_its_root_is_not_proven(made: dict[str, Any], tmp_path: Path) -> None:
    spec, image = _build(made, "raspios-lite-trixie")
    node = spec.find_node(NODE)
    assert node is not None
    disk = tmp_path / "broken.img"
    copy_sparse(image.disk, disk)
    facts = inspect_image(disk)
    place = f"{disk}@@{facts.boot.offset}"
    line = run(["mtype", "-i", place, "::/cmdline.txt"]).stdout.decode()
    (tmp_path / "cmdline.txt").write_text(line.replace(facts.table.disk_id, "00000000"))
    run(["mcopy", "-D", "o", "-i", place, tmp_path / "cmdline.txt", "::/"])
    request = request_for_node(disk, spec, node, machine=MachineKind.VIRT, timeout_s=None)
    proof = prove(request)
    assert not proof.proven
    assert "did not find the root" in proof.reason
    assert proof.boots == 1
