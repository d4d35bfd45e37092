"""The nodes of a fleet in one process: they report to `benchmarks.fleet_server`, or enrol there.

    python -m benchmarks.fleet_client CALLERS PORT report
    python -m benchmarks.fleet_client CALLERS PORT enrol

`report`: each node has a certificate and a TLS connection of its own, which stays open until an answer says
that it is closed: then its next report begins with a handshake. Prints a line when all have reported once,
then reads orders, `AT_ONCE SECONDS [EVERY_S]`, one a line: with EVERY_S each node reports that often,
without it AT_ONCE reports are under way at any moment and the nodes take turns. Each order is answered by
one line of JSON; at the end of the orders the sequence that was acknowledged to each node is the last line.

`enrol`: orders are `AT_ONCE`. Each node makes one connection, from an address of its own, says hello, and
proves its ticket.

Bytes go out as the agent sends them (headers and body in two writes), through plain sockets and one epoll:
the nodes must not be what is measured.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import socket
import ssl
import sys
import time
from collections import deque
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.protocol import (
    PROTOCOL_VERSION,
    Hardware,
    Health,
    Hello,
    K3sState,
    Outcome,
    Proof,
    ProofKind,
    Stage,
    Status,
    Verdict,
    Welcome,
    ticket_proof,
)
from agent.vitals import DiskVitals, Firmware
from agent.wire import decode, encode
from benchmarks.errors import BenchmarkError
from benchmarks.fleet_server import BOOT_ID, LOOPBACK, node_name, node_serial

FIRST_SEQUENCE: Final = 1_000_001
"""Of seven digits until the end, so that every report has the same length."""
DEADLINE_S: Final = 300.0
STATUS: Final = "/v1/node/status"
OPENED_AT_ONCE: Final = 64


def hardware_of(number: int) -> Hardware:
    mac = f"2c:cf:67:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"
    return Hardware(node_serial(number), "Raspberry Pi 5 Model B Rev 1.0", (mac,), 8 << 30, 0xD04170, 6)


def status_of(number: int, now: float) -> Status:
    """A healthy board's report, with all that a Pi 5 with an NVMe disk has to say."""
    disk = DiskVitals("nvme0n1", "nvme", 3, None, 0, 100, 10, 0, 12, 0.8, "5.0 GT/s x1")
    return Status(
        sequence=FIRST_SEQUENCE,
        boot_id=BOOT_ID,
        hardware=hardware_of(number),
        health=Health(
            86400.5,
            0.42,
            6_442_450_944,
            200 << 30,
            True,
            temperature_c=48.3,
            throttled=0,
            storage_wear_percent=3,
            pressure_some_avg10={"cpu": 0.1, "io": 0.0, "memory": 0.0},
            root_size_bytes=256 << 30,
            under_voltage=False,
            clock_behind_s=0.1,
            fan_rpm=2100,
            fan_duty=75,
            kernel_taint=0,
            oom_kills=0,
            io_errors=0,
            filesystem_errors=0,
            disks=(disk,),
            firmware=Firmware("a1b2c3d4", 1_760_000_000, 1, False, 1),
            certificates={"agent": now + 5e5, "kubelet": now + 3e7},
            kubelet_healthy=True,
            agent_rss_bytes=24 << 20,
            agent_cpu_s=12.5,
        ),
        addresses=(str(IPv4Address("127.16.0.1") + number),),
        k3s=K3sState.RUNNING,
        k3s_version="k3s version v1.33.5+k3s1 (aaaaaaaa)",
        generation=0,
        image_id="f" * 64,
        agent_version="0.1.0",
        agent_release="e" * 64,
    )


class Caller:
    """One TLS connection that waits for one answer at a time."""

    def __init__(self, number: int, context: ssl.SSLContext, port: int, source: str | None = None) -> None:
        self.asked_at = time.perf_counter()
        raw = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source is not None:
            raw.bind((source, 0))
        raw.connect((LOOPBACK, port))
        raw.setblocking(False)
        self.number = number
        self.port = port
        self.socket = context.wrap_socket(raw, do_handshake_on_connect=False)
        self.is_closed = False
        """By the last answer, or because nothing was said for long."""
        self._asks = False
        self._received = b""

    def shakes_hands(self) -> bool:
        """Go on with the handshake; False when it is done."""
        try:
            self.socket.do_handshake()
        except ssl.SSLWantReadError:
            return True
        return False

    def send(self, path: str, body: bytes) -> None:
        """In two writes, as http.client does; both fit into the socket's buffer."""
        self.socket.send(
            b"POST %b HTTP/1.1\r\nHost: %b:%d\r\nAccept-Encoding: identity\r\nContent-Length: %d\r\n"
            b"Accept: application/json\r\nContent-Type: application/json\r\n\r\n"
            % (path.encode(), LOOPBACK.encode(), self.port, len(body))
        )
        self.socket.send(body)
        self._asks = True

    def answer(self) -> bytes | None:
        """The body of the answer; None where it is not there yet.

        Raises:
            BenchmarkError: It is a refusal, or the connection ended.
        """
        try:
            piece = self.socket.recv(65536)
        except ssl.SSLWantReadError:
            return None
        if not piece:
            if self._asks:
                raise BenchmarkError("the control server closed a connection")
            self.is_closed = True
            return None
        self._received += piece
        head, mark, body = self._received.partition(b"\r\n\r\n")
        if not mark or len(body) < _content_length(head):
            return None
        self._received, self._asks = b"", False
        if not head.startswith(b"HTTP/1.1 200"):
            raise BenchmarkError(f"the control server answers {head[:40]!r}: {body[:300]!r}")
        self.is_closed = b"\r\nconnection: close" in head.lower()
        return body


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            return int(line[15:])
    raise BenchmarkError(f"an answer without a length: {head[:200]!r}")


