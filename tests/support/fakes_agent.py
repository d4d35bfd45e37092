"""Peers of the agent for its tests: a control server over TLS, a content server with faults, small images."""

from __future__ import annotations

import hashlib
import http.server
import ipaddress
import json
import random
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import zstandard
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.commands import Completed
from agent.commands import run as run_command
from agent.protocol import (
    Desired,
    DiskSelector,
    Hardware,
    Hello,
    ImageSource,
    InstallComplete,
    InstallPlan,
    InstallProgress,
    InstallStep,
    JoinMaterial,
    Outcome,
    Patch,
    Proof,
    ProofKind,
    Status,
    StatusAccepted,
    Verdict,
    Welcome,
    decode,
    encode,
    ticket_proof,
)

MIB = 1024 * 1024
SECTOR = 512
HARDWARE = Hardware(
    serial="10000000abcdef01",
    model="Raspberry Pi 5 Model B Rev 1.0",
    macs=("2c:cf:67:00:00:01",),
    memory_bytes=4 * 1024 * MIB,
    revision=0xD04171,
)


# ---------------------------------------------------------------------------------------------- images


@dataclass(frozen=True)
class FakeImage:
    """A raw image of a boot and a root partition, sealed the way the image factory does it."""

    raw: bytes
    compressed: bytes
    index: bytes
    chunks: tuple[tuple[int, int], ...]
    """(offset, length) of what is mapped."""
    boot_sector: int

    @property
    def source_fields(self) -> dict[str, Any]:
        return {
            "image_id": "cafe0123",
            "index_sha256": hashlib.sha256(self.index).hexdigest(),
            "size_bytes": len(self.raw),
        }


def make_table(boot_start: int, boot_sectors: int, root_start: int, root_sectors: int) -> bytes:
    """Sector 0 with two partitions."""
    sector = bytearray(SECTOR)
    struct.pack_into("<I", sector, 440, 0x11223344)
    struct.pack_into("<B3xB3xII", sector, 446, 0, 0x0C, boot_start, boot_sectors)
    struct.pack_into("<B3xB3xII", sector, 462, 0, 0x83, root_start, root_sectors)
    sector[510:512] = b"\x55\xaa"
    return bytes(sector)


