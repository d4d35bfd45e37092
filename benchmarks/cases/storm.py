"""The boot storm: every board of a room is switched on at once, with the server running or coming up late."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.bench import Bench, require_private_network, write_noise
from benchmarks.boot_server import FIRST_SERIAL, SERIAL
from benchmarks.errors import BenchmarkError
from benchmarks.measure import Better, Row, Table
from benchmarks.processes import free_port, resident_bytes
from benchmarks.servers import Running, bramble_server
from benchmarks.storm_client import names
from benchmarks.usage import cpu_seconds

SPREAD_S: Final = 0.5
LATE_S: Final = 40.0
DEADLINE_S: Final = 3600.0
LOOK_EVERY_S: Final = 0.5
KERNEL_BYTES: Final = 24 << 20
INITRAMFS_BYTES: Final = 36 << 20
SMALL_BYTES: Final = 4096
DTB_BYTES: Final = 80 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Storm:
    """How many boards, and how long before its server they come."""

    boards: int
    late_s: float = 0.0

    @property
    def name(self) -> str:
        late = f", server {self.late_s:.0f} s late" if self.late_s else ""
        return f"bramble: {self.boards} boards{late}"


def run(bench: Bench) -> list[Table]:
    """256 boards, with a server that runs and with one that is late."""
    boards = 16 if bench.trial else 256
    late_s = 3.0 if bench.trial else LATE_S
    return _tables(bench, [_Storm(boards=boards), _Storm(boards=boards, late_s=late_s)])


def run_large(bench: Bench) -> list[Table]:
    """512 and 1,024 boards: how the cost grows."""
    counts = (24, 32) if bench.trial else (512, 1024)
    return _tables(bench, [_Storm(boards=boards) for boards in counts])


def _tables(bench: Bench, storms: list[_Storm]) -> list[Table]:
    require_private_network()
    seconds, memory, cpu = [], [], []
    with bench.directory("storm") as work:
        served = work / "root"
        boot_bytes = _make_files(bench, served)
        for storm in storms:
            result, peak_bytes, cost_s = _play(storm, served, work)
            if result["complete"] != storm.boards or result["wrong"]:
                raise BenchmarkError(
                    f"{storm.name}: {result['complete']} boards have everything, "
                    f"{result['wrong']} files are wrong"
                )
            note = f"{result['restarts']} times a board gave a file up and started over; first board after "
            note += f"{result['first_s']:.0f} s"
            seconds.append(Row(name=storm.name, samples=(result["finished_s"] - storm.late_s,), note=note))
            memory.append(Row(name=storm.name, samples=(peak_bytes / 2**20,)))
            cpu.append(Row(name=storm.name, samples=(cost_s / result["received_bytes"] * 1e9,)))
    work_text = (
        f"Raspberry Pi 5 boards that are switched on within {SPREAD_S} s, each reads {boot_bytes / 1e6:.0f} "
        "MB in its bootloader's order and lock-step at blksize 1468 over the loopback interface, all played "
        "by one process that shares the processors with the server. Every board has to get every file "
        "whole. One run."
    )
    return [
        Table(title="Boot storm", unit="s", better=Better.LOWER, work=work_text, rows=tuple(seconds)),
        Table(
            title="Boot storm: memory of the server at its peak",
            unit="MiB",
            better=Better.LOWER,
            work="Resident memory of all its processes; pages that they share count for each of them.",
            rows=tuple(memory),
        ),
        Table(
            title="Boot storm: processor time of the server",
            unit="s/GB",
            better=Better.LOWER,
            work="User and system time for what the boards received.",
            rows=tuple(cpu),
        ),
    ]


def _make_files(bench: Bench, served: Path) -> int:
    """The files of a boot; how many bytes a board reads."""
    sizes = {name: SMALL_BYTES for name in names()}
    sizes["kernel_2712.img"] = bench.size(KERNEL_BYTES)
    sizes["initramfs_2712"] = bench.size(INITRAMFS_BYTES)
    sizes["bcm2712-rpi-5-b.dtb"] = DTB_BYTES
    for name, size in sizes.items():
        write_noise(served / SERIAL / name, size)
    return sum(sizes.values())


def _play(storm: _Storm, served: Path, work: Path) -> tuple[dict[str, float], int, float]:
    """What the boards say, the server's memory at its peak, and its processor time in seconds."""
    port = free_port(socket.SOCK_DGRAM)
    words = [str(port), str(storm.boards), f"{FIRST_SERIAL:08x}", str(SPREAD_S), str(DEADLINE_S)]
    with contextlib.ExitStack() as stack:
        server: Running | None = None
        if not storm.late_s:
            server = stack.enter_context(bramble_server(served, work, boards=storm.boards, port=port))
        client = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.storm_client", *words], stdout=subprocess.PIPE
            )
        )
        stack.callback(client.kill)
        if server is None:
            time.sleep(storm.late_s)
            server = stack.enter_context(bramble_server(served, work, boards=storm.boards, port=port))
        peak_bytes = 0
        while client.poll() is None:
            peak_bytes = max(peak_bytes, resident_bytes(server.pid))
            time.sleep(LOOK_EVERY_S)
        cost_s = cpu_seconds(server.pid)
        assert client.stdout is not None
        output = client.stdout.read()
        if client.returncode != 0:
            raise BenchmarkError(f"the boards of {storm.name} ended with {client.returncode}")
        result: dict[str, float] = json.loads(output)
        return result, peak_bytes, cost_s