class Crowd:
    """Callers on one epoll."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._callers: dict[int, Caller] = {}

    def add(self, caller: Caller) -> None:
        number = caller.socket.fileno()
        self._callers[number] = caller
        self._poll.register(number, select.EPOLLIN)

    def remove(self, caller: Caller) -> None:
        number = caller.socket.fileno()
        self._poll.unregister(number)
        del self._callers[number]

    def ready(self, timeout_s: float) -> list[Caller]:
        """Who can be read."""
        return [self._callers[number] for number, _events in self._poll.poll(timeout_s)]


class Reports:
    """Nodes that are enrolled and report."""

    def __init__(self, callers: Path, port: int) -> None:
        self._crowd = Crowd()
        files = sorted(callers.glob("node-*.pem"))
        self._port = port
        self.own_cpu_s = 0.0
        self.handshakes = 0
        self._contexts = []
        self._idle: deque[int] = deque()
        self._connected: dict[int, Caller] = {}
        """By the nodes' numbers."""
        self._shaking: set[Caller] = set()
        self._waiting = 0
        now = time.time()
        self.sequences = [FIRST_SEQUENCE - 1] * len(files)
        self._bodies = []
        self.delays_s: list[float] = []
        for number, file in enumerate(files):
            before, after = encode(status_of(number, now)).split(str(FIRST_SEQUENCE).encode())
            self._bodies.append((before, after))
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.load_cert_chain(file)
            self._contexts.append(context)
            while self._waiting >= OPENED_AT_ONCE:
                self._take(1.0)
            self._begin(number)  # at once: a connection that says nothing is closed
        while self._waiting:
            self._take(1.0)
        self.body_bytes = len(self._bodies[0][0]) + len(self._bodies[0][1]) + 7

    @property
    def connections(self) -> int:
        """Open now."""
        return len(self._connected)

    def run(self, at_once: int, seconds: float, every_s: float | None) -> float:
        """Report for so long; the true length. Every report that was begun is answered at the end."""
        self.delays_s = []
        self.handshakes = 0
        own_s = time.process_time()
        began = now = time.perf_counter()
        per_s = None if every_s is None else len(self.sequences) / every_s
        sent = 0
        while now - began < seconds:
            due = len(self.sequences) if per_s is None else (now - began) * per_s - sent
            while self._idle and self._waiting < at_once and due > 0:
                self._begin(self._idle.popleft())
                sent, due = sent + 1, due - 1
            self._take(0.1 if per_s is None else 0.001)
            now = time.perf_counter()
        ended = now
        while self._waiting:
            self._take(1.0)
            if time.perf_counter() - ended > DEADLINE_S:
                raise BenchmarkError(f"{self._waiting} reports are not answered")
        self.own_cpu_s = time.process_time() - own_s
        return time.perf_counter() - began

    def _begin(self, number: int) -> None:
        self._waiting += 1
        caller = self._connected.get(number)
        if caller is not None:
            caller.asked_at = time.perf_counter()
            self._send(caller)
            return
        self.handshakes += 1
        caller = self._connected[number] = Caller(number, self._contexts[number], self._port)
        self._shaking.add(caller)
        caller.shakes_hands()
        self._crowd.add(caller)

    def _send(self, caller: Caller) -> None:
        before, after = self._bodies[caller.number]
        body = b"%b%d%b" % (before, self.sequences[caller.number] + 1, after)
        caller.send(STATUS, body)

    def _take(self, timeout_s: float) -> None:
        for caller in self._crowd.ready(timeout_s):
            self._go_on(caller)

    def _go_on(self, caller: Caller) -> None:
        if caller in self._shaking:
            if not caller.shakes_hands():
                self._shaking.remove(caller)
                self._send(caller)
            return
        if caller.answer() is not None:
            self.delays_s.append(time.perf_counter() - caller.asked_at)
            self.sequences[caller.number] += 1
            self._waiting -= 1
            self._idle.append(caller.number)
        if caller.is_closed:
            self._crowd.remove(caller)
            caller.socket.close()
            del self._connected[caller.number]


