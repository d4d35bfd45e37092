"""A warm build of a cluster's image, and a second `bramble build` that finds it."""

from __future__ import annotations

import filecmp
import os
import sys
import time
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.demo_image import demo_spec, linked_store, require_base
from benchmarks.errors import BenchmarkError
from benchmarks.measure import Better, Subject, Table, interleave
from benchmarks.processes import timed
from bramble.paths import agent_package
from fleet.spec.model import ClusterSpec
from imagebuilder.build import build_image


def run(bench: Bench) -> Table:
    """The whole build beside a bare copy of the base, which no build that copies can beat."""
    base = require_base(bench.store)
    with bench.directory("spec") as directory:
        spec = demo_spec(directory)
        digests: set[str] = set()
        builds = Subject(
            name="bramble: build_image",
            measure=lambda: _build(bench, spec, digests),
            note="copy, customise, check, compress, seal, flush",
        )
        copies = Subject(
            name="cp --sparse=always, fsync",
            measure=lambda: _copy(bench, base.disk),
            note="the floor: the base as it is, nothing done to it",
        )
        rows = interleave([builds, copies], bench.rounds)
    return Table(
        title="Warm image build",
        unit="s",
        better=Better.LOWER,
        work="The demo's cluster (k3s simulator) is built into an empty store that has the base and the "
        "installer's runtime. Every build has to give the same compressed image; the copy is compared with "
        "the base byte by byte.",
        rows=rows,
    )


def run_cached(bench: Bench) -> Table:
    """`bramble build` for a cluster whose image is there, as a process from start to exit."""
    require_base(bench.store)
    with bench.directory("spec") as directory, linked_store(bench) as store:
        spec = demo_spec(directory)
        image = build_image(spec, store=store, agent_package=agent_package())
        environment = {**os.environ, "BRAMBLE_CACHE_DIR": str(store.root)}
        argv = [sys.executable, "-m", "bramble.cli", "build", str(spec.path)]

        def cached() -> float:
            seconds, output = timed(argv, environment=environment)
            if f"{image.id} (unchanged)" not in output.decode():
                raise BenchmarkError("bramble build did not find the image that was just built")
            return seconds

        rows = interleave(
            [
                Subject(name="bramble: build, unchanged", measure=cached, note="reads, hashes and plans"),
                Subject(
                    name="python3 -c pass",
                    measure=lambda: timed([sys.executable, "-c", "pass"])[0],
                    note="the floor: the interpreter alone",
                ),
            ],
            bench.rounds,
        )
    return Table(
        title="Second `bramble build`",
        unit="s",
        better=Better.LOWER,
        work="Wall time of the process for a cluster whose image is in the store; the output has to say that "
        "this image is unchanged.",
        rows=rows,
    )


def _build(bench: Bench, spec: ClusterSpec, digests: set[str]) -> float:
    with linked_store(bench) as store:
        started = time.perf_counter()
        image = build_image(spec, store=store, agent_package=agent_package())
        seconds = time.perf_counter() - started
        digests.add(image.manifest.output(image.compressed.name).sha256)
    if len(digests) != 1:
        raise BenchmarkError("two builds of one cluster gave different images")
    return seconds


def _copy(bench: Bench, source: Path) -> float:
    with bench.directory("copy") as directory:
        target = directory / "disk.img"
        started = time.perf_counter()
        timed(["cp", "--sparse=always", "--", source, target])
        descriptor = os.open(target, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        seconds = time.perf_counter() - started
        if not filecmp.cmp(source, target, shallow=False):
            raise BenchmarkError("cp made another file than its source")
    return seconds
