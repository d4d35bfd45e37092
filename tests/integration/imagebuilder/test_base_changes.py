"""A base that is replaced or written to: while a build reads it, between two builds, while it is imported."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from build_world import World
from fakes_image import make_disk, make_spec

from fleet.spec.model import FileBase
from imagebuilder.bases.base import DISK_NAME, INFO_NAME, KIND, parse_info
from imagebuilder.bases.fetch import import_file
from imagebuilder.build import Image, build_image
from imagebuilder.digests import hash_file
from imagebuilder.disk.blockmap import ROOT_PARTITION
from imagebuilder.disk.ext4 import Ext4Volume
from imagebuilder.disk.mbr import MBR_BYTES, parse_mbr
from imagebuilder.disk.source import open_source
from imagebuilder.errors import StoreError
from imagebuilder.still import ChangedMeanwhile
from imagebuilder.store import Store
from imagebuilder.store_verify import verify_store

pytestmark = pytest.mark.integration


def place(disk: Path) -> int:
    """Where the content of a file begins."""
    with open_source(disk) as source:
        root = parse_mbr(source.read_at(0, MBR_BYTES)).partition(ROOT_PARTITION)
        return Ext4Volume(source, root.offset).extents("/usr/bin/scattered")[0][0]


def write_into(disk: Path, value: bytes = b"changed") -> bytes:
    """Change a file of the image in place; what was there before."""
    at = place(disk)
    with disk.open("r+b") as file:
        file.seek(at)
        before = file.read(len(value))
        file.seek(at)
        file.write(value)
    return before


class Cluster:
    """A store of its own with the world's base, and builds in it."""

    def __init__(self, world: World, root: Path) -> None:
        self.world = world
        self.store = Store(root / "store")
        shutil.copytree(world.root / "store" / "bases", self.store.root / "bases")
        [entry] = self.store.entries(KIND)
        self.disk = entry / DISK_NAME
        self.spec = make_spec(world.release, path=root / "cluster.yaml")

    def build(self, progress: Callable[[str, float], None] = lambda text, share: None) -> Image:
        return build_image(self.spec, store=self.store, agent_package=self.world.agent, progress=progress)


@pytest.fixture
def cluster(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr("imagebuilder.build.FREE_ROOT_BYTES", 100 * 2**20)
    return Cluster(world, tmp_path)


MOMENTS = (
    "reading the k3s release",
    "looking at the base",
    "copying the base",
    "growing the root filesystem",
    "writing the root filesystem",
    "checking the filesystems",
    "building the installer",
    "reading everything back",
    "compressing",
    "recording digests",
)


@pytest.mark.parametrize("how", ["written to", "replaced"])
def test_a_base_that_changes_under_a_build_is_noticed_at_every_moment(cluster: Cluster, how: str) -> None:
    seen = []
    for moment in MOMENTS:
        before = b""

        def change(text: str, share: float, moment: str = moment) -> None:
            nonlocal before
            if text != moment or moment in seen:
                return
            seen.append(moment)
            if how == "replaced":
                shutil.copytree(cluster.disk.parent, cluster.disk.parent.with_name("other"))
                cluster.disk.parent.rename(cluster.disk.parent.with_name("old"))
                cluster.disk.parent.with_name("other").rename(cluster.disk.parent)
            before = write_into(cluster.disk)

        with pytest.raises(ChangedMeanwhile, match=r"disk\.img was changed while it was read"):
            cluster.build(change)
        assert cluster.store.entries("images") == []
        assert list(cluster.store.root.glob("tmp/*")) == []
        write_into(cluster.disk, before)
        shutil.rmtree(cluster.disk.parent.with_name("old"), ignore_errors=True)
    assert seen == list(MOMENTS)
    cluster.build()
    assert cluster.world.check(cluster.store)


def test_a_base_that_was_written_to_between_two_builds_is_refused(cluster: Cluster) -> None:
    cluster.build()
    shutil.rmtree(cluster.store.root / "images")
    before = write_into(cluster.disk)
    with pytest.raises(StoreError, match="somebody has written to the cached base") as caught:
        cluster.build()
    assert "bramble base remove debian-trixie" in caught.value.hint
    assert cluster.store.entries("images") == []
    write_into(cluster.disk, before)
    cluster.build()
    assert cluster.world.check(cluster.store)


def test_a_base_that_is_touched_and_not_changed_is_good(cluster: Cluster) -> None:
    cluster.build()
    shutil.rmtree(cluster.store.root / "images")
    os.utime(cluster.disk)
    cluster.build()
    assert cluster.world.check(cluster.store)


def test_a_base_in_use_by_a_build_cannot_be_removed(cluster: Cluster) -> None:
    refused: list[bool] = []

    def remove(text: str, share: float) -> None:
        if text == "compressing" and not refused:
            refused.append(Store(cluster.store.root).evict(KIND, cluster.disk.parent.name))

    cluster.build(remove)
    assert refused == [False]
    assert cluster.world.check(cluster.store)


def test_a_recipe_that_gives_other_bytes_a_month_later_makes_another_image(cluster: Cluster) -> None:
    """A base that is made here is named by its recipe; nothing that was made of the old bytes may serve."""
    first = cluster.build()
    info = parse_info((cluster.disk.parent / INFO_NAME).read_text())
    shutil.rmtree(cluster.disk.parent)
    cluster.disk.parent.mkdir()
    make_disk(cluster.disk)
    write_into(cluster.disk)
    again = replace(info, disk_sha256=hash_file(cluster.disk))
    (cluster.disk.parent / INFO_NAME).write_text(again.render())
    second = cluster.build()
    assert second.manifest.base.id == first.manifest.base.id
    assert second.id != first.id
    findings = verify_store(cluster.store)
    assert [finding.id for finding in findings if finding.problems] == []
    assert {finding.kind for finding in findings} >= {"bases", "images", "base-chunks", "installer-runtimes"}


def test_an_own_file_that_changes_while_it_is_imported_is_not_kept(cluster: Cluster, tmp_path: Path) -> None:
    mine = make_disk(tmp_path / "mine.img")
    changed = False

    def change(progress: object) -> None:
        nonlocal changed
        if not changed:
            changed = True
            write_into(mine)

    with pytest.raises(ChangedMeanwhile, match=r"mine\.img was changed"):
        import_file(mine, None, store=cluster.store, on_progress=change)
    assert changed
    assert len(cluster.store.entries(KIND)) == 1
    assert cluster.store.entries("origins") == []


def test_an_own_file_that_changes_between_builds_is_another_base(cluster: Cluster, tmp_path: Path) -> None:
    mine = make_disk(tmp_path / "mine.img")
    cluster.spec = replace(cluster.spec, image=replace(cluster.spec.image, base=FileBase(mine, None)))
    first = cluster.build()
    write_into(mine)
    second = cluster.build()
    assert first.manifest.base.id != second.manifest.base.id
    assert first.id != second.id
    for image, changed in ((first, False), (second, True)):
        with image.disk.open("rb") as file:
            file.seek(place(image.disk))
            assert (file.read(7) == b"changed") == changed
