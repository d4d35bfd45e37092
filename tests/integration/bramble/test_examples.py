"""Each example becomes an image that its boards would take, and a delta for each of its nodes.

That the image boots is for tests/e2e/test_examples.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from example_images import KINDS, build, buildable

from bramble.boot_sizes import size_warnings
from fleet.spec.model import ClusterSpec
from imagebuilder.build import Image
from imagebuilder.delta import disk_signature
from imagebuilder.preflight import Expected, Severity, check_image, open_evidence
from imagebuilder.render import node_values

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Built:
    spec: ClusterSpec
    image: Image


@pytest.fixture(scope="module", params=KINDS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    spec = buildable(request.param, tmp_path_factory.mktemp(request.param))
    return Built(spec, build(spec))


def test_its_first_boot_does_what_the_file_says_on_every_board(built: Built) -> None:
    spec = built.spec
    expected = Expected(
        user=spec.image.user.name,
        ssh_authorized_keys=spec.image.user.ssh_authorized_keys,
        timezone=spec.image.timezone,
    )
    with open_evidence(built.image.disk, tuple({node.board for node in spec.nodes}), expected) as evidence:
        errors = [one for one in check_image(evidence) if one.severity is Severity.ERROR]
    assert errors == []


def test_every_node_gets_bytes_of_its_own(built: Built) -> None:
    deltas = {}
    for number, node in enumerate(built.spec.nodes, 1):
        values = node_values(
            built.spec,
            node,
            control_urls=("https://10.0.0.1:7443",),
            ca_pem="-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n",
            ticket=f"{number:064x}",
            disk_signature=disk_signature(built.spec.name, node.name, number),
            instance_id=f"{node.name}-{number}",
        )
        delta = built.image.render_delta(values)
        assert node.name.encode() in b"".join(data for _, data in delta)
        deltas[node.name] = delta
    assert len({repr(delta) for delta in deltas.values()}) == len(built.spec.nodes)


def test_every_boards_firmware_takes_files_of_these_sizes(built: Built) -> None:
    assert list(size_warnings(built.spec, built.image)) == []
