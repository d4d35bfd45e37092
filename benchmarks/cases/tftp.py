"""TFTP: files to one client and to many, in lock-step and with windows, and what that costs the server."""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.bench import Bench, require_private_network, require_same, write_noise
from benchmarks.boot_server import SERIAL
from benchmarks.errors import BenchmarkError, NotPossible
from benchmarks.measure import Better, Row, Subject, Table, interleave
from benchmarks.processes import LOOPBACK, timed
from benchmarks.programs import Program, not_installed
from benchmarks.servers import TFTP_ARGUMENTS, Running, bramble_server, tftp_options, tftp_peer
from benchmarks.usage import CpuLog, cpu_seconds

FILE_BYTES: Final = 64 << 20
MANY_BYTES: Final = 4 << 20
BLKSIZE: Final = 1468
"""Fills an Ethernet frame: 1500 − 20 (IP) − 8 (UDP) − 4 (TFTP)."""
NAME: Final = f"{SERIAL}/kernel8.img"
MANY_NAME: Final = f"{SERIAL}/many.img"
CLIENTS: Final = (1, 16, 64)
WINDOWS: Final = (16, 64)
CLIENT_TIMEOUT_S: Final = 300
NOT_COUNTED: Final = "in.tftpd"
"""Its children are not waited for, so their time is nowhere to be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What is served, where it goes, and what it has to be."""

    served: Path
    target: Path
    sizes: dict[str, int] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)


Fetch = Callable[[Files, Running], tuple[float, int]]
"""Reads from a server: seconds, and bytes in all."""


def run(bench: Bench) -> list[Table]:
    """One table for each way to read, and one with what it cost."""
    curl = require_client(bench, "curl")
    atftp = bench.programs.find("atftp")
    require_private_network()
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(bench.directory("tftp"))
        files = make_files(bench, work)
        servers, missing = start_servers(bench, stack, files.served, work)
        tables: list[Table] = []
        for clients in CLIENTS:
            fetch = functools.partial(with_curl, curl, clients)
            each = files.sizes[NAME if clients == 1 else MANY_NAME]
            title = f"lock-step, {clients} client{'s' if clients > 1 else ''} (curl)"
            work_text = f"{each >> 20} MiB to each client"
            tables += _tables(bench, title, work_text, files, servers, missing, fetch, {})
        for window in WINDOWS:
            wanted = {"blksize": str(BLKSIZE), "windowsize": str(window)}
            windowed = [each for each in servers if not _refused(each, wanted)]
            lock_step = [
                Row(name=each.name, note=_refused(each, wanted)) for each in servers if each not in windowed
            ]
            text = f"{files.sizes[NAME] >> 20} MiB to one client that throws it away (benchmarks.tftp_client)"
            fetch = functools.partial(_with_light_client, window)
            tables += _tables(
                bench,
                f"windowsize {window}, light client",
                text,
                files,
                windowed,
                [*lock_step, *missing],
                fetch,
                wanted,
            )
            title = f"windowsize {window}, client atftp"
            if atftp is None:
                tables.append(_make_table(title, text, (Row(name="bramble", note=not_installed("atftp")),)))
                continue
            text = f"{files.sizes[NAME] >> 20} MiB to one atftp, which writes a file"
            fetch = functools.partial(_with_atftp, atftp, window)
            tables += _tables(bench, title, text, files, servers, missing, fetch, wanted)[:1]
    return tables


def make_files(bench: Bench, work: Path) -> Files:
    """The files that TFTP cases serve."""
    files = Files(served=work / "root", target=work / "received")
    for name, full in ((NAME, FILE_BYTES), (MANY_NAME, MANY_BYTES)):
        files.sizes[name] = bench.size(full)
        files.digests[name] = write_noise(files.served / name, files.sizes[name])
    (files.served / SERIAL / "config.txt").write_text("arm_64bit=1\n")
    return files


def start_servers(
    bench: Bench, stack: contextlib.ExitStack, served: Path, work: Path
) -> tuple[list[Running], list[Row]]:
    """Bramble and the peers that are there, and a row for each that is not."""
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
    return servers, missing


