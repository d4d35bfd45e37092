"""What the node's agent costs while nothing happens: CPU time and memory at the steady interval."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.agent_node import node_root, running_agent
from benchmarks.bench import Bench
from benchmarks.measure import Better, Row, Table
from benchmarks.processes import LOOPBACK, Words, accepts_tcp, free_port, resident_bytes, server
from benchmarks.programs import Program, not_installed
from fleet.health.pace import STEADY_INTERVAL_S

WINDOW_S: Final = 60.0
"""One of everything that the agent does once a minute."""
TRIAL_WINDOW_S: Final = 12.0
EXPORTER: Final = "prometheus-node-exporter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A process that runs through all windows."""

    name: str
    pid: int
    note: str
    touch: Callable[[], None]
    """What makes it work; called every ten seconds."""


def run(bench: Bench) -> list[Table]:
    """Both run side by side through the same windows; nothing is started anew."""
    window_s = TRIAL_WINDOW_S if bench.trial else WINDOW_S
    cpu: dict[str, list[float]] = {}
    memory: dict[str, list[float]] = {}
    missing = []
    with bench.directory("agent") as work, contextlib.ExitStack() as stack:
        subjects = [stack.enter_context(_agent(work))]
        exporter = bench.programs.find(EXPORTER)
        if exporter is None:
            missing.append(Row(name=EXPORTER, note=not_installed(EXPORTER)))
        else:
            subjects.append(stack.enter_context(_exporter(exporter, work)))
        _work(subjects, window_s)
        for _ in range(bench.rounds):
            before = {subject.name: cpu_seconds(subject.pid) for subject in subjects}
            spent_s = _work(subjects, window_s)
            for subject in subjects:
                used = cpu_seconds(subject.pid) - before[subject.name]
                cpu.setdefault(subject.name, []).append(100 * used / spent_s)
                memory.setdefault(subject.name, []).append(resident_bytes(subject.pid) / 2**20)
        notes = {subject.name: subject.note for subject in subjects}
    what = (
        f"An enrolled, joined node reports every {STEADY_INTERVAL_S:.0f} s over TLS, windows of "
        f"{window_s:.0f} s. "
        "/proc and /sys are this machine's; systemctl is a shell script that answers at once."
    )
    return [
        Table(
            title="Cost of the agent on a node, CPU",
            unit="% of a core",
            better=Better.LOWER,
            work=f"{what} The commands that it starts count. The limit is 0.5 %, on a core of a Pi.",
            rows=(*_rows(cpu, notes), *missing),
        ),
        Table(
            title="Cost of the agent on a node, memory",
            unit="MiB",
            better=Better.LOWER,
            work="Resident memory at the end of the same windows. The limit is 25 MB (23.8 MiB).",
            rows=(*_rows(memory, notes), *missing),
        ),
    ]


def _rows(samples: dict[str, list[float]], notes: dict[str, str]) -> list[Row]:
    return [Row(name=name, samples=tuple(values), note=notes[name]) for name, values in samples.items()]


def _work(subjects: list[Subject], window_s: float) -> float:
    """Let a window pass; its true length in seconds."""
    started = time.monotonic()
    while (left_s := started + window_s - time.monotonic()) > 0:
        for subject in subjects:
            subject.touch()
        time.sleep(min(left_s, STEADY_INTERVAL_S))
    return time.monotonic() - started


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and of the children that it has waited for.

    Its threads' own to the nanosecond (/proc/pid/task/*/schedstat, field 1), its children's in ticks
    (/proc/pid/stat, fields 16 and 17). Source: proc(5); kernel Documentation/scheduler/sched-stats.rst.
    """
    own = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        own += int((task / "schedstat").read_text("ascii").split()[0])
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return own / 1e9 + (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _agent(work: Path) -> Iterator[Subject]:
    with running_agent(work, node_root(work), poll_s=0.1) as running:
        yield Subject(
            name="bramble agent",
            pid=running.pid,
            note="health, inventory, k3s state, TLS; carries out orders",
            touch=lambda: None,
        )


@contextlib.contextmanager
def _exporter(program: Program, work: Path) -> Iterator[Subject]:
    port = free_port(socket.SOCK_STREAM)
    argv: Words = [program.path, f"--web.listen-address={LOOPBACK}:{port}"]
    log = work / "exporter.log"
    with server(argv, log=log, answers=lambda: accepts_tcp(port), environment=program.environment) as pid:

        def scrape() -> None:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/metrics", timeout=10) as answer:
                answer.read()

        yield Subject(name=EXPORTER, pid=pid, note="readings only, scraped every 10 s, no TLS", touch=scrape)
