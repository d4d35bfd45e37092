"""Writing an image to a medium, beside bmaptool; files stand for cards."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.demo_image import demo_spec, linked_store, require_base
from benchmarks.errors import BenchmarkError
from benchmarks.measure import Better, Row, Subject, Table, interleave
from benchmarks.processes import Words, timed
from benchmarks.programs import not_installed
from bramble.paths import agent_package
from imagebuilder.build import Image, build_image
from imagebuilder.flash.target import FlashTarget
from imagebuilder.seal.chunks import load_chunks


def run(bench: Bench) -> Table:
    """One image onto one medium: written, read back, and read back alone."""
    require_base(bench.store)
    with bench.directory("spec") as directory, linked_store(bench) as store:
        image = build_image(demo_spec(directory), store=store, agent_package=agent_package())
        card = directory / "card"
        with card.open("wb") as file:
            file.truncate(image.disk.stat().st_size)
        ours: Words = (sys.executable, "-m", "bramble.cli", "flash", "--yes", "--image", image.disk)
        bmaptool = bench.programs.find("bmaptool")
        subjects = [
            Subject(
                name="bramble flash --no-verify",
                measure=lambda: _write(image, card, [*ours, "--no-verify", card]),
                note="the medium is not read back",
            ),
            Subject(
                name="bramble flash",
                measure=lambda: _write(image, card, [*ours, card]),
                note="everything is read back past the page cache",
            ),
            Subject(
                name="reading the medium back",
                measure=lambda: _read_back(image, card),
                note="the floor of verification: one read past the page cache, with SHA-256",
            ),
        ]
        if bmaptool is not None:
            theirs: Words = (bmaptool.path, "-q", "copy", "--bmap", image.block_map)
            subjects += [
                Subject(
                    name="bmaptool copy --no-verify",
                    measure=lambda: _write(image, card, [*theirs, "--no-verify", image.disk, card]),
                    note="neither source nor medium is checked",
                ),
                Subject(
                    name="bmaptool copy",
                    measure=lambda: _write(image, card, [*theirs, image.disk, card]),
                    note="checks what it reads from the image, never the medium",
                ),
            ]
        rows = interleave(subjects, bench.rounds)
    if bmaptool is None:
        rows = (*rows, Row(name="bmaptool copy", note=not_installed("bmaptool")))
    return Table(
        title="Flashing",
        unit="s",
        better=Better.LOWER,
        work=f"The demo's image ({image.manifest.mapped_bytes / 1e6:.0f} MB mapped of "
        f"{image.manifest.size_bytes / 1e6:.0f} MB) onto a file of its size that holds an older copy, "
        "flushed. Wall time of the process; afterwards every mapped byte on the medium is compared with "
        "the image.",
        rows=rows,
    )


def _write(image: Image, card: Path, argv: Words) -> float:
    seconds, _ = timed(argv)
    with image.disk.open("rb") as source, card.open("rb") as medium:
        for chunk in load_chunks(image.index):
            wanted = os.pread(source.fileno(), chunk.length, chunk.offset)
            if os.pread(medium.fileno(), chunk.length, chunk.offset) != wanted:
                raise BenchmarkError(f"{argv[0]}: the medium differs from the image at {chunk.offset}")
    return seconds


def _read_back(image: Image, card: Path) -> float:
    chunks = load_chunks(image.index)
    started = time.perf_counter()
    with FlashTarget(card) as target:
        for chunk in chunks:
            hashlib.sha256(target.read_back(chunk.offset, chunk.length)).digest()
    return time.perf_counter() - started