def _tables(
    bench: Bench,
    title: str,
    work: str,
    files: Files,
    servers: list[Running],
    missing: list[Row],
    fetch: Fetch,
    wanted: dict[str, str],
) -> list[Table]:
    cpu = CpuLog()

    def measure(server: Running) -> float:
        before = cpu_seconds(server.pid)
        seconds, size_bytes = fetch(files, server)
        cpu.add(server.name, cpu_seconds(server.pid) - before, size_bytes)
        return size_bytes / seconds / 1e6

    subjects = [
        Subject(name=each.name, measure=functools.partial(measure, each), note=_refused(each, wanted))
        for each in servers
    ]
    rows = interleave(subjects, bench.rounds)
    counted = [each.name for each in servers if each.name != NOT_COUNTED]
    return [
        _make_table(title, work, (*rows, *missing)),
        Table(
            title=f"TFTP, {title}: processor time",
            unit="s/GB",
            better=Better.LOWER,
            work="User and system time of the server's processes in the rounds of the table before. That of "
            f"{NOT_COUNTED} is not to be read: it does not wait for its children.",
            rows=cpu.rows(counted),
        ),
    ]


def _make_table(title: str, work: str, rows: tuple[Row, ...]) -> Table:
    return Table(
        title=f"TFTP, {title}",
        unit="MB/s",
        better=Better.HIGHER,
        work=f"{work}, blksize {BLKSIZE}, over the loopback interface; from the start of the first client to "
        "the end of the last. What arrives is compared with what was served, in the rounds or before them.",
        rows=rows,
    )


def with_curl(program: Program, clients: int, files: Files, server: Running) -> tuple[float, int]:
    """Several curls at a time, each from an address of its own, as boards have them."""
    name = NAME if clients == 1 else MANY_NAME
    targets = [files.target.with_name(f"received-{number}") for number in range(clients)]
    started = time.perf_counter()
    running = [
        subprocess.Popen(
            curl_words(program, server, name, number, target),
            stdin=subprocess.DEVNULL,
            env=dict(program.environment),
        )
        for number, target in enumerate(targets)
    ]
    try:
        for process in running:
            if process.wait(CLIENT_TIMEOUT_S) != 0:
                raise BenchmarkError(f"{server.name}: curl ended with {process.returncode}")
    finally:
        for process in running:
            process.kill()
            process.wait()
    seconds = time.perf_counter() - started
    for target in targets:
        require_same(target, files.digests[name], server.name)
        target.unlink()
    return seconds, clients * files.sizes[name]


def curl_words(program: Program, server: Running, name: str, client: int, target: Path) -> list[str]:
    """The command of one lock-step client."""
    url = f"tftp://{LOOPBACK}:{server.tftp}/{name}"
    words = ["--silent", "--show-error", "--interface", f"127.0.1.{client + 1}"]
    return [str(program.path), *words, "--tftp-blksize", str(BLKSIZE), "--output", str(target), url]


def _with_light_client(window: int, files: Files, server: Running) -> tuple[float, int]:
    """The client in a process of its own; its seconds are those of the transfer, without Python's start."""
    words = [
        sys.executable,
        "-m",
        "benchmarks.tftp_client",
        str(server.tftp),
        NAME,
        str(BLKSIZE),
        str(window),
    ]
    checked = json.loads(timed([*words, "--sha256"])[1]) if server.name not in _CHECKED else None
    if checked is not None:
        if checked["sha256"] != files.digests[NAME]:
            raise BenchmarkError(f"{server.name} sent other bytes than it serves")
        _CHECKED.add(server.name)
    received = json.loads(timed(words)[1])
    if received["size_bytes"] != files.sizes[NAME]:
        raise BenchmarkError(f"{server.name} sent {received['size_bytes']} bytes")
    return received["seconds"], files.sizes[NAME]


_CHECKED: Final[set[str]] = set()
"""Servers whose bytes were compared, in the round that is not measured."""


def _with_atftp(program: Program, window: int, files: Files, server: Running) -> tuple[float, int]:
    files.target.unlink(missing_ok=True)
    options = ["--option", f"blksize {BLKSIZE}", "--option", f"windowsize {window}"]
    place = ["--remote-file", NAME, "--local-file", str(files.target), LOOPBACK, str(server.tftp)]
    seconds = timed([program.path, *options, "--get", *place], environment=program.environment)[0]
    require_same(files.target, files.digests[NAME], server.name)
    return seconds, files.sizes[NAME]


def _refused(server: Running, wanted: dict[str, str]) -> str:
    """What a reader has to know: which options the server does not grant as they were asked for."""
    granted = tftp_options(server.tftp or 0, wanted) or {} if wanted else {}
    return "; ".join(
        f"grants {name} {granted[name]}" if name in granted else f"does not know {name}: lock-step"
        for name, value in wanted.items()
        if granted.get(name) != value
    )


def require_client(bench: Bench, name: str) -> Program:
    """A client without which a case can not run."""
    program = bench.programs.find(name)
    if program is None:
        raise NotPossible(f"the client {name} is {not_installed(name)}")
    return program