class Enrolments:
    """Nodes that were written to a card, and are switched on."""

    def __init__(self, callers: Path, port: int) -> None:
        self._port = port
        self._crowd = Crowd()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname, self._context.verify_mode = False, ssl.CERT_NONE
        self._tickets: dict[str, str] = json.loads((callers / "tickets.json").read_text("utf-8"))
        self._applications = [
            _application(number, ticket) for number, ticket in enumerate(self._tickets.values())
        ]
        self.delays_s: list[float] = []

    def run(self, at_once: int) -> float:
        """Enrol all; seconds from the first connection to the last certificate."""
        waiting = deque(self._applications)
        steps: dict[Caller, _Application] = {}
        began = time.perf_counter()
        while waiting or steps:
            while waiting and len(steps) < at_once:
                application = waiting.popleft()
                source = str(IPv4Address("127.32.0.1") + application.number)
                application.began_at = time.perf_counter()
                caller = Caller(application.number, self._context, self._port, source)
                caller.shakes_hands()
                self._crowd.add(caller)
                steps[caller] = application
            for caller in self._crowd.ready(1.0):
                if self._go_on(caller, steps[caller]):
                    self.delays_s.append(time.perf_counter() - steps.pop(caller).began_at)
                    self._crowd.remove(caller)
                    caller.socket.close()
            if time.perf_counter() - began > DEADLINE_S:
                raise BenchmarkError(f"{len(waiting) + len(steps)} nodes are not enrolled")
        return time.perf_counter() - began

    @staticmethod
    def _go_on(caller: Caller, application: _Application) -> bool:
        """One step; True after the last."""
        if not application.is_open:
            if caller.shakes_hands():
                return False
            application.is_open = True
            caller.send("/v1/hello", encode(application.hello))
            return False
        answer = caller.answer()
        if answer is None:
            return False
        if not application.has_proved:
            application.has_proved = True
            welcome = decode(Welcome, answer)
            value = ticket_proof(application.ticket, application.hello, welcome)
            proof = Proof(welcome.session, ProofKind.TICKET, value, application.csr_pem)
            caller.send("/v1/prove", encode(proof))
            return False
        verdict = decode(Verdict, answer)
        if verdict.outcome is not Outcome.ENROLLED or not verdict.certificate_pem:
            raise BenchmarkError(f"a node is not enrolled: {verdict.reason}")
        return True


@dataclass(slots=True, kw_only=True)
class _Application:
    """One node's key, and how far it is."""

    number: int
    ticket: str
    hello: Hello
    csr_pem: str
    is_open: bool = False
    has_proved: bool = False
    began_at: float = 0.0


def _application(number: int, ticket: str) -> _Application:
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node_name(number))])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return _Application(
        number=number,
        ticket=ticket,
        hello=Hello(
            protocol=PROTOCOL_VERSION,
            stage=Stage.AGENT,
            hardware=hardware_of(number),
            boot_id=BOOT_ID,
            key_sha256=hashlib.sha256(public).hexdigest(),
            client_nonce=os.urandom(32).hex(),
            image_id="bench",
        ),
        csr_pem=request.public_bytes(serialization.Encoding.PEM).decode(),
    )


def summary(seconds: float, delays_s: list[float], own_cpu_s: float, **more: int) -> str:
    """One line of JSON: how many answers in how long, how long each waited (ms), and more counts."""
    ordered = sorted(delays_s)
    return json.dumps(
        {
            "count": len(ordered),
            "seconds": seconds,
            "p50_ms": 1000 * ordered[len(ordered) // 2],
            "p99_ms": 1000 * ordered[len(ordered) * 99 // 100],
            "own_cpu_s": own_cpu_s,
            **more,
        }
    )


def report(callers: Path, port: int) -> None:
    """Carry out orders of `report`."""
    began = time.perf_counter()
    reports = Reports(callers, port)
    connected_s = time.perf_counter() - began
    print(json.dumps({"connected_s": connected_s, "body_bytes": reports.body_bytes}), flush=True)
    for line in sys.stdin:
        at_once, seconds, *every_s = line.split()
        took_s = reports.run(int(at_once), float(seconds), float(every_s[0]) if every_s else None)
        counts = {"handshakes": reports.handshakes, "connections": reports.connections}
        print(summary(took_s, reports.delays_s, reports.own_cpu_s, **counts), flush=True)
    print(json.dumps(reports.sequences), flush=True)


def enrol(callers: Path, port: int) -> None:
    """Carry out the order of `enrol`."""
    enrolments = Enrolments(callers, port)
    print(json.dumps({"nodes": len(enrolments.delays_s)}), flush=True)
    took_s = enrolments.run(int(sys.stdin.readline()))
    print(summary(took_s, enrolments.delays_s, time.process_time()), flush=True)


if __name__ == "__main__":
    {"report": report, "enrol": enrol}[sys.argv[3]](Path(sys.argv[1]), int(sys.argv[2]))
