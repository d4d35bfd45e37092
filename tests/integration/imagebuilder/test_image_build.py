"""The build on a small base: artifacts agree with each other, with the tools, and with a second build."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard
from fakes_image import (
    is_same,
    make_agent,
    make_base,
    make_node,
    make_release,
    make_spec,
    write_sums,
)
from fakes_systems import SIGNATURE

from fleet.spec.model import ClusterSpec
from imagebuilder.bases import BaseMissing
from imagebuilder.build import Image, build_image, find_image
from imagebuilder.delta import disk_signature
from imagebuilder.disk.blockmap import mapped_ranges
from imagebuilder.disk.edit import DiskImage
from imagebuilder.disk.source import open_source
from imagebuilder.disk.sparse import copy_sparse
from imagebuilder.errors import CommandFailed, NoSpace
from imagebuilder.k3s_release import K3sReleaseError
from imagebuilder.render import node_values
from imagebuilder.runner import run
from imagebuilder.store import Store

pytestmark = pytest.mark.integration


class World:
    """A store with a base, and what a build needs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = Store(root / "store")
        make_base(self.store)
        self.agent = make_agent(root)
        self.release = make_release(root / "k3s")
        self.spec = make_spec(self.release, path=root / "cluster.yaml")

    def build(self, spec: ClusterSpec | None = None) -> Image:
        return build_image(spec or self.spec, store=self.store, agent_package=self.agent)

    def find(self, spec: ClusterSpec | None = None) -> Image | None:
        return find_image(spec or self.spec, store=self.store, agent_package=self.agent)


