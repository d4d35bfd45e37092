"""Builds whose own writes fail, fall short or are interrupted, wherever that happens."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import pytest
from build_world import Builder, World
from fakes_image import make_spec

from imagebuilder import writing
from imagebuilder.build import build_image
from imagebuilder.errors import DiskFull, ImageBuilderError
from imagebuilder.runner import find_tool
from imagebuilder.store import Store

pytestmark = pytest.mark.integration

SYSCALLS = "trace=write,pwrite64"
QUIET = {"PYTHONDONTWRITEBYTECODE": "1"}
POINTS = 6
LIMITS_KIB = (64, 1024, 20 * 1024, 100 * 1024, 139 * 1024, 150 * 1024)
"""File size limits from the smallest file of a build to beyond the base's size."""


@pytest.fixture
def strace() -> str:
    found = find_tool("strace")
    if found is None:
        pytest.skip("strace is not installed (package strace)")
    return str(found)


@pytest.fixture
def build(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Store]:
    """Builds in this process, in a store that has nothing but the base."""
    monkeypatch.setattr("imagebuilder.build.FREE_ROOT_BYTES", 100 * 2**20)
    store = Store(tmp_path / "store")
    shutil.copytree(world.root / "store" / "bases", store.root / "bases")
    spec = make_spec(world.release, path=tmp_path / "cluster.yaml")

    def run() -> Store:
        build_image(spec, store=store, agent_package=world.agent)
        return store

    return run


def require_told(told: dict[str, object], builder: Builder, world: World, moment: str) -> None:
    """An error in our words, and nothing that is left of the build."""
    assert told.get("image") is None, moment
    assert told.get("hint"), f"{moment}: {told}"
    assert not world.check(builder.store), moment
    assert list(builder.store.root.glob("tmp/*")) == [], moment


def test_the_nth_write_of_every_thread_and_tool_fails(world: World, tmp_path: Path, strace: str) -> None:
    """The kernel's answer is forged, so that nobody who writes is left out: interpreter, library or tool."""
    log = tmp_path / "writes"
    counted = [strace, "-f", "-qq", "-o", str(log), "-e", SYSCALLS]
    with Builder(world, tmp_path / "counted", before=counted, env=QUIET) as builder:
        assert builder.build()["error"] is None
    process = log.read_text().split(maxsplit=1)[0]  # that which builds: it is the first to write anything
    total = len(re.findall(rf"^{process} +p?write", log.read_text(), re.MULTILINE))
    failed = 0
    errors = cycle(("EIO", "ENOSPC", "EDQUOT", "EFBIG"))
    for point, error in zip(sorted({1, 2, total, *range(3, total, total // POINTS)}), errors, strict=False):
        moment = f"{error} for write {point} of {total}"
        inject = f"inject=write,pwrite64:error={error}:when={point}"
        words = [strace, "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", SYSCALLS, "-e", inject]
        with Builder(world, tmp_path / "work", before=words, env=QUIET) as builder:
            told = builder.build()
        if told["image"]:  # what failed was a record that only saves time
            assert world.check(builder.store), moment
            shutil.rmtree(builder.store.path("images", world.image.name))
        else:
            failed += 1
            require_told(told, builder, world, moment)
    assert failed >= POINTS // 2
    with Builder(world, tmp_path / "work") as builder:
        assert builder.build()["error"] is None
    assert world.check(builder.store)


@pytest.mark.parametrize("survivable", [False, True], ids=["tools are ended", "tools are told"])
def test_files_that_may_not_grow_end_the_build_in_words(
    world: World, tmp_path: Path, survivable: bool
) -> None:
    """A limit on file sizes cuts a write in two: its first half is taken, the second refused."""
    trap = "trap '' XFSZ; " if survivable else ""
    for limit in LIMITS_KIB:
        words = ["sh", "-c", f'{trap}ulimit -f {limit * 2}; exec "$@"', "sh"]
        with Builder(world, tmp_path / "work", before=words, env=QUIET) as builder:
            require_told(builder.build(), builder, world, f"{limit} KiB")
    with Builder(world, tmp_path / "work") as builder:
        assert builder.build()["error"] is None
    assert world.check(builder.store)


def test_a_filesystem_without_holes_gets_zeros(world: World, tmp_path: Path, strace: str) -> None:
    words = [strace, "-f", "--seccomp-bpf", "-qq", "-o", str(tmp_path / "log"), "-e", "trace=fallocate"]
    refuse = "inject=fallocate:error=EOPNOTSUPP"
    with Builder(world, tmp_path / "work", before=[*words, "-e", refuse], env=QUIET) as builder:
        assert builder.build()["error"] is None
    assert "EOPNOTSUPP" in (tmp_path / "log").read_text()
    assert world.check(builder.store)


def test_signals_in_the_middle_of_everything_change_nothing(world: World, build: Callable[[], Store]) -> None:
    """A timer that goes off every half millisecond ends system calls with EINTR all the time."""
    alarms = 0

    def count(*_: object) -> None:
        nonlocal alarms
        alarms += 1

    before = signal.signal(signal.SIGALRM, count)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        store = build()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert alarms > 100
    assert world.check(store)


def test_writes_that_take_less_than_they_were_given_are_gone_on_with(
    world: World, build: Callable[[], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def pwrite(descriptor: int, data: bytes | memoryview, offset: int) -> int:
        nonlocal calls
        calls += 1
        return os.pwrite(descriptor, memoryview(data)[: max(1, len(data) // 3)], offset)

    monkeypatch.setattr(writing, "pwrite", pwrite)
    assert world.check(build())
    assert calls


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_flush_beside_the_work_that_fails_is_told(
    world: World, build: Callable[[], Store], monkeypatch: pytest.MonkeyPatch, error: int, tmp_path: Path
) -> None:
    """Linux tells of a lost write once, to whoever flushes first; that is the thread that flushes ahead."""
    calls = due = 0

    def fdatasync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == due:
            raise OSError(error, os.strerror(error))

    monkeypatch.setattr("imagebuilder.disk.behind.os.fdatasync", fdatasync)
    for point in (1, 3):
        calls, due = 0, point
        with pytest.raises(ImageBuilderError) as caught:
            build()
        assert isinstance(caught.value, DiskFull) == (error == errno.ENOSPC)
        assert caught.value.hint
        store = Store(tmp_path / "store")
        assert not world.check(store)
        assert list(store.root.glob("tmp/*")) == []
    due = 0
    assert world.check(build())