def make_image(seed: int = 1, *, size_mib: int = 24, chunk_bytes: int = MIB) -> FakeImage:
    """Boot partition at 2 MiB, root at 8 MiB; mapped ranges with holes of zeros between them."""
    rng = random.Random(seed)
    size = size_mib * MIB
    raw = bytearray(size)
    raw[:SECTOR] = make_table(4096, 6 * 2048, 8 * 2048, (size - 8 * MIB) // SECTOR)
    raw[SECTOR:4096] = rng.randbytes(4096 - SECTOR)
    spans = [
        (0, MIB),
        (2 * MIB, 4 * MIB - 12288),
        (8 * MIB, 3 * MIB),
        (12 * MIB + 4096, 6 * MIB),
        (size - MIB, MIB),
    ]
    for offset, length in spans[1:]:
        raw[offset : offset + length] = rng.randbytes(length // 2) + bytes(length - length // 2)
    return seal(bytes(raw), spans, chunk_bytes, boot_sector=2 * MIB)


def seal(raw: bytes, spans: list[tuple[int, int]], chunk_bytes: int, *, boot_sector: int) -> FakeImage:
    """Frames per chunk, frames of zeros in between, index."""
    compressor = zstandard.ZstdCompressor(level=1)
    compressed = bytearray()
    entries = []
    chunks = []
    position = 0
    for offset, length in [*spans, (len(raw), 0)]:
        if offset > position:
            compressed += compressor.compress(raw[position:offset])
        for start in range(offset, offset + length, chunk_bytes):
            data = raw[start : min(start + chunk_bytes, offset + length)]
            frame = compressor.compress(data)
            entries.append(
                {
                    "offset": start,
                    "length": len(data),
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "position": len(compressed),
                    "compressed_bytes": len(frame),
                }
            )
            chunks.append((start, len(data)))
            compressed += frame
        position = offset + length
    index = json.dumps({"version": 1, "image_id": "cafe0123", "size_bytes": len(raw), "chunks": entries})
    return FakeImage(raw, bytes(compressed), index.encode(), tuple(chunks), boot_sector)


DELTA = (
    (440, b"\xaa\xbb\xcc\xdd"),
    (2 * MIB + 510, b"PATCH-OVER-BOOT-SECTOR-END"),
    (9 * MIB - 100, b"x" * 300),
    (11 * MIB + 50_000, b"in an unmapped place"),
    (600, b"in the gap behind the table"),
)


# ------------------------------------------------------------------------------------- content server


@dataclass
class Faults:
    """What goes wrong with the image, each a number of times; the counter is what the test asserts on."""

    truncate_after: int | None = None
    truncations: int = 0
    flip_at: int | None = None
    flips: int = 0
    fail_status: int = 503
    failures: int = 0
    ignore_range: bool = False
    requests: int = 0
    on_bytes: Callable[[int], None] = field(default=lambda _: None)


class ContentServer:
    """`/image.zst` with Range and `/index.json` over plain HTTP."""

    def __init__(self, image: FakeImage) -> None:
        self.image = image
        self.faults = Faults()
        self._lock = threading.Lock()
        self._server: http.server.ThreadingHTTPServer | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._answer(self)

            def log_message(self, format: str, *args: object) -> None:
                return

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: Any, client_address: Any) -> None:
                return  # clients of these tests drop connections on purpose

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        with self._lock:
            self.faults.requests += 1
            if self.faults.failures > 0:
                self.faults.failures -= 1
                request.send_error(self.faults.fail_status)
                return
        body = self.image.index if request.path == "/index.json" else self.image.compressed
        start, end = 0, len(body)
        ranged = request.headers.get("Range")
        if ranged and not self.faults.ignore_range:
            first, last = ranged.removeprefix("bytes=").split("-")
            start, end = int(first), int(last) + 1
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(body)}")
        else:
            request.send_response(200)
        request.send_header("Content-Length", str(end - start))
        request.end_headers()
        data = bytearray(body[start:end])
        cut = None
        if request.path == "/image.zst":
            with self._lock:
                flip = self.faults.flip_at
                if flip is not None and self.faults.flips > 0 and start <= flip < end:
                    self.faults.flips -= 1
                    data[flip - start] ^= 0x10
                truncate = self.faults.truncate_after
                if truncate is not None and self.faults.truncations > 0 and len(data) > truncate:
                    self.faults.truncations -= 1
                    cut = truncate
        for position in range(0, len(data) if cut is None else cut, 65536):
            request.wfile.write(data[position : min(position + 65536, cut or len(data))])
            self.faults.on_bytes(start + position)
        if cut is not None:
            request.close_connection = True


# --------------------------------------------------------------------------------------- certificates


