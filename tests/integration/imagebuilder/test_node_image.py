"""One node's own image as a file: through the command, as a delta, and over a card."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fakes_image import is_same, make_agent, make_base, make_node, make_release, make_spec

from bramble.cli import bramble
from fleet.spec.export import to_document
from fleet.spec.model import ClusterSpec, UserSpec
from imagebuilder.build import Image, build_image
from imagebuilder.delta_file import load_delta
from imagebuilder.disk.edit import DiskImage
from imagebuilder.disk.sparse import copy_sparse
from imagebuilder.render import node_values
from imagebuilder.store import Store

pytestmark = pytest.mark.integration

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7fM1q2h1yYJbHn0G3yqkQp0Vb0b7l5w1Wq0n8gq2Zr x"


class World:
    """A cluster, its image, and the command line with a state and a store of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        store = Store(root / "cache")
        make_base(store)
        spec = make_spec(make_release(root / "k3s"), path=root / "cluster.yaml")
        spec = replace(
            spec,
            network=replace(spec.network, server_address=IPv4Address("10.77.0.1")),
            image=replace(spec.image, user=UserSpec("pi", (KEY,))),
        )
        spec.path.write_text(json.dumps(_without_nothing(to_document(spec))))
        self.spec: ClusterSpec = spec
        agent = make_agent(root)
        self.patch = pytest.MonkeyPatch()
        self.patch.setenv("BRAMBLE_CACHE_DIR", str(store.root))
        self.patch.setenv("BRAMBLE_STATE_DIR", str(root / "state"))
        self.patch.setattr("imagebuilder.build.FREE_ROOT_BYTES", 100 * 2**20)
        self.patch.setattr("imagebuilder.cli.agent_package", lambda: agent)
        self.image: Image = build_image(spec, store=store, agent_package=agent)

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(bramble, ["image", *words])

    def node(self, *words: str) -> Result:
        return self.run("node", "pi5-master-1", "-c", str(self.spec.path), *words)

    def disk(self, path: Path) -> DiskImage:
        scratch = path.with_suffix(".scratch")
        scratch.mkdir()
        return DiskImage(path, scratch)


def _without_nothing(value: object) -> object:
    """cluster.yaml has no word for "not set"."""
    if isinstance(value, dict):
        return {key: _without_nothing(item) for key, item in value.items() if item is not None}
    return [_without_nothing(item) for item in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("node-image"))
    yield world
    world.patch.undo()


