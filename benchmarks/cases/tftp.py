"""TFTP: one large file to one client, in lock-step and with windows."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.bench import Bench, require_private_network, require_same, write_noise
from benchmarks.boot_server import SERIAL
from benchmarks.errors import BenchmarkError, NotPossible
from benchmarks.measure import Better, Row, Subject, Table, interleave
from benchmarks.processes import LOOPBACK, timed
from benchmarks.programs import Program, not_installed
from benchmarks.servers import TFTP_ARGUMENTS, Running, bramble_server, tftp_options, tftp_peer

FILE_BYTES: Final = 64 << 20
BLKSIZE: Final = 1468
"""Fills an Ethernet frame: 1500 − 20 (IP) − 8 (UDP) − 4 (TFTP)."""
NAME: Final = f"{SERIAL}/kernel8.img"
WINDOWS: Final = (16, 64)


@dataclass(frozen=True, slots=True)
class _Files:
    """What is served, where it goes, and what it has to be."""

    served: Path
    target: Path
    sha256: str
    size_bytes: int


Fetch = Callable[[_Files, Running], float]
"""Reads the file from a server: seconds."""


def run(bench: Bench) -> list[Table]:
    """One table for each way to read."""
    curl = _require_client(bench, "curl")
    atftp = bench.programs.find("atftp")
    require_private_network()
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(bench.directory("tftp"))
        served = work / "root"
        size = bench.size(FILE_BYTES)
        digest = write_noise(served / NAME, size)
        (served / SERIAL / "config.txt").write_text("arm_64bit=1\n")
        files = _Files(served, work / "received", digest, size)
        servers = [stack.enter_context(bramble_server(served, work))]
        missing = []
        for name in TFTP_ARGUMENTS:
            program = bench.programs.find(name)
            if program is None:
                missing.append(Row(name=name, note=not_installed(name)))
                continue
            try:
                servers.append(stack.enter_context(tftp_peer(program, served, work)))
            except BenchmarkError as exc:
                missing.append(Row(name=name, note=exc.message))
        fetch = functools.partial(_with_curl, curl)
        tables = [_table(bench, "lock-step, client curl", files, servers, missing, fetch, {})]
        for window in WINDOWS:
            title = f"windowsize {window}, client atftp"
            if atftp is None:
                row = Row(name="bramble", note=not_installed("atftp"))
                tables.append(_make_table(title, size, (row,)))
                continue
            wanted = {"blksize": str(BLKSIZE), "windowsize": str(window)}
            fetch = functools.partial(_with_atftp, atftp, window)
            tables.append(_table(bench, title, files, servers, missing, fetch, wanted))
    return tables


def _table(
    bench: Bench,
    title: str,
    files: _Files,
    servers: list[Running],
    missing: list[Row],
    fetch: Fetch,
    wanted: dict[str, str],
) -> Table:
    subjects = [
        Subject(
            name=server.name,
            measure=functools.partial(_measure, files, fetch, server),
            note=_refused(server, wanted),
        )
        for server in servers
    ]
    return _make_table(title, files.size_bytes, (*interleave(subjects, bench.rounds), *missing))


def _make_table(title: str, size_bytes: int, rows: tuple[Row, ...]) -> Table:
    return Table(
        title=f"TFTP, {title}",
        unit="MB/s",
        better=Better.HIGHER,
        work=f"{size_bytes >> 20} MiB at blksize {BLKSIZE} over the loopback interface to one client, wall "
        "time of the client's process. Every file that arrives is compared with the one that was served.",
        rows=rows,
    )


def _measure(files: _Files, fetch: Fetch, server: Running) -> float:
    files.target.unlink(missing_ok=True)
    seconds = fetch(files, server)
    require_same(files.target, files.sha256, server.name)
    return files.size_bytes / seconds / 1e6


def _with_curl(program: Program, files: _Files, server: Running) -> float:
    url = f"tftp://{LOOPBACK}:{server.tftp}/{NAME}"
    words = ["--silent", "--show-error", "--tftp-blksize", str(BLKSIZE), "--output", str(files.target), url]
    return timed([program.path, *words], environment=program.environment)[0]


def _with_atftp(program: Program, window: int, files: _Files, server: Running) -> float:
    options = ["--option", f"blksize {BLKSIZE}", "--option", f"windowsize {window}"]
    place = ["--remote-file", NAME, "--local-file", str(files.target), LOOPBACK, str(server.tftp)]
    return timed([program.path, *options, "--get", *place], environment=program.environment)[0]


def _refused(server: Running, wanted: dict[str, str]) -> str:
    """What a reader has to know: which options the server does not grant as they were asked for."""
    granted = tftp_options(server.tftp or 0, wanted) or {}
    return "; ".join(
        f"grants {name} {granted[name]}" if name in granted else f"does not know {name}: lock-step"
        for name, value in wanted.items()
        if granted.get(name) != value
    )


def _require_client(bench: Bench, name: str) -> Program:
    program = bench.programs.find(name)
    if program is None:
        raise NotPossible(f"the client {name} is {not_installed(name)}")
    return program
