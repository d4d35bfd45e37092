"""HTTP: an image to one client."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import Final

from benchmarks.bench import Bench, require_private_network, require_same, write_noise
from benchmarks.errors import BenchmarkError, NotPossible
from benchmarks.measure import Better, Row, Subject, Table, interleave
from benchmarks.processes import LOOPBACK, timed
from benchmarks.programs import Program, not_installed
from benchmarks.servers import Running, bramble_server, nginx, python_http

FILE_BYTES: Final = 256 << 20
NAME: Final = "images/bench/disk.img.zst"


def run(bench: Bench) -> Table:
    """Bramble's content server, Python's own as a baseline, nginx as the ceiling."""
    curl = bench.programs.find("curl")
    if curl is None:
        raise NotPossible(f"the client curl is {not_installed('curl')}")
    require_private_network()
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(bench.directory("http"))
        served = work / "root"
        size = bench.size(FILE_BYTES)
        digest = write_noise(served / NAME, size)
        servers = [
            stack.enter_context(bramble_server(served, work)),
            stack.enter_context(python_http(served, work)),
        ]
        missing = []
        if program := bench.programs.find("nginx"):
            servers.append(stack.enter_context(nginx(program, served, work)))
        else:
            missing.append(Row(name="nginx", note=not_installed("nginx")))
        for server in servers:
            target = work / "received"
            fetch(curl, server, target)
            require_same(target, digest, server.name)
            target.unlink()
        subjects = [
            Subject(name=server.name, measure=functools.partial(_measure, curl, server, size))
            for server in servers
        ]
        rows = (*interleave(subjects, bench.rounds), *missing)
    return Table(
        title="HTTP content",
        unit="MB/s",
        better=Better.HIGHER,
        work=f"{size >> 20} MiB over the loopback interface to one curl, wall time of its process. Before "
        "the rounds one answer of each server is compared with the file; in the rounds its bytes are counted "
        "and thrown away.",
        rows=rows,
    )


def fetch(curl: Program, server: Running, target: Path) -> tuple[float, int]:
    """Read the file once: seconds, and the bytes that came."""
    url = f"http://{LOOPBACK}:{server.http}/{NAME}"
    words = ["--silent", "--show-error", "--fail", "--write-out", "%{size_download}", "--output", str(target)]
    seconds, output = timed([curl.path, *words, url], environment=curl.environment)
    return seconds, int(output)


def _measure(curl: Program, server: Running, size_bytes: int) -> float:
    seconds, received = fetch(curl, server, Path("/dev/null"))
    if received != size_bytes:
        raise BenchmarkError(f"{server.name} sent {received} bytes, the file has {size_bytes}")
    return size_bytes / seconds / 1e6
