"""Builds whose tools die, cannot write, or say that all is well when it is not.

A tool is replaced by a script of its name that starts the real one under bad conditions: a file size limit,
which ends a write in the middle, or strace, which lets the kernel answer a write with an error.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from build_world import Builder, World

from imagebuilder.runner import find_tool

pytestmark = pytest.mark.integration

WRITERS = ("cp", "debugfs", "mcopy", "resize2fs")
CHECKERS = ("e2fsck", "fsck.vfat")
LIMITS_KIB = {"cp": 60 * 1024, "debugfs": 60 * 1024, "mcopy": 1600, "resize2fs": 140 * 1024}
"""Up to where a file may reach: past the tool's first write to the image, short of its last."""

WRITES = "write,pwrite64,copy_file_range,ftruncate"
"""Where pwrite64 fails, e2fsprogs try lseek and write; their first write is their name, on stderr."""
FAULTS = {
    "is killed before it begins": "kill -KILL $$",
    "is killed when it has ended": '"$real" "$@"; kill -KILL $$',
    "dies in the middle of a write": 'ulimit -f {blocks}; exec "$real" "$@"',
    "is told in the middle of a write that the file is too large": (
        'trap \'\' XFSZ; ulimit -f {blocks}; exec "$real" "$@"'
    ),
    "gets EIO for its writes": f'{{strace}} inject={WRITES}:error=EIO:when=2+ "$real" "$@"',
    "gets EIO for its later writes": f'{{strace}} inject={WRITES}:error=EIO:when=5+ "$real" "$@"',
    "finds the disk full": f'{{strace}} inject={WRITES}:error=ENOSPC:when=2+ "$real" "$@"',
    "gets EIO from its flush": '{strace} inject=fsync,fdatasync:error=EIO "$real" "$@"',
    "does nothing and says that it did": "exit 0",
}
HARMLESS = {("cp", "gets EIO from its flush"), ("mcopy", "gets EIO from its flush")}
"""These tools do not flush: we do."""


def sabotaged(directory: Path, tool: str, fault: str) -> dict[str, str]:
    """The environment of a build in which ``tool`` is struck by ``fault``."""
    real = find_tool(tool)
    strace = find_tool("strace")
    assert real, f"{tool} is not installed"
    if strace is None:
        pytest.skip("strace is not installed (package strace)")
    directory.mkdir()
    body = FAULTS[fault].format(
        blocks=LIMITS_KIB.get(tool, 0) * 2, strace=f"exec {strace} -f -qq -o /dev/null -e"
    )
    script = directory / tool
    version = 'case $1 in -V | --version) exec "$real" "$@" ;; esac'
    script.write_text(f"#!/bin/sh\nreal={real}\n{version}\n{body}\n")
    script.chmod(0o755)
    return {"PATH": os.pathsep.join([str(directory), os.environ["PATH"]])}


@pytest.mark.parametrize("tool", WRITERS)
def test_a_tool_that_fails_leaves_no_image_and_the_next_run_makes_it(
    world: World, tmp_path: Path, tool: str
) -> None:
    for number, fault in enumerate(FAULTS):
        env = sabotaged(tmp_path / f"bin{number}", tool, fault)
        with Builder(world, tmp_path / "work", env=env) as builder:
            told = builder.build()
        if (tool, fault) in HARMLESS:
            assert world.check(builder.store)
            shutil.rmtree(builder.store.path("images", world.image.name))
            continue
        assert told["image"] is None, fault
        assert told["hint"], f"{fault}: {told['error']}"
        assert not world.check(builder.store), fault
        assert list(builder.store.root.glob("tmp/*")) == [], fault
    with Builder(world, tmp_path / "work") as builder:
        assert builder.build()["error"] is None
    assert world.check(builder.store)


@pytest.mark.parametrize("tool", CHECKERS)
@pytest.mark.parametrize("fault", ["is killed before it begins", "is killed when it has ended"])
def test_a_check_that_did_not_end_is_no_check(world: World, tmp_path: Path, tool: str, fault: str) -> None:
    with Builder(world, tmp_path / "work", env=sabotaged(tmp_path / "bin", tool, fault)) as builder:
        told = builder.build()
    assert told["image"] is None
    assert tool in told["error"]
    assert "was ended by SIGKILL" in told["error"]
    assert not world.check(builder.store)
