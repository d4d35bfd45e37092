"""The first node of each example boots its own image on a virtual board, and is what the file says.

One boot each, of what tests/integration/bramble/test_examples.py built and left in the store.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from example_images import KINDS, build, buildable

from bramble.proof_request import request_for_node
from bramble.prove import prove
from bramble.verdict import Outcome
from lab.qemu import MachineKind

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("name", KINDS)
def test_the_first_node_of_an_example_becomes_what_it_says(name: str, tmp_path: Path) -> None:
    spec = buildable(name, tmp_path)
    image = build(spec)
    request = request_for_node(image.disk, spec, spec.nodes[0], machine=MachineKind.VIRT, timeout_s=None)
    proof = prove(request, work=tmp_path / "proof")
    lines = "\n".join(f"{line.outcome.value:7} {line.what}: {line.text}" for line in proof.lines)
    assert proof.proven, f"{proof.reason}\n{lines}\n{proof.console}"
    applied = {line.what for line in proof.lines if line.outcome is Outcome.OK}
    assert applied >= {"host name", "user", "ssh key", "address", "disk", "ssh", "agent", "k3s"}
