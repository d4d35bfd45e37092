"""HTTP: an image to one client and to many."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import time
from pathlib import Path
from typing import Final

from benchmarks.bench import Bench, require_private_network, require_same, write_noise
from benchmarks.errors import BenchmarkError, NotPossible
from benchmarks.measure import Better, Row, Subject, Table, interleave
from benchmarks.processes import LOOPBACK
from benchmarks.programs import Program, not_installed
from benchmarks.servers import Running, bramble_server, nginx, python_http

FILE_BYTES: Final = 1 << 30
MANY_BYTES: Final = 128 << 20
NAME: Final = "images/bench/disk.img.zst"
MANY_NAME: Final = "images/bench/part.img.zst"
CLIENTS: Final = (1, 32)
CLIENT_TIMEOUT_S: Final = 600


def run(bench: Bench) -> list[Table]:
    """Bramble's content server, Python's own as a baseline, nginx as the ceiling."""
    curl = bench.programs.find("curl")
    if curl is None:
        raise NotPossible(f"the client curl is {not_installed('curl')}")
    require_private_network()
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(bench.directory("http"))
        served = work / "root"
        sizes = {NAME: bench.size(FILE_BYTES), MANY_NAME: bench.size(MANY_BYTES)}
        digests = {name: write_noise(served / name, size) for name, size in sizes.items()}
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
            fetch(curl, server, NAME, [target])
            require_same(target, digests[NAME], server.name)
            target.unlink()
        tables = []
        for clients in CLIENTS:
            name = NAME if clients == 1 else MANY_NAME
            subjects = [
                Subject(
                    name=server.name,
                    measure=functools.partial(_measure, curl, server, name, clients, sizes[name]),
                )
                for server in servers
            ]
            rows = (*interleave(subjects, bench.rounds), *missing)
            tables.append(_table(clients, sizes[name], rows))
    return tables


def _table(clients: int, size_bytes: int, rows: tuple[Row, ...]) -> Table:
    return Table(
        title=f"HTTP content, {clients} client{'s' if clients > 1 else ''}",
        unit="MB/s",
        better=Better.HIGHER,
        work=f"{size_bytes >> 20} MiB to each of {clients} curl over the loopback interface, from the start "
        "of the first to the end of the last. Before the rounds one answer of each server is compared with "
        "the file; in the rounds its bytes are counted and thrown away.",
        rows=rows,
    )


def fetch(curl: Program, server: Running, name: str, targets: list[Path]) -> tuple[float, list[int]]:
    """Read a file once for each target, all at a time: seconds, and the bytes that came."""
    url = f"http://{LOOPBACK}:{server.http}/{name}"
    words = ["--silent", "--show-error", "--fail", "--write-out", "%{size_download}", "--output"]
    started = time.perf_counter()
    running = [
        subprocess.Popen(
            [str(curl.path), *words, str(target), url],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=dict(curl.environment),
        )
        for target in targets
    ]
    try:
        outputs = [process.communicate(timeout=CLIENT_TIMEOUT_S)[0] for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    seconds = time.perf_counter() - started
    if failed := [process.returncode for process in running if process.returncode]:
        raise BenchmarkError(f"{server.name}: curl ended with {failed[0]}")
    return seconds, [int(output) for output in outputs]


def _measure(curl: Program, server: Running, name: str, clients: int, size_bytes: int) -> float:
    seconds, received = fetch(curl, server, name, [Path("/dev/null")] * clients)
    if set(received) != {size_bytes}:
        raise BenchmarkError(f"{server.name} sent {sorted(set(received))} bytes, the file has {size_bytes}")
    return clients * size_bytes / seconds / 1e6
