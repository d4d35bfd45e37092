"""Resident memory of the servers after they have served a file."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from benchmarks.bench import Bench, require_private_network, require_same, write_noise
from benchmarks.boot_server import SERIAL
from benchmarks.errors import NotPossible
from benchmarks.measure import Better, Row, Subject, Table, interleave
from benchmarks.processes import LOOPBACK, resident_bytes, timed
from benchmarks.programs import Program, not_installed
from benchmarks.servers import TFTP_ARGUMENTS, Running, bramble_server, tftp_peer

FILE_BYTES: Final = 16 << 20
NAME: Final = f"{SERIAL}/kernel8.img"

Start = Callable[[Path, Path], AbstractContextManager[Running]]
"""(served directory, work directory) → a running server."""


def run(bench: Bench) -> Table:
    """Each server is started anew for every figure."""
    curl = bench.programs.find("curl")
    if curl is None:
        raise NotPossible(f"the client curl is {not_installed('curl')}")
    require_private_network()
    with bench.directory("memory") as work:
        served = work / "root"
        digest = write_noise(served / NAME, bench.size(FILE_BYTES))
        (served / SERIAL / "config.txt").write_text("arm_64bit=1\n")
        measure = functools.partial(_measure, curl, served, work, digest)
        subjects = [
            Subject(
                name="bramble",
                measure=functools.partial(measure, bramble_server),
                note="boot server and TFTP worker: TFTP, HTTP, decisions, events",
            )
        ]
        missing = []
        for name in TFTP_ARGUMENTS:
            program = bench.programs.find(name)
            if program is None:
                missing.append(Row(name=name, note=not_installed(name)))
                continue
            start = functools.partial(tftp_peer, program)
            subjects.append(
                Subject(name=name, measure=functools.partial(measure, start), note="TFTP of a directory")
            )
        rows = (*interleave(subjects, bench.rounds), *missing)
    return Table(
        title="Memory of a boot server",
        unit="MiB",
        better=Better.LOWER,
        work="Resident memory of all processes of a freshly started server after one TFTP transfer, which is "
        "compared with the file. Pages that processes share count for each of them.",
        rows=rows,
    )


def _measure(curl: Program, served: Path, work: Path, digest: str, start: Start) -> float:
    target = work / "received"
    with start(served, work) as server:
        url = f"tftp://{LOOPBACK}:{server.tftp}/{NAME}"
        timed([curl.path, "--silent", "--show-error", "--output", target, url], environment=curl.environment)
        require_same(target, digest, server.name)
        return resident_bytes(server.pid) / 2**20