@dataclass(frozen=True)
class Authority:
    """A control CA and what it issues."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def issue(
        self,
        public_key: Any,
        name: str,
        *,
        server: bool,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> x509.Certificate:
        usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before or now - timedelta(hours=1))
            .not_valid_after(not_after or now + timedelta(days=7))
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
        )
        if server:
            address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        return builder.sign(self.key, hashes.SHA256())


def make_authority(name: str = "control CA of attic") -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(key, certificate)


# -------------------------------------------------------------------------------------- control server

TICKET = "5a" * 32


class Refusal(Exception):
    def __init__(self, status: int, error: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.body = json.dumps({"error": error, "message": message, "hint": hint}).encode()


class ControlServer:
    """The control server's node routes, with what it answers in plain attributes."""

    def __init__(self, directory: Path, authority: Authority | None = None, **validity: datetime) -> None:
        self.authority = authority or make_authority()
        key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self.authority.issue(key.public_key(), "control", server=True, **validity)
        self._files = (directory / "control.crt", directory / "control.key")
        self._files[0].write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        self._files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        self.pin = hashlib.sha256(self.certificate.public_bytes(serialization.Encoding.DER)).hexdigest()
        self.port = 0
        self._server: http.server.ThreadingHTTPServer | None = None
        self._connections: list[socket.socket] = []
        self.changed = threading.Condition()
        # what it answers
        self.verdicts: list[Verdict] = []
        """Answers to `prove` before the default; consumed."""
        self.plan: InstallPlan | None = None
        self.desired = Desired(generation=1, join=False)
        self.material: JoinMaterial | None = None
        self.interval_s = 0.05
        self.clock_ahead_s = 0.0
        self.approve_everybody = False
        self._unknown_certificates: set[str] = set()
        self._seen_certificates: set[str] = set()
        self.refuse_progress: Refusal | None = None
        """Answer to every report but the question of FIND_DISK."""
        self.refuse_disk: list[Refusal] = []
        """Answers to the question of FIND_DISK before the default; consumed."""
        # what it saw
        self.requests: list[str] = []
        self.hellos: list[Hello] = []
        self.proofs: list[Proof] = []
        self.progress: list[InstallProgress] = []
        self.completed: list[InstallComplete] = []
        self.statuses: list[Status] = []
        self.material_requests = 0
        self.clients: list[str] = []
        self.tickets = {TICKET}
        self._welcomes: dict[str, tuple[Hello, Welcome]] = {}

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def start(self) -> None:
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                outer._connections.append(self.request)

            def do_GET(self) -> None:
                outer._answer(self, b"")

            def do_POST(self) -> None:
                outer._answer(self, self.rfile.read(int(self.headers.get("Content-Length", "0"))))

            def date_time_string(self, timestamp: float | None = None) -> str:
                return super().date_time_string(time.time() + outer.clock_ahead_s)

            def log_message(self, format: str, *args: object) -> None:
                return

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: Any, client_address: Any) -> None:
                return

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self._files)
        context.load_verify_locations(cadata=self.authority.pem)
        context.verify_mode = ssl.CERT_OPTIONAL
        self._server = Server(("127.0.0.1", self.port), Handler)
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._connections.clear()

    def forget_certificates(self) -> None:
        """As after a database that was restored from an old copy."""
        with self.changed:
            self._unknown_certificates = set(self._seen_certificates)

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Block until a request made `condition` true."""
        with self.changed:
            if not self.changed.wait_for(condition, timeout_s):
                raise TimeoutError(f"not seen within {timeout_s} s; requests: {self.requests[-20:]}")

    def _answer(self, request: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        with self.changed:
            self.requests.append(f"{request.command} {request.path}")
            try:
                status, answer = 200, self._route(request, body)
            except Refusal as exc:
                status, answer = exc.status, exc.body
            self.changed.notify_all()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(answer)))
        request.end_headers()
        request.wfile.write(answer)

    def _route(self, request: http.server.BaseHTTPRequestHandler, body: bytes) -> bytes:
        bearer = request.headers.get("Authorization", "")
        certificate: Any = request.connection.getpeercert()
        if request.path.startswith("/v1/install/") and bearer != "Bearer install-token":
            raise Refusal(401, "not-admitted", "no session")
        if request.path.startswith("/v1/node/"):
            if not certificate:
                raise Refusal(401, "no-certificate", "a client certificate is needed")
            self._seen_certificates.add(certificate["serialNumber"])
            if certificate["serialNumber"] in self._unknown_certificates:
                raise Refusal(401, "certificate", "this needs the certificate of an enrolled node")
            self.clients.append(certificate["subject"][0][0][1])
        match request.path:
            case "/v1/hello":
                hello = decode(Hello, body)
                self.hellos.append(hello)
                welcome = Welcome(
                    session=f"s{len(self.hellos)}",
                    server_nonce="00" * 32,
                    server_time=datetime.now(UTC).timestamp(),
                )
                self._welcomes[welcome.session] = (hello, welcome)
                return encode(welcome)
            case "/v1/prove":
                proof = decode(Proof, body)
                self.proofs.append(proof)
                return encode(self.verdicts.pop(0) if self.verdicts else self._judge(proof))
            case "/v1/install/plan" if self.plan is not None:
                return encode(self.plan)
            case "/v1/install/progress":
                progress = decode(InstallProgress, body)
                asks = progress.step is InstallStep.FIND_DISK and not progress.failed
                if asks and self.refuse_disk:
                    raise self.refuse_disk.pop(0)
                if not asks and self.refuse_progress is not None:
                    raise self.refuse_progress
                self.progress.append(progress)
                return b"{}"
            case "/v1/install/complete":
                self.completed.append(decode(InstallComplete, body))
                return b"{}"
            case "/v1/node/desired":
                return encode(self.desired)
            case "/v1/node/status":
                self.statuses.append(decode(Status, body))
                return encode(StatusAccepted(generation=self.desired.generation, interval_s=self.interval_s))
            case "/v1/node/join-material" if self.material is not None:
                self.material_requests += 1
                return encode(self.material)
        raise Refusal(404, "not-found", f"no route {request.path}")

    def _judge(self, proof: Proof) -> Verdict:
        hello, welcome = self._welcomes[proof.session]
        if proof.csr_pem and self.approve_everybody:
            return self._enrol(proof)
        if proof.kind is ProofKind.NONE:
            if hashlib.sha256(bytes.fromhex(proof.installer_key)).hexdigest() != hello.key_sha256:
                return Verdict(outcome=Outcome.REJECTED, reason="the key is not the one of the hello")
            return Verdict(outcome=Outcome.ADMITTED, reason="declared", node="pi-1", token="install-token")
        for ticket in self.tickets:
            if proof.value == ticket_proof(ticket, hello, welcome):
                return self._enrol(proof)
        return Verdict(outcome=Outcome.REJECTED, reason="the ticket was used before")

    def _enrol(self, proof: Proof) -> Verdict:
        request = x509.load_pem_x509_csr(proof.csr_pem.encode())
        issued = self.authority.issue(request.public_key(), "pi-1", server=False)
        return Verdict(
            outcome=Outcome.ENROLLED,
            reason="ticket",
            node="pi-1",
            certificate_pem=issued.public_bytes(serialization.Encoding.PEM).decode(),
            ca_pem=self.authority.pem,
        )


def make_plan(image: FakeImage, content_url: str, *, intent: int = 1) -> InstallPlan:
    return InstallPlan(
        intent=intent,
        node="pi-1",
        cluster="attic",
        disk=DiskSelector(kind="nvme", serial="F1"),
        image=ImageSource(
            image_url=f"{content_url}/image.zst", index_url=f"{content_url}/index.json", **image.source_fields
        ),
        delta=tuple(Patch(offset, data.hex()) for offset, data in DELTA),
        installation="1a" * 16,
    )


@contextmanager
def running(*servers: ControlServer | ContentServer) -> Iterator[None]:
    for server in servers:
        server.start()
    try:
        yield
    finally:
        for server in servers:
            server.stop()


# ------------------------------------------------------------------------------------------ node roots


def write_tree(root: Path, files: dict[str, str | bytes]) -> Path:
    """Recorded files of a board below `root`."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def make_node_root(root: Path, **node: Any) -> Path:
    """A booted node's /proc, /sys and /etc/bramble, as far as the agent reads them."""
    document = {"version": 1, "cluster": "attic", "node": "pi-1", "role": "agent", "serial": None, **node}
    return write_tree(
        root,
        {
            "proc/device-tree/serial-number": b"10000000abcdef01\0",
            "proc/device-tree/model": b"Raspberry Pi 5 Model B Rev 1.0\0",
            "proc/meminfo": "MemTotal:        4045140 kB\nMemAvailable:    3500000 kB\n",
            "proc/uptime": "35.21 120.00\n",
            "proc/loadavg": "0.52 0.10 0.01 1/123 456\n",
            "proc/pressure/cpu": "some avg10=1.50 avg60=0.00 avg300=0.00 total=0\n",
            "proc/sys/kernel/random/boot_id": "7e0a1c5e-0000-4000-8000-000000000001\n",
            "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n",
            "run/systemd/timesync/synchronized": "",
            "etc/bramble/node.json": json.dumps(document) + "\n" * 64,
            "etc/bramble/image.json": json.dumps({"image_id": "cafe0123"}),
            "usr/local/bin/k3s": "binary",
        },
    )


