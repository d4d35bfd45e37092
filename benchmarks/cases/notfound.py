"""How long "not found" takes while 64 transfers run: so long an installed board waits for its disk."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.bench import Bench, require_private_network
from benchmarks.boot_server import SERIAL
from benchmarks.cases.tftp import (
    NAME,
    Files,
    curl_words,
    make_files,
    require_client,
    start_servers,
)
from benchmarks.errors import BenchmarkError
from benchmarks.measure import Better, Subject, Table, interleave
from benchmarks.processes import LOOPBACK
from benchmarks.programs import Program
from benchmarks.servers import Running

TRANSFERS: Final = 64
QUESTIONS: Final = 500
EVERY_S: Final = 0.002
ANSWER_TIMEOUT_S: Final = 2.0
SETTLE_S: Final = 1.0  # 64 processes start
AHEAD: Final = -20
REQUEST: Final = f"\0\1{SERIAL}/start.elf\0octet\0tsize\x000\0blksize\x001468\0".encode()


def run(bench: Bench) -> Table:
    """The slowest of a hundred answers, for Bramble and its peers."""
    curl = require_client(bench, "curl")
    require_private_network()
    questions = QUESTIONS // 10 if bench.trial else QUESTIONS
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(bench.directory("notfound"))
        files = make_files(bench, work)
        servers, missing = start_servers(bench, stack, files.served, work)
        subjects = [
            Subject(name=each.name, measure=functools.partial(_measure, curl, files, questions, each))
            for each in servers
        ]
        rows = (*interleave(subjects, bench.rounds), *missing)
    return Table(
        title=f"TFTP, not found while {TRANSFERS} transfers run: 99th percentile",
        unit="ms",
        better=Better.LOWER,
        work=f"{questions} requests for a file that is not there, each from a new port, one after the other "
        f"with {EVERY_S * 1000:.0f} ms between, while {TRANSFERS} curls read a file in lock-step. The client "
        "that asks and the others share the processors with the server.",
        rows=rows,
    )


def _measure(curl: Program, files: Files, questions: int, server: Running) -> float:
    running: list[subprocess.Popen[bytes]] = []
    stack = contextlib.ExitStack()
    try:
        for number in range(TRANSFERS):
            running.append(_start(curl, server, number))
        time.sleep(SETTLE_S)
        stack.enter_context(_ahead_of_others())
        times: list[float] = []
        while len(times) < questions:
            for number, process in enumerate(running):
                if process.poll() is not None:
                    if process.returncode != 0:
                        raise BenchmarkError(f"{server.name}: curl ended with {process.returncode}")
                    running[number] = _start(curl, server, number)
            times.append(_ask(server))
            time.sleep(EVERY_S)
    finally:
        stack.close()
        for process in running:
            process.kill()
            process.wait()
    return statistics.quantiles(times, n=100)[98] * 1000


@contextlib.contextmanager
def _ahead_of_others() -> Iterator[None]:
    """Let who asks run at once when the answer comes, where that is allowed: how long the machine takes to
    give a client the processor is not the server's doing."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, AHEAD)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, 0)


def _start(curl: Program, server: Running, number: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        curl_words(curl, server, NAME, number, Path("/dev/null")),
        stdin=subprocess.DEVNULL,
        env=dict(curl.environment),
    )
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process.pid, 0)
    return process


def _ask(server: Running) -> float:
    """Seconds until the answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.2.1", 0))
        sock.settimeout(ANSWER_TIMEOUT_S)
        started = time.perf_counter()
        sock.sendto(REQUEST, (LOOPBACK, server.tftp or 0))
        try:
            answer = sock.recv(2048)
        except TimeoutError:
            return ANSWER_TIMEOUT_S
        seconds = time.perf_counter() - started
    if answer[:4] != b"\0\5\0\1":
        raise BenchmarkError(
            f"{server.name} answers {answer[:40]!r} to a request for a file that is not there"
        )
    return seconds