@pytest.fixture(scope="module", autouse=True)
def _small_images() -> Iterator[None]:
    """Real images keep 1.5 GiB free; writing that out again and again is not what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("imagebuilder.build.FREE_ROOT_BYTES", 100 * 2**20)
        yield


@pytest.fixture(scope="module")
def built(_small_images: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Image]:
    world = World(tmp_path_factory.mktemp("world"))
    return world, world.build()


@pytest.fixture
def world(built: tuple[World, Image], tmp_path: Path) -> World:
    """A world of its own; the base is copied, not made again."""
    shutil.copytree(built[0].root / "store" / "bases", tmp_path / "store" / "bases")
    return World(tmp_path)


def test_an_unchanged_cluster_finds_its_image(built: tuple[World, Image]) -> None:
    world, image = built
    calls: list[str] = []
    again = build_image(
        world.spec,
        store=world.store,
        agent_package=world.agent,
        progress=lambda text, share: calls.append(text),
    )
    found = world.find()
    assert again.id == image.id
    assert found is not None
    assert found.id == image.id
    assert calls == ["checking inputs"]


def test_the_compressed_file_is_the_raw_image_and_the_index_describes_it(built: tuple[World, Image]) -> None:
    _, image = built
    unpacked = image.root.parent / "unpacked"
    run(["zstd", "-q", "-d", "-f", image.compressed, "-o", unpacked])
    assert is_same(unpacked, image.disk)
    unpacked.unlink()
    index = json.loads(image.index.read_text())
    assert index["image_id"] == image.id
    assert index["size_bytes"] == image.disk.stat().st_size == image.manifest.size_bytes
    compressed, end = image.compressed.read_bytes(), 0
    with open_source(image.disk) as source:
        for chunk in index["chunks"]:
            assert chunk["offset"] >= end
            assert 0 < chunk["length"] <= 4 * 2**20
            end = chunk["offset"] + chunk["length"]
            frame = compressed[chunk["position"] : chunk["position"] + chunk["compressed_bytes"]]
            data = zstandard.decompress(frame)
            assert hashlib.sha256(data).hexdigest() == chunk["sha256"]
            assert data == source.read_at(chunk["offset"], chunk["length"])


def test_mapped_chunks_alone_make_a_sound_disk_on_a_target_full_of_garbage(
    built: tuple[World, Image], tmp_path: Path
) -> None:
    _, image = built
    target = tmp_path / "disk.img"
    garbage = b"\xa5" * (1 << 20)
    with target.open("wb") as file, open_source(image.disk) as source:
        for position in range(0, image.manifest.size_bytes, len(garbage)):
            file.write(garbage[: image.manifest.size_bytes - position])
        for chunk in json.loads(image.index.read_text())["chunks"]:
            file.seek(chunk["offset"])
            file.write(source.read_at(chunk["offset"], chunk["length"]))
    (tmp_path / "scratch").mkdir()
    disk = DiskImage(target, tmp_path / "scratch")
    disk.check()
    with open_source(image.disk) as one, open_source(target) as other:
        ranges = mapped_ranges(one, image.manifest.size_bytes)
        assert ranges == mapped_ranges(other, image.manifest.size_bytes)
        assert sum(r.length for r in ranges) == image.manifest.mapped_bytes < image.manifest.size_bytes / 2
        gap = next(r.end for r, following in pairwise(ranges) if following.start - r.end >= 1 << 20)
        assert other.read_at(gap, 4096) == garbage[:4096], "free blocks were written"
    target.unlink()


def test_bmaptool_accepts_the_block_map(built: tuple[World, Image], tmp_path: Path) -> None:
    _, image = built
    run(["bmaptool", "copy", "--bmap", image.block_map, image.disk, tmp_path / "disk.img"])
    assert is_same(tmp_path / "disk.img", image.disk)
    damaged = tmp_path / "damaged.img"
    copy_sparse(image.disk, damaged)
    with damaged.open("r+b") as file:
        file.write(b"?")
    with pytest.raises(CommandFailed, match="checksum"):
        run(["bmaptool", "copy", "--bmap", image.block_map, damaged, tmp_path / "disk.img"])


def test_a_delta_gives_the_node_its_identity_in_place(built: tuple[World, Image], tmp_path: Path) -> None:
    world, image = built
    node = make_node()
    signature = disk_signature("attic", node.name, 1)
    values = node_values(
        world.spec,
        node,
        control_urls=["https://10.77.0.1:7443"],
        ca_pem="-----BEGIN CERTIFICATE-----\n" + "A" * 900,
        ticket="ab" * 32,
        disk_signature=signature,
        instance_id="attic-1",
    )
    delta = image.render_delta(values)
    assert sum(len(data) for _, data in delta) <= 128 * 1024
    assert list(delta) == sorted(delta)
    copy_sparse(image.disk, tmp_path / "disk.img")
    with (tmp_path / "disk.img").open("r+b") as file:
        for offset, data in delta:
            file.seek(offset)
            file.write(data)
    (tmp_path / "scratch").mkdir()
    disk = DiskImage(tmp_path / "disk.img", tmp_path / "scratch")
    disk.check()
    assert disk.mbr().signature == signature
    cmdline, fstab = disk.read_boot("/cmdline.txt") or b"", disk.read_root("/etc/fstab") or b""
    assert f"root=PARTUUID={signature:08x}-02 ".encode() in cmdline
    assert f"{SIGNATURE:08x}".encode() not in cmdline + fstab
    assert f"PARTUUID={signature:08x}-01 ".encode() in fstab
    node_json = json.loads(disk.read_root("/etc/bramble/node.json") or b"")
    assert node_json["node"] == "pi5-master-1"
    assert node_json["ticket"] == "ab" * 32
    assert b'local-hostname: "pi5-master-1.attic.internal"' in (disk.read_boot("/meta-data") or b"")
    assert len(disk.read_boot("/network-config") or b"") == 4096


def test_two_builds_give_the_same_bytes(built: tuple[World, Image], world: World) -> None:
    _, image = built
    other = world.build()
    assert other.id == image.id
    for one, two in (
        (image.disk, other.disk),
        (image.compressed, other.compressed),
        (image.index, other.index),
    ):
        assert is_same(one, two)
    assert image.manifest.render() == other.manifest.render()


def test_boot_tree_and_installer_are_complete(built: tuple[World, Image]) -> None:
    _, image = built
    names = {
        path.relative_to(image.boot_tree).as_posix() for path in image.boot_tree.rglob("*") if path.is_file()
    }
    assert {
        "kernel8.img",
        "initramfs8",
        "config.txt",
        "cmdline.txt",
        "overlays/a long file name.dtbo",
    } <= names
    base = (image.boot_tree / "initramfs8").read_bytes()
    whole = image.installer_initramfs.read_bytes()
    assert whole.startswith(base)
    assert len(whole) % 512 == 0
    runtime_at = -(-len(base) // 512) * 512
    runtime = zstandard.ZstdDecompressor().decompressobj().decompress(whole[runtime_at:])
    assert b"usr/lib/python3.13/os.py" in runtime
    assert b"python3.13/test" not in runtime
    assert b"stands in for libzstd" in runtime
    assert b"stands in for zstd" not in runtime
    program = whole[whole.rindex(b"070701", 0, whole.rindex(b"etc/systemd")) - 512 :]
    assert b"usr/lib/bramble/agent.pyz" in program
    assert b"bramble: the installer starts" in program


def test_the_manifest_tells_each_change_and_digest(built: tuple[World, Image]) -> None:
    _, image = built
    manifest = image.manifest
    changed = {change.path: change for change in manifest.changes}
    assert changed["/usr/local/bin/k3s"].mode == 0o755
    assert changed["/usr/local/bin/kubectl"].target == "k3s"
    assert changed["/etc/bramble/node.json"].mode == 0o600
    assert changed["/cmdline.txt"].replaced
    assert "/var/lib/rancher/k3s/agent/images/.cache.json" in changed
    enabled = "/etc/systemd/system/multi-user.target.wants/"
    assert [path for path in changed if path.startswith(enabled)] == [f"{enabled}bramble-agent.service"]
    assert manifest.k3s.simulator
    for output in manifest.outputs:
        data = (image.root / output.path).read_bytes()
        assert (output.size_bytes, output.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_changed_inputs_make_another_image(built: tuple[World, Image], world: World, tmp_path: Path) -> None:
    _, image = built
    overlay = tmp_path / "mine"
    (overlay / "rootfs" / "etc").mkdir(parents=True)
    (overlay / "rootfs" / "etc" / "motd").write_text("hello\n")
    with_overlay = replace(world.spec, image=replace(world.spec.image, overlays=(overlay,)))
    (world.agent / "more.py").write_text("")
    ids = {image.id, world.build().id, world.build(with_overlay).id}
    (overlay / "rootfs" / "etc" / "motd").write_text("hello again\n")
    assert world.find(with_overlay) is None
    assert len(ids) == 3


def test_a_damaged_release_is_told_whole_and_leaves_nothing(world: World) -> None:
    binary = world.release / "k3s-arm64"
    binary.write_bytes(binary.read_bytes() + b"!")
    (world.release / "k3s-airgap-images-arm64.tar.zst").unlink()
    with pytest.raises(K3sReleaseError) as caught:
        world.build()
    assert "k3s-arm64 is damaged: its sha256 is" in caught.value.message
    assert "no airgap images" in caught.value.message
    assert world.store.entries("images") == []


def test_an_archive_that_does_not_unpack_is_found_before_anything_is_built(world: World) -> None:
    archive = world.release / "k3s-airgap-images-arm64.tar.zst"
    archive.write_bytes(archive.read_bytes()[:-2000])
    write_sums(world.release)
    with pytest.raises(K3sReleaseError, match="does not unpack"):
        world.build()
    assert world.store.entries("images") == []


@pytest.mark.parametrize(
    "moment", ["copying the base", "writing the root filesystem", "compressing", "recording digests"]
)
def test_an_interrupted_build_leaves_nothing_that_looks_finished(world: World, moment: str) -> None:
    def interrupt(text: str, share: float) -> None:
        if text == moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_image(world.spec, store=world.store, agent_package=world.agent, progress=interrupt)
    assert world.store.entries("images") == []
    assert world.find() is None
    assert list((world.store.root / "tmp").iterdir()) == []


def test_no_room_is_said_before_writing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs

    def nearly_full(path: Path) -> os.statvfs_result:
        values = list(real(path))
        values[4] = 1000  # f_bavail
        return os.statvfs_result(values)

    monkeypatch.setattr("imagebuilder.store.os.statvfs", nearly_full)
    with pytest.raises(NoSpace) as caught:
        world.build()
    assert caught.value.needed_bytes > caught.value.available_bytes
    assert world.store.entries("images") == []


def test_a_base_that_is_not_there_names_the_command_that_makes_it(world: World, tmp_path: Path) -> None:
    with pytest.raises(BaseMissing) as caught:
        build_image(world.spec, store=Store(tmp_path / "empty"), agent_package=world.agent)
    assert "bramble base build debian-trixie" in caught.value.hint
