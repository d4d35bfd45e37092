"""Plans for one node against the cluster's image."""

from __future__ import annotations

import json
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from fakes_bramble import IMAGE_ID, INDEX_SHA256, NODE_JSON_AT, SIZE_BYTES, make_image
from fakes_image import make_node, make_spec

from bramble.images import ClusterImages, ContentAddress
from fleet.installs import ControlInfo, PlannedImage
from fleet.secret import Secret

CONTROL = ControlInfo(urls=("https://10.77.0.1:7443",), ca_pem="-----BEGIN CERTIFICATE-----\n")
TICKET = "5e" * 32


@pytest.fixture
def plan(tmp_path: Path) -> PlannedImage:
    node = make_node()
    images = ClusterImages(
        make_spec(nodes=(node,)), make_image(tmp_path), ContentAddress(IPv4Address("10.77.0.1"), 7080)
    )
    return images.plan_for(
        node, CONTROL, ticket=Secret(TICKET), disk_signature=0x01020304, instance_id="pi5-1-1"
    )


def test_the_plan_names_the_image_and_where_it_is_served(plan: PlannedImage) -> None:
    assert plan.image.image_id == IMAGE_ID
    assert plan.image.image_url == f"http://10.77.0.1:7080/images/{IMAGE_ID}/disk.img.zst"
    assert plan.image.index_url == f"http://10.77.0.1:7080/images/{IMAGE_ID}/index.json"
    assert plan.image.size_bytes == SIZE_BYTES


def test_the_index_is_proved_by_the_manifests_digest(plan: PlannedImage) -> None:
    assert plan.image.index_sha256 == INDEX_SHA256


def test_the_disk_is_the_declared_one(plan: PlannedImage) -> None:
    assert plan.disk.kind == "nvme"
    assert plan.disk.serial is None


def test_the_delta_holds_what_makes_the_node_itself(plan: PlannedImage) -> None:
    patches = {patch.offset: bytes.fromhex(patch.data_hex) for patch in plan.delta}
    assert patches[440] == b"\x04\x03\x02\x01"
    node = json.loads(patches[NODE_JSON_AT])
    assert node["node"] == make_node().name
    assert node["ticket"] == TICKET
    assert node["control_urls"] == list(CONTROL.urls)


def test_the_delta_is_ascending_and_does_not_overlap(plan: PlannedImage) -> None:
    ends = 0
    for patch in plan.delta:
        assert patch.offset >= ends
        ends = patch.offset + len(patch.data_hex) // 2
    assert ends <= SIZE_BYTES


def test_the_ticket_is_not_shown(plan: PlannedImage) -> None:
    assert TICKET not in repr(plan)
    assert TICKET.encode().hex() not in repr(plan)
