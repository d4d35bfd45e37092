"""Builds with the power cut, on disks that fill up or fail, and by several people at once."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from build_world import Builder, World, sums
from fakes_image import make_spec

from imagebuilder import store as store_module
from imagebuilder.build import build_image
from imagebuilder.errors import DiskFull, ImageBuilderError
from imagebuilder.store import Store

pytestmark = pytest.mark.integration

DEATHS = 24
BUILDERS = 20


def test_killed_at_any_point_no_half_image_appears_and_the_next_run_ends_it(
    world: World, tmp_path: Path
) -> None:
    """Half of the deaths hit an empty store, the others what the deaths before have left."""
    points = sorted(random.Random(11).sample(range(1, world.operations), DEATHS))
    with Builder(world, tmp_path) as builder:
        for number, point in enumerate(points):
            if number % 2 == 0:
                shutil.rmtree(builder.store.root, ignore_errors=True)
            died = builder.build(point)
            assert died["status"] == -9 or number % 2, f"point {point} of {world.operations} was not reached"
            if builder.store.entries("images"):
                assert world.check(builder.store), f"half an image after point {point}"
            else:
                world.check(builder.store)
        assert builder.build()["error"] is None
        assert world.check(builder.store)
        assert list((builder.store.root / "tmp").iterdir()) == []


def test_a_disk_that_fills_up_at_any_moment_leaves_nothing(world: World, tmp_path: Path) -> None:
    """Every tool and every write of ours meets a full disk: a tmpfs in a namespace of the process."""
    for tenth in range(1, 10):
        work = tmp_path / f"{tenth}"
        size = world.allocated * tenth // 10
        mount = f'mkdir -p store && mount -t tmpfs -o size={size} none store && exec "$@"'
        within = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
        with Builder(world, work, before=within) as builder:
            told = builder.build()
        assert told["image"] is None
        assert "could not be written: the disk (or your quota on it) is full" in told["error"], f"{tenth}/10"
        assert told["hint"]
        # Locks and small records may stay; what was half made may not.
        assert told["room_bytes"] > size * 0.9, f"something was left at {tenth}/10"
        assert sums(world.root / "store" / "bases") == world.base


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EROFS])
def test_a_flush_that_fails_ends_in_words_and_leaves_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """A disk tells late that it did not keep what it took: at fsync."""
    store = Store(tmp_path / "store")
    shutil.copytree(world.root / "store" / "bases", store.root / "bases")
    monkeypatch.setattr("imagebuilder.build.FREE_ROOT_BYTES", 100 * 2**20)
    real = os.fsync
    calls = due = 0

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == due:
            raise OSError(error, os.strerror(error))
        real(descriptor)

    monkeypatch.setattr(store_module, "fsync", fsync)
    spec = make_spec(world.release, path=tmp_path / "cluster.yaml")

    def build() -> None:
        build_image(spec, store=store, agent_package=world.agent)

    build()
    total = calls
    for point in (1, total // 2, total):
        for kind in ("images", "installer-runtimes", "base-chunks"):
            for entry in store.entries(kind):
                shutil.rmtree(entry)
        calls, due = 0, point
        with pytest.raises(ImageBuilderError) as caught:
            build()
        assert isinstance(caught.value, DiskFull) == (error == errno.ENOSPC)
        assert caught.value.hint
        assert list((store.root / "tmp").iterdir()) == []
        if store.entries("images"):  # only where the directory's own name was flushed too late
            assert world.check(store)
    due = 0
    build()
    assert world.check(store)


def test_builders_at_once_do_the_work_once(world: World, tmp_path: Path) -> None:
    """All begin together in one store; whoever waited gets the first one's entry."""
    builders = [Builder(world, tmp_path) for _ in range(BUILDERS)]
    for builder in builders:
        builder.begin()
    results = [builder.result() for builder in builders]
    for builder in builders:
        builder.__exit__()
    assert [result["error"] for result in results] == [None] * BUILDERS
    assert {result["image"] for result in results} == {
        str(builders[0].store.root / "images" / world.image.name)
    }
    worked = [result for result in results if result["operations"] > world.operations // 2]
    assert len(worked) == 1, [result["operations"] for result in results]
    assert world.check(builders[0].store)
    assert list((builders[0].store.root / "tmp").iterdir()) == []


def test_three_builds_by_two_users_in_two_directories_give_the_same_files(
    world: World, tmp_path: Path
) -> None:
    """Users differ in uid, umask, home, zone and language; directories in depth and name."""
    odd = tmp_path / "a directory" / "with ünusual names"
    umask = 'umask 077 && exec "$@"'
    someone = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "sh", "-c", umask, "sh"]
    foreign = {"HOME": "/nonexistent", "TZ": "Asia/Kathmandu", "LANG": "tr_TR.UTF-8", "LC_ALL": "C.UTF-8",
               "USER": "someone", "SOURCE_DATE_EPOCH": "1"}  # fmt: skip
    found: list[dict[str, str]] = [world.expected]
    for work, before, env in ((tmp_path / "second", [], {}), (odd, someone, foreign)):
        with Builder(world, work, before=before, env=env) as builder:
            told = builder.build()
        assert told["error"] is None
        assert Path(told["image"]) != world.image
        found.append(sums(Path(told["image"])))
    assert found[1] == found[0]
    assert found[2] == found[0]
    assert {"disk.img", "disk.img.zst", "disk.bmap", "index.json", "manifest.json", "sbom.spdx.json"} <= set(
        found[0]
    )


@pytest.fixture(autouse=True)
def _no_builder_is_left() -> Iterator[None]:
    yield
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    commands = [Path(f"/proc/{child}/cmdline").read_bytes() for child in children]
    assert not any(b"build_process.py" in command for command in commands)
