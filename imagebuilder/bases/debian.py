"""Make a base from Debian's own packages: bootstrap a tree in the sandbox, lay it out as a disk, keep that.

The commands that run as root of the sandbox are in ``debian/bootstrap.sh``; this module gives it its inputs,
follows its output and owns the work directory.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from imagebuilder.bases import mirror as mirrors
from imagebuilder.bases.base import (
    DISK_NAME,
    INFO_NAME,
    KIND,
    Base,
    BaseInfo,
    PartitionInfo,
    load_base,
)
from imagebuilder.bases.catalogue import DATA_DIR, recipe_id
from imagebuilder.bases.layout import BOOT_LABEL, LAYOUT_TOOLS, ROOT_LABEL, disk_identity, lay_out
from imagebuilder.bases.progress import BootstrapProgress, Progress
from imagebuilder.bases.recipe import DebianRecipe
from imagebuilder.digests import hash_file
from imagebuilder.disk.mbr import Mbr
from imagebuilder.errors import ImageBuilderError, MissingTool
from imagebuilder.runner import require_tools, run, stream
from imagebuilder.sandbox import require_sandbox, sandboxed
from imagebuilder.store import Store, require_room, workspace

ROOM_BYTES: Final = 2_500 * 2**20
"""Packages 170 MiB, tree with them at most 1100 MiB, disk image 600 MiB; measured, with a third on top."""

BOOTSTRAP_TIMEOUT_S: Final = 5400
"""Ten times what two cores need: a Raspberry Pi may be the build machine, but a hung download must end."""
APT_SETTINGS: Final = ('Acquire::Languages "none";', 'APT::Install-Recommends "false";')
TOOLS: Final = ("mmdebstrap", "dpkg", "apt-get", "apt-config", *LAYOUT_TOOLS)


def build_base(
    recipe: DebianRecipe,
    *,
    store: Store,
    mirror: str | None = None,
    progress: Callable[[Progress], None],
) -> Base:
    """The base of ``recipe``: from the store, or built now (minutes, and about 170 MB of packages).

    Args:
        recipe: what to build.
        store: where it is kept; a build that is interrupted leaves nothing in it.
        mirror: URL of the Debian archive; None: the one that the host's apt uses.
        progress: called from this thread with each step forward.

    Raises:
        MissingTool: all missing programs at once.
        MirrorError: no Debian archive is known.
        SandboxError: the host does not allow the namespace, or cannot run arm64 programs.
        NoSpace, CommandFailed, StoreError
    """
    entry_id = recipe_id(recipe)
    entry = store.get_or_create(KIND, entry_id, lambda into: _build(recipe, entry_id, into, mirror, progress))
    return load_base(entry)


def _build(
    recipe: DebianRecipe,
    entry_id: str,
    into: Path,
    mirror: str | None,
    progress: Callable[[Progress], None],
) -> None:
    require_tools(*TOOLS)
    if not mirrors.KEYRING.is_file():
        raise MissingTool({str(mirrors.KEYRING): "debian-archive-keyring"})
    require_room(into, ROOM_BYTES)
    require_sandbox()  # now, rather than after the download
    with workspace(into / "work") as work:
        suites = _write_inputs(recipe, mirrors.find_mirror(mirror), work)
        started = time.monotonic()
        reader = BootstrapProgress()

        def on_line(line: str) -> None:
            if step := reader.read(line):
                progress(dataclasses.replace(step, elapsed_s=time.monotonic() - started))

        stream(
            sandboxed(["sh", str(DATA_DIR / "bootstrap.sh"), str(work), str(DATA_DIR)]),
            on_line=on_line,
            timeout_s=BOOTSTRAP_TIMEOUT_S,
        )
        disk = into / DISK_NAME
        identity = disk_identity(entry_id, int((work / "epoch").read_text()))
        mbr = lay_out(work / "tree", work / "bootfs", disk, identity)
        info = _describe(recipe, entry_id, work, disk, mbr, suites)
        (into / INFO_NAME).write_text(info.render())
        progress(Progress(phase="done", percent=100, elapsed_s=time.monotonic() - started))


def _write_inputs(recipe: DebianRecipe, mirror: mirrors.Mirror, work: Path) -> list[str]:
    """Write what bootstrap.sh reads; the archive suites that will be used."""
    settings = [
        *mirrors.inherited_settings(),
        'Acquire::Languages "none";',
        'APT::Install-Recommends "false";',
    ]
    conf = work / "apt.conf"
    conf.write_text("".join(f"{line}\n" for line in settings))
    extra = mirrors.find_suites(mirror, recipe.extra_suites, work, conf)
    (work / "debian.sources").write_text(
        mirrors.render_sources(mirror, recipe.suite, extra, recipe.components)
    )
    (work / "suite").write_text(f"{recipe.suite}\n")
    (work / "packages").write_text("".join(f"{name}\n" for name in recipe.packages))
    return [recipe.suite, *extra]


def parse_installed(text: str) -> dict[str, str]:
    """Package → version from dpkg-query's lines of status, name, version.

    Raises:
        ImageBuilderError: a package is not completely installed.
    """
    packages: dict[str, str] = {}
    unfinished = []
    for line in text.splitlines():
        status, name, installed = line.split()
        packages[name.removesuffix(":arm64")] = installed
        if status != "ii":
            unfinished.append(f"{name} ({status})")
    if unfinished:
        raise ImageBuilderError(
            f"these packages are not completely installed in the base: {', '.join(unfinished)}",
            "The archive may be in the middle of an update; try again in an hour, or with another --mirror.",
        )
    return packages


def _describe(
    recipe: DebianRecipe, entry_id: str, work: Path, disk: Path, mbr: Mbr, suites: list[str]
) -> BaseInfo:
    names = {1: ("vfat", BOOT_LABEL), 2: ("ext4", ROOT_LABEL)}
    layout = tuple(
        PartitionInfo(
            number=number,
            type=part.type,
            start_lba=part.start_lba,
            sectors=part.sectors,
            filesystem=names[number][0],
            label=names[number][1],
        )
        for number, part in mbr.partitions
    )
    return BaseInfo(
        id=entry_id,
        name=recipe.name,
        distribution="debian",
        suite=recipe.suite,
        architecture=recipe.architecture,
        kernel_version=(work / "kernel").read_text().strip(),
        packages=parse_installed((work / "installed").read_text()),
        layout=layout,
        size_bytes=disk.stat().st_size,
        disk_signature=mbr.signature,
        recipe=asdict(recipe),
        built_with={**_tool_versions(), "suites": suites},
        disk_sha256=hash_file(disk),
    )


def _tool_versions() -> dict[str, str]:
    """Versions of what shaped the image; for the record only, they are not part of the id."""
    try:
        ours = version("bramble")
    except PackageNotFoundError:
        ours = "checkout"
    mke2fs = run(["mke2fs", "-V"]).stderr.decode().split()
    return {
        "bramble": ours,
        "mmdebstrap": run(["mmdebstrap", "--version"]).stdout.decode().split()[-1],
        "e2fsprogs": mke2fs[1] if len(mke2fs) > 1 else "unknown",
    }
