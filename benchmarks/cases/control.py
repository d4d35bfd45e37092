"""The control server of a fleet: reports a second, enrolments a minute, and what each node costs it.

The server has one core of its own, the nodes (one process, `benchmarks.fleet_client`) another one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.bench import Bench
from benchmarks.errors import BenchmarkError, NotPossible
from benchmarks.fleet_server import ENROLLED, TICKETS, node_name
from benchmarks.measure import Better, Row, Table
from benchmarks.processes import resident_bytes, server
from benchmarks.usage import cpu_seconds
from fleet.api.silence import KEPT_CONNECTIONS
from fleet.health.pace import pace_of
from fleet.store.database import Store

NODES: Final = KEPT_CONNECTIONS
"""As many as keep their connections: what is measured is reports, not handshakes."""
AT_ONCE: Final = 400
"""Reports under way at any moment. The nodes do not wait for each other; some of them always report."""
WINDOW_S: Final = 10.0
APPLICANTS: Final = 1_000
APPLICANTS_AT_ONCE: Final = 32
FLEETS: Final = (10, 100, 1_000, 5_000, 10_000)
STEADY_S: Final = 30.0
"""And where the interval is longer, one of it: every node reports."""
SETUP_S: Final = 300.0
"""To make a fleet of thousands, its keys and its record."""


def run(bench: Bench) -> list[Table]:
    """Everything about the control server."""
    return [*_reports(bench), _enrolments(bench), *_fleets(bench)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Server:
    pid: int
    port: int
    state: Path
    told: dict[str, float]


@contextlib.contextmanager
def _server(work: Path, count: int, kind: str) -> Iterator[_Server]:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise NotPossible(
            "the server and its nodes need a core each, and this machine has one",
            "Measure on another machine.",
        )
    state, log = work / f"{kind}-{count}", work / f"{kind}-{count}.log"
    argv = ["taskset", "-c", str(cores[0]), sys.executable, "-m", "benchmarks.fleet_server"]
    with server(
        [*argv, state, str(count), kind],
        log=log,
        answers=lambda: log.read_bytes().endswith(b"}\n"),
        start_s=SETUP_S,
    ) as pid:
        told = json.loads(log.read_text("utf-8").splitlines()[-1])
        yield _Server(pid=pid, port=int(told["port"]), state=state, told=told)


class _Nodes:
    """The process that plays the nodes: one order and one answer at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.told = self._answer()

    def order(self, words: str) -> dict[str, float]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{words}\n")
        self._process.stdin.flush()
        answer: dict[str, float] = self._answer()
        return answer

    def end(self) -> list[int]:
        """The sequence that was acknowledged to each node."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        sequences: list[int] = self._answer()
        return sequences

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchmarkError(f"the nodes ended with {self._process.wait()}")
        return json.loads(line)


@contextlib.contextmanager
def _nodes(running: _Server, role: str) -> Iterator[_Nodes]:
    core = sorted(os.sched_getaffinity(0))[1]
    words = ["taskset", "-c", str(core), sys.executable, "-m", "benchmarks.fleet_client"]
    argv = [*words, str(running.state / "callers"), str(running.port), role]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield _Nodes(process)
        finally:
            process.kill()


def _reports(bench: Bench) -> list[Table]:
    """As many as it takes; then it is killed, and what it acknowledged has to be in its file."""
    count = 200 if bench.trial else NODES
    window_s = 2.0 if bench.trial else WINDOW_S
    rates, costs, delays, load = [], [], [], []
    with bench.directory("reports") as work, _server(work, count, ENROLLED) as running:
        with _nodes(running, "report") as nodes:
            body_bytes = int(nodes.told["body_bytes"])
            nodes.order(f"{AT_ONCE} {window_s}")  # not measured: every node's first report is of another kind
            for _ in range(bench.rounds):
                before = cpu_seconds(running.pid)
                done = nodes.order(f"{AT_ONCE} {window_s}")
                rates.append(done["count"] / done["seconds"])
                costs.append(1e6 * (cpu_seconds(running.pid) - before) / done["count"])
                delays.append(done["p99_ms"])
                load.append(done["own_cpu_s"] / done["seconds"])
            memory_mib = resident_bytes(running.pid) / 2**20
            sequences = nodes.end()
        os.kill(running.pid, signal.SIGKILL)
        _require_kept(running.state, sequences)
    work_text = (
        f"{count} enrolled nodes, as many as keep their TLS connections open, so that reports are measured "
        f"and not handshakes, report their health ({body_bytes} bytes) to the control server with SQLite; "
        f"{AT_ONCE} reports are under way at any moment. Each is durable before it is answered. The server "
        "has one core. In the end it is killed, and every acknowledged report has to be in its file."
    )
    return [
        Table(
            title="Reports of nodes to the control server",
            unit="reports/s",
            better=Better.HIGHER,
            work=f"{work_text} The aim is 5,000.",
            rows=(
                Row(
                    name="bramble",
                    samples=tuple(rates),
                    note=f"{memory_mib:.0f} MiB resident; the nodes' core was busy {100 * max(load):.0f} %",
                ),
            ),
        ),
        Table(
            title="Reports of nodes: processor time of the control server",
            unit="µs/report",
            better=Better.LOWER,
            work="User and system time in the same windows.",
            rows=(Row(name="bramble", samples=tuple(costs)),),
        ),
        Table(
            title="Reports of nodes: 99th percentile of the answers",
            unit="ms",
            better=Better.LOWER,
            work="From the first byte of the report to the answer, at that load.",
            rows=(Row(name="bramble", samples=tuple(delays)),),
        ),
    ]


def _require_kept(state: Path, sequences: list[int]) -> None:
    store = Store.open_readonly(state / "control.db")
    try:
        with store.read() as reader:
            kept = {node.name: node.status_sequence for node in reader.nodes()}
    finally:
        store.close()
    for number, sequence in enumerate(sequences):
        if kept[node_name(number)] < sequence:
            raise BenchmarkError(
                f"{node_name(number)}: report {sequence} was acknowledged, and is not in the server's file"
            )


def _enrolments(bench: Bench) -> Table:
    count = 100 if bench.trial else APPLICANTS
    rates, delays, costs = [], [], []
    for _ in range(bench.rounds):
        with bench.directory("enrol") as work, _server(work, count, TICKETS) as running:
            with _nodes(running, "enrol") as nodes:
                before = cpu_seconds(running.pid)
                done = nodes.order(str(APPLICANTS_AT_ONCE))
                costs.append(1000 * (cpu_seconds(running.pid) - before) / count)
            rates.append(60 * done["count"] / done["seconds"])
            delays.append(done["p99_ms"])
            os.kill(running.pid, signal.SIGKILL)
            _require_enrolled(running.state, count)
    return Table(
        title="Enrolments",
        unit="enrolments/min",
        better=Better.HIGHER,
        work=(
            f"{count} nodes whose cards were written enrol, {APPLICANTS_AT_ONCE} at a time and each from an "
            "address of its own: a TLS handshake, hello, and the proof of the ticket with a certificate "
            "request. The server has one core and is killed afterwards; every certificate has to be in its "
            "file. The aim is 1,000."
        ),
        rows=(
            Row(
                name="bramble",
                samples=tuple(rates),
                note=f"{max(costs):.1f} ms of its core each; 99 of 100 within {max(delays):.0f} ms",
            ),
        ),
    )


def _require_enrolled(state: Path, count: int) -> None:
    store = Store.open_readonly(state / "control.db")
    try:
        with store.read() as reader:
            enrolled = sum(node.certificate is not None for node in reader.nodes())
    finally:
        store.close()
    if enrolled != count:
        raise BenchmarkError(f"{enrolled} of {count} nodes have a certificate in the server's file")


def _fleets(bench: Bench) -> list[Table]:
    """The same server with more and more nodes, each of which reports at the steady interval."""
    counts = (10, 100) if bench.trial else FLEETS
    cpu, memory = [], []
    for count in counts:
        every_s = pace_of(count).steady_s
        window_s = 5.0 if bench.trial else max(STEADY_S, every_s)
        with bench.directory("fleet") as work, _server(work, count, ENROLLED) as running:
            idle_mib = resident_bytes(running.pid) / 2**20
            with _nodes(running, "report") as nodes:
                nodes.order(f"{count} {every_s / 2:.0f} {every_s:.0f}")
                before, began = cpu_seconds(running.pid), time.monotonic()
                done = nodes.order(f"{count} {window_s:.0f} {every_s:.0f}")
                busy = 100 * (cpu_seconds(running.pid) - before) / (time.monotonic() - began)
                resident_mib = resident_bytes(running.pid) / 2**20
                note = (
                    f"every {every_s:.0f} s, {done['count'] / done['seconds']:.0f} reports/s with "
                    f"{done['handshakes'] / done['seconds']:.0f} handshakes/s, 99 of 100 answered within "
                    f"{done['p99_ms']:.0f} ms; cluster.yaml read in {running.told['loaded_s']:.1f} s and "
                    f"recorded in {running.told['declared_s']:.1f} s"
                )
            name = f"bramble: {count:,} nodes"
            cpu.append(Row(name=name, samples=(busy,), note=note))
            memory.append(
                Row(
                    name=name,
                    samples=(resident_mib,),
                    note=f"{done['connections']:,.0f} connections open; {idle_mib:.0f} MiB without any",
                )
            )
    work_text = (
        "Every node reports at the interval that the server tells a fleet of this size, over its open TLS "
        f"connection where it is one of the {KEPT_CONNECTIONS:,} that are kept, and else after a handshake; "
        "beside it the server keeps time limits and timelines. No Kubernetes API answers it, and it boots "
        "nobody. One window each."
    )
    return [
        Table(
            title="Cost of a fleet, CPU of the control server",
            unit="% of a core",
            better=Better.LOWER,
            work=f"{work_text} Where the nodes report late, what bends is the core.",
            rows=tuple(cpu),
        ),
        Table(
            title="Cost of a fleet, memory of the control server",
            unit="MiB",
            better=Better.LOWER,
            work="Resident memory at the end of the same windows. The limit is 200 MB (191 MiB) at 5,000.",
            rows=tuple(memory),
        ),
    ]