class FakeSystem:
    """systemctl, journalctl and k3s of a node; openssl is the real one. Pass it as the agent's runner."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.called = threading.Condition()
        self.active = "inactive"
        self.sub = "dead"
        self.journal = ""

    def __call__(
        self,
        argv: Sequence[str],
        *,
        input_bytes: bytes = b"",
        timeout_s: float = 30.0,
        check: bool = True,
    ) -> Completed:
        if argv[0] == "openssl":
            return run_command(argv, input_bytes=input_bytes, timeout_s=timeout_s, check=check)
        with self.called:
            self.calls.append(tuple(argv))
            self.called.notify_all()
        match list(argv):
            case ["systemctl", "show", *_]:
                answer = f"LoadState=loaded\nActiveState={self.active}\nSubState={self.sub}\nNRestarts=0\n"
            case ["systemctl", "start" | "restart", *_]:
                if self.active != "active":
                    self.active, self.sub = "activating", "start"
                answer = ""
            case ["journalctl", *_]:
                answer = self.journal
            case [binary, "--version"] if binary.endswith("/k3s"):
                answer = "k3s version v1.33.5+k3s1 (simulator)\ngo version go1.24\n"
            case _:
                answer = ""
        return Completed(tuple(argv), 0, answer.encode(), "")

    def units(self) -> list[tuple[str, ...]]:
        """The systemctl calls that change something."""
        return [call for call in self.calls if call[0] == "systemctl" and call[1] != "show"]
