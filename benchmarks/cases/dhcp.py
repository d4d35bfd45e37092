"""DHCP: complete exchanges of new clients, offered at a fixed rate by perfdhcp."""

from __future__ import annotations

import contextlib
import functools
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.bench import Bench, require_private_network
from benchmarks.errors import BenchmarkError, NotPossible
from benchmarks.measure import Better, Row, Subject, Table, interleave
from benchmarks.processes import server, timed
from benchmarks.programs import Program, not_installed

RATE: Final = 2100
"""Exchanges a second that are begun, whether the server keeps up or not."""
SECONDS: Final = 10
TRIAL_SECONDS: Final = 3
CLIENTS: Final = 60_000
"""More than are begun in a round: every exchange is of a client that the server has not seen."""
BOARDS: Final = "bramble, clients are boards"
FIRST_MAC: Final = "52:54:00:00:00:00"
FIRST_BOARD_MAC: Final = "2c:cf:67:00:00:00"
"""Of a Raspberry Pi: Bramble writes a timeline for such clients and diagnoses them."""
SERVER_INTERFACE: Final = "dhcp0"
CLIENT_INTERFACE: Final = "dhcp1"
SERVER: Final = "10.78.0.1"
CLIENT: Final = "10.78.0.2"
NETWORK: Final = "10.78.0.0/16"
POOL: Final = ("10.78.1.0", "10.78.250.255")
SETTLE_S: Final = 1.0
LOSSES_EXIT: Final = 3  # perfdhcp(8): some exchanges were not completed

_RATE: Final = re.compile(r"^Rate: ([\d.]+) 4-way exchanges/second", re.MULTILINE)
_SENT: Final = re.compile(r"^sent packets: (\d+)", re.MULTILINE)
_DROPS: Final = re.compile(r"^drops: (\d+)", re.MULTILINE)
_DELAY: Final = re.compile(r"^avg delay: ([\d.]+) ms", re.MULTILINE)

Serve = Callable[[Path, Path], contextlib.AbstractContextManager[None]]
"""(work directory, log) → a server that answers on `SERVER_INTERFACE` with an empty lease file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What perfdhcp counted. The drops are those of both halves of the exchange."""

    rate: float
    begun: int
    lost: int
    delays_ms: tuple[float, ...]

    @property
    def lost_percent(self) -> float:
        return 100 * self.lost / self.begun if self.begun else 100.0


def parse_report(text: str) -> Report:
    """Read perfdhcp's statistics.

    Raises:
        BenchmarkError: they are not there.
    """
    rate, sent, drops = _RATE.search(text), _SENT.findall(text), _DROPS.findall(text)
    if rate is None or len(sent) != 2 or len(drops) != 2:
        raise BenchmarkError(f"perfdhcp printed no statistics: {text.strip()[-300:]!r}")
    delays = tuple(float(delay) for delay in _DELAY.findall(text))
    return Report(rate=float(rate.group(1)), begun=int(sent[0]), lost=sum(map(int, drops)), delays_ms=delays)


def run(bench: Bench) -> list[Table]:
    """One table of exchanges and one of losses, out of the same runs."""
    perfdhcp = bench.programs.find("perfdhcp")
    if perfdhcp is None:
        raise NotPossible(f"the client perfdhcp is {not_installed('perfdhcp')}")
    require_private_network()
    seconds = TRIAL_SECONDS if bench.trial else SECONDS
    servers: dict[str, Serve] = {"bramble": _bramble, BOARDS: _bramble}
    missing = []
    dnsmasq = bench.programs.find("dnsmasq")
    if dnsmasq is None:
        missing.append(Row(name="dnsmasq", note=not_installed("dnsmasq")))
    else:
        servers["dnsmasq"] = functools.partial(_dnsmasq, dnsmasq)
    reports: dict[str, list[Report]] = {name: [] for name in servers}
    with bench.directory("dhcp") as work, _cable() as clients:

        def measure(name: str) -> float:
            report = _measure(perfdhcp, name, servers[name], work, clients, seconds)
            reports[name].append(report)
            return report.rate

        subjects = [
            Subject(name=name, measure=functools.partial(measure, name), note=NOTES[name]) for name in servers
        ]
        rows = interleave(subjects, bench.rounds)
    what = (
        f"{RATE} exchanges a second are begun for {seconds} s, each of a new client, by perfdhcp through a "
        f"virtual cable. The lease file is empty and on the disk; each figure is of a server started anew."
    )
    lost = tuple(
        Row(
            name=name,
            samples=tuple(report.lost_percent for report in found[1:]),
            note=f"mean delay {_worst_delay(found[1:]):.1f} ms in the slowest round",
        )
        for name, found in reports.items()
    )
    return [
        Table(
            title="DHCP, complete exchanges",
            unit="exchanges/s",
            better=Better.HIGHER,
            work=what,
            rows=(*rows, *missing),
        ),
        Table(
            title="DHCP, lost messages",
            unit="% of the exchanges",
            better=Better.LOWER,
            work="Unanswered DISCOVERs and REQUESTs of the same runs.",
            rows=(*lost, *missing),
        ),
    ]


