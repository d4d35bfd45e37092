"""Plans for one node against the cluster's image."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from fakes_bramble import CONTROL as BOOT_CONTROL
from fakes_bramble import (
    IMAGE_ID,
    INDEX_SHA256,
    NODE_JSON_AT,
    SIZE_BYTES,
    FakeImageStore,
    make_image,
    node_boot,
)
from fakes_image import make_node, make_spec

from bramble.image_store import CachedImages
from bramble.images import ClusterImages, ContentAddress, make_table
from fleet.installs import ControlInfo, PlannedImage, PlanRequest
from fleet.refusal import RefusedError
from fleet.secret import Secret
from fleet.spec.model import NodeSpec
from imagebuilder.build import KIND
from imagebuilder.manifest import FILE_NAME
from imagebuilder.store import Store

CONTROL = ControlInfo(urls=("https://10.77.0.1:7443",), ca_pem="-----BEGIN CERTIFICATE-----\n")
TICKET = "5e" * 32


def request(node: NodeSpec, *, image_id: str | None = None) -> PlanRequest:
    return PlanRequest(
        node=node,
        control=CONTROL,
        image_id=image_id,
        ticket=Secret(TICKET),
        disk_signature=0x01020304,
        instance_id="pi5-1-1",
    )


@pytest.fixture
def plan(tmp_path: Path) -> PlannedImage:
    node = make_node()
    images = ClusterImages(
        make_spec(nodes=(node,)),
        make_image(tmp_path),
        ContentAddress(IPv4Address("10.77.0.1"), 7080),
        FakeImageStore(),
    )
    return images.plan_for(request(node))


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


NEW_ID = "1c" * 20
OTHER_ID = "1c99" + "0" * 36
SPEC = make_spec(nodes=(make_node(),))


class Room:
    """The cluster's image, a newer one, and the room over both."""

    def __init__(self, root: Path) -> None:
        self.old = make_image(root / "old")
        self.new = make_image(root / "new", image_id=NEW_ID, k3s="v1.34.1+k3s1")
        self.store = FakeImageStore({IMAGE_ID: self.old, NEW_ID: self.new})
        address = ContentAddress(IPv4Address("10.77.0.1"), 7080)
        self.images = ClusterImages(SPEC, self.old, address, self.store)


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def test_the_plan_is_for_the_image_that_is_wanted(room: Room) -> None:
    (node,) = SPEC.nodes
    plan = room.images.plan_for(request(node, image_id=NEW_ID))
    assert plan.image.image_id == NEW_ID
    assert f"/images/{NEW_ID}/" in plan.image.image_url


def test_an_image_that_is_gone_is_refused_and_not_replaced_by_another(room: Room) -> None:
    (node,) = SPEC.nodes
    with pytest.raises(RefusedError, match="no image 'ffff' in this server's store"):
        room.images.plan_for(request(node, image_id="ffff"))


def test_images_are_named_by_a_beginning_that_no_other_has(room: Room) -> None:
    assert room.images.describe(None).id == IMAGE_ID
    facts = room.images.describe("1c1c")
    assert (facts.id, facts.k3s_version, facts.cluster) == (NEW_ID, "v1.34.1+k3s1", "attic")
    room.store.images[OTHER_ID] = room.new
    with pytest.raises(RefusedError, match="several images begin with '1c'"):
        room.images.describe("1c")
    for unknown in ("2", NEW_ID + "0"):
        with pytest.raises(RefusedError, match="there is no image"):
            room.images.describe(unknown)


def test_an_image_of_another_cluster_is_refused(room: Room, tmp_path: Path) -> None:
    room.store.images[OTHER_ID] = make_image(tmp_path / "other", image_id=OTHER_ID, cluster="cellar")
    with pytest.raises(RefusedError, match="was built for cluster 'cellar', this is 'attic'"):
        room.images.describe(OTHER_ID)


def test_each_node_boots_the_image_of_its_intent(room: Room, tmp_path: Path) -> None:
    states = [node_boot("a"), node_boot("b", image_id=NEW_ID), node_boot("c", intent=None)]
    table = make_table(states, room.images.find, BOOT_CONTROL, tmp_path)
    assert [node.name for node in table.nodes] == ["a", "b", "c"]
    assert [node.tree.root for node in table.nodes] == [room.old.boot_tree, room.new.boot_tree, None]
    assert {name.split("/")[0] for name in table.images} == {IMAGE_ID, NEW_ID}


def test_an_image_is_served_no_longer_than_an_intent_names_it(room: Room, tmp_path: Path) -> None:
    table = make_table([node_boot("a")], room.images.find, BOOT_CONTROL, tmp_path)
    assert {name.split("/")[0] for name in table.images} == {IMAGE_ID}


def test_a_node_whose_image_is_gone_is_held(room: Room, tmp_path: Path) -> None:
    (node,) = make_table([node_boot("a", image_id="ffff")], room.images.find, BOOT_CONTROL, tmp_path).nodes
    assert (node.hold, node.install_intent, node.tree.root) == (True, None, None)
    assert "image ffff is not in this server's store" in node.reason


def test_another_file_brings_its_image_once_that_is_built(room: Room) -> None:
    changed = replace(SPEC, image=replace(SPEC.image, packages=("nfs-common",)))
    assert room.images.prepare(changed) is None
    assert room.images.current is room.old
    room.store.built = room.new
    facts = room.images.prepare(changed)
    assert facts is not None
    assert facts.id == NEW_ID
    assert room.images.current is room.old, "before it is in force"
    room.images.declare(changed)
    assert room.images.current is room.new
    room.images.declare(SPEC)
    assert room.images.current is room.old


def test_an_image_that_was_built_anew_of_the_same_file_is_taken_when_that_is_declared(room: Room) -> None:
    """An overlay's file has changed, and cluster.yaml has not."""
    room.store.built = room.new
    assert room.images.prepare(SPEC) is not None
    assert room.images.current is room.old
    room.images.declare(SPEC)
    assert room.images.current is room.new


def test_images_to_choose_from_are_this_clusters_its_present_one_first(room: Room, tmp_path: Path) -> None:
    room.store.images[OTHER_ID] = make_image(tmp_path / "other", image_id=OTHER_ID, cluster="cellar")
    assert [kept.id for kept in room.images.shown()] == [IMAGE_ID, NEW_ID]


def test_the_clusters_image_is_shown_though_the_store_has_lost_it(room: Room) -> None:
    room.store.images.clear()
    (only,) = room.images.shown()
    assert (only.id, only.made_at) == (IMAGE_ID, 0.0)


def test_looking_at_images_keeps_none_from_being_cleaned_up(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for image_id in (IMAGE_ID, NEW_ID):
        with store.create(KIND, image_id) as work:
            manifest = make_image(tmp_path / "made" / image_id, image_id=image_id).manifest
            (work / FILE_NAME).write_text(manifest.render(), "utf-8")
    with store.create(KIND, "broken") as work:
        (work / FILE_NAME).write_text("{}", "utf-8")
    images = CachedImages(store)
    assert {kept.id for kept in images.kept()} == {IMAGE_ID, NEW_ID}
    assert all(kept.made_at > 0 for kept in images.kept())
    assert store.held == frozenset()
    assert store.evict(KIND, NEW_ID)
    assert [kept.id for kept in images.kept()] == [IMAGE_ID]