def test_a_nodes_image_is_whole_its_own_and_its_owners_alone(world: World, tmp_path: Path) -> None:
    target = tmp_path / "node.img"
    done = world.node("-o", str(target), "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["node"], told["image_id"]) == ("pi5-master-1", world.image.id)
    assert told["delta_bytes"] <= 128 * 1024
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert target.stat().st_size == world.image.manifest.size_bytes
    assert target.stat().st_blocks * 512 < target.stat().st_size, "it is sparse"
    assert list(tmp_path.iterdir()) == [target]
    disk = world.disk(target)
    disk.check()
    with world.image.disk.open("rb") as file:
        file.seek(440)
        assert disk.mbr().signature != int.from_bytes(file.read(4), "little")
    assert f"PARTUUID={disk.mbr().signature:08x}-02".encode() in (disk.read_boot("/cmdline.txt") or b"")
    node_json = json.loads(disk.read_root("/etc/bramble/node.json") or b"")
    assert node_json["node"] == "pi5-master-1"
    assert len(node_json["ticket"]) == 64


def test_each_image_is_a_new_installation(world: World, tmp_path: Path) -> None:
    tickets, signatures = set(), set()
    for name in ("one.img", "two.img"):
        assert world.node("-o", str(tmp_path / name)).exit_code == 0
        disk = world.disk(tmp_path / name)
        tickets.add(json.loads(disk.read_root("/etc/bramble/node.json") or b"")["ticket"])
        signatures.add(disk.mbr().signature)
    assert len(tickets) == len(signatures) == 2


def test_a_delta_laid_over_a_copy_or_in_place_gives_the_same_disk(world: World, tmp_path: Path) -> None:
    delta, copy, card = tmp_path / "node.delta", tmp_path / "copy.img", tmp_path / "card"
    done = world.node("--delta", "-o", str(delta), "--json")
    assert done.exit_code == 0, done.output
    assert delta.stat().st_size <= 128 * 1024
    assert stat.S_IMODE(delta.stat().st_mode) == 0o600
    raw = str(world.image.disk)
    assert world.run("apply-delta", str(delta), raw, "-o", str(copy)).exit_code == 0
    copy_sparse(world.image.disk, card)
    first = world.run("apply-delta", str(delta), str(card), "--json")
    assert json.loads(first.stdout)["changed"] is True
    assert is_same(copy, card)
    again = world.run("apply-delta", str(delta), str(card), "--json")
    assert json.loads(again.stdout)["changed"] is False
    world.disk(card).check()


def test_a_delta_is_refused_on_another_nodes_disk_and_nothing_is_written(
    world: World, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        assert world.node("--delta", "-o", str(tmp_path / name)).exit_code == 0
    card, before = tmp_path / "card", tmp_path / "before"
    copy_sparse(world.image.disk, card)
    assert world.run("apply-delta", str(tmp_path / "one"), str(card)).exit_code == 0
    copy_sparse(card, before)
    refused = world.run("apply-delta", str(tmp_path / "two"), str(card))
    assert "hold other bytes" in str(refused.exception)
    copied = world.run("apply-delta", str(tmp_path / "two"), str(card), "-o", str(tmp_path / "new"))
    assert "hold other bytes" in str(copied.exception)
    assert not (tmp_path / "new").exists()
    assert is_same(card, before)


def test_an_interrupted_patch_can_be_finished(world: World, tmp_path: Path) -> None:
    assert world.node("--delta", "-o", str(tmp_path / "delta")).exit_code == 0
    card, whole = tmp_path / "card", tmp_path / "whole"
    copy_sparse(world.image.disk, card)
    delta = load_delta(tmp_path / "delta")
    with card.open("r+b") as file:
        for patch in delta.patches[2:]:
            file.seek(patch.offset)
            file.write(patch.data)
    assert world.run("apply-delta", str(tmp_path / "delta"), str(card)).exit_code == 0
    assert (
        world.run("apply-delta", str(tmp_path / "delta"), str(world.image.disk), "-o", str(whole)).exit_code
        == 0
    )
    assert is_same(card, whole)


def test_a_target_that_cannot_be_written_costs_no_ticket(world: World, tmp_path: Path) -> None:
    before = json.loads(world.node("--delta", "-o", str(tmp_path / "a"), "--json").stdout)["intent"]
    done = world.node("-o", str(tmp_path / "no" / "where.img"))
    assert "Name a file in a directory that is there and yours" in str(done.exception)
    after = json.loads(world.node("--delta", "-o", str(tmp_path / "b"), "--json").stdout)["intent"]
    assert after == before + 1


def test_a_failed_write_leaves_nothing(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from imagebuilder.flash.target import FlashTarget

    def full(self: FlashTarget, offset: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FlashTarget, "write_at", full)
    assert world.node("-o", str(tmp_path / "node.img")).exit_code != 0
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_node_is_named_with_the_known_ones(world: World, tmp_path: Path) -> None:
    done = world.run("node", "pi9", "-c", str(world.spec.path), "-o", str(tmp_path / "x"))
    assert "there is no node 'pi9'" in str(done.exception)


def test_deltas_stay_within_their_limits(world: World) -> None:
    """One: 50 ms and 128 KiB; a hundred: 5 s, without a copy of the image."""

    def values(number: int) -> object:
        node = replace(make_node(), name=f"node-{number}")
        return world.image.render_delta(
            node_values(
                world.spec,
                node,
                control_urls=["https://10.77.0.1:7443"],
                ca_pem="A" * 1500,
                ticket="ab" * 32,
                disk_signature=number + 1,
                instance_id=f"attic-{number}",
            )
        )

    values(0)  # templates are compiled once
    started = time.process_time()
    deltas = [values(number) for number in range(100)]
    assert time.process_time() - started < 5
    assert len({repr(delta) for delta in deltas}) == 100