NOTES: Final = {
    "bramble": "leases synced to the disk before each ACK",
    BOARDS: "the same, and a timeline and a diagnosis of each client",
    "dnsmasq": "no ping, quiet, lease file written and not synced",
}


def _worst_delay(reports: Sequence[Report]) -> float:
    return max((delay for report in reports for delay in report.delays_ms), default=0.0)


def _measure(perfdhcp: Program, name: str, serve: Serve, work: Path, clients: int, seconds: int) -> Report:
    state = work / f"run-{time.monotonic_ns()}"
    state.mkdir()
    first = FIRST_BOARD_MAC if name == BOARDS else FIRST_MAC
    with serve(state, work / "server.log"):
        time.sleep(SETTLE_S)  # a server that has just said it is there may still read its files
        argv = [
            *("nsenter", f"--net=/proc/{clients}/ns/net", str(perfdhcp.path), "-4"),
            *("-r", str(RATE), "-R", str(CLIENTS), "-p", str(seconds), "-b", f"mac={first}"),
            *("-l", CLIENT_INTERFACE, SERVER),
        ]
        result = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(perfdhcp.environment),
            timeout=seconds + 60,
            check=False,
        )
    text = result.stdout.decode("utf-8", "replace")
    if result.returncode not in (0, LOSSES_EXIT):
        raise BenchmarkError(f"perfdhcp ended with {result.returncode}: {text.strip()[-300:]}")
    return parse_report(text)


@contextlib.contextmanager
def _bramble(state: Path, log: Path) -> Iterator[None]:
    """Bramble's boot server in `dhcp: full`."""
    argv = [sys.executable, "-m", "benchmarks.dhcp_server", SERVER_INTERFACE, NETWORK, *POOL, str(state)]
    with server(argv, log=log, answers=lambda: log.read_bytes().endswith(b"}\n")):
        yield


@contextlib.contextmanager
def _dnsmasq(program: Program, state: Path, log: Path) -> Iterator[None]:
    """dnsmasq with as many leases as it is asked for, and nothing that would hold it up."""
    argv = [
        *(str(program.path), "--no-daemon", "--conf-file=/dev/null", "--port=0", "--bind-interfaces"),
        *(f"--interface={SERVER_INTERFACE}", f"--dhcp-range={POOL[0]},{POOL[1]},12h", "--no-ping"),
        *(f"--dhcp-leasefile={state}/leases", "--dhcp-lease-max=100000", "--dhcp-authoritative"),
        *("--quiet-dhcp", "--user=root", "--group=root", "--pid-file="),
    ]
    ready = b"IP range"
    with server(argv, log=log, answers=lambda: ready in log.read_bytes(), environment=program.environment):
        yield


@contextlib.contextmanager
def _cable() -> Iterator[int]:
    """A virtual cable from here to a network of the clients' own, as the process that lives there."""
    holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write(b"here\n")
        holder.stdin.flush()
        holder.stdout.readline()  # cat runs, so its network is there
        inside = ["nsenter", f"--net=/proc/{holder.pid}/ns/net"]
        peer = ["peer", "name", CLIENT_INTERFACE, "netns", str(holder.pid)]
        timed(["ip", "link", "add", SERVER_INTERFACE, "type", "veth", *peer])
        for prefix, name, address in (([], SERVER_INTERFACE, SERVER), (inside, CLIENT_INTERFACE, CLIENT)):
            timed([*prefix, "ip", "address", "add", f"{address}/16", "dev", name])
            timed([*prefix, "ip", "link", "set", name, "up"])
        yield holder.pid
    finally:
        if holder.stdin is not None:
            holder.stdin.close()
        holder.wait(timeout=10)
        if holder.stdout is not None:
            holder.stdout.close()
