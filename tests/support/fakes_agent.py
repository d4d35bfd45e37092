"""The control server as the agent's tests need it: real TLS, and answers in plain attributes."""

from __future__ import annotations

import hashlib
import http.server
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from agent_images import DELTA, ContentServer, FakeImage
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from quiet_server import QuietServer

from agent.errands import Errand, LogUpload, RunResult
from agent.orders import DESIRED, EEPROM, ERRAND, REBOOT, UPDATE, AgentOrder, SignedOrder, signed_bytes
from agent.protocol import (
    Desired,
    DiskSelector,
    EepromOrder,
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
    RebootOrder,
    Status,
    StatusAccepted,
    Verdict,
    Welcome,
    ticket_proof,
)
from agent.wire import decode, encode


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


def make_pair() -> tuple[bytes, bytes]:
    """A kubelet's certificate and key as k3s writes them, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = make_authority("k3s-client-ca").issue(key.public_key(), "system:node:pi-1", server=False)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


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
        self._server: QuietServer | None = None
        self._connections: list[socket.socket] = []
        self.changed = threading.Condition()
        # what it answers
        self.verdicts: list[Verdict] = []
        """Answers to `prove` before the default; consumed."""
        self.plan: InstallPlan | None = None
        self.desired = Desired(generation=1, join=False)
        self.material: JoinMaterial | None = None
        self.eeprom: EepromOrder | None = None
        self.update: AgentOrder | None = None
        self.reboot: RebootOrder | None = None
        self.archive: bytes | None = None
        self.errand: Errand | None = None
        self.answers: list[LogUpload | RunResult] = []
        self.signer: Authority | None = None
        """Signs orders in the authority's place."""
        self.signs_for = "pi-1"
        self.interval_s = 0.05
        self.clock_ahead_s = 0.0
        self.approve_everybody = False
        self._unknown_certificates: set[str] = set()
        self._seen_certificates: set[str] = set()
        self.refuse_progress: Refusal | None = None
        """Answer to every report but the question of FIND_DISK."""
        self.refuse: dict[str, Refusal] = {}
        """Answers of the routes below /v1/node/, by their path."""
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
        self.eeprom_requests = 0
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

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self._files)
        context.load_verify_locations(cadata=self.authority.pem)
        context.verify_mode = ssl.CERT_OPTIONAL
        self._server = QuietServer(("127.0.0.1", self.port), Handler)
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

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
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
            if request.path in self.refuse:
                raise self.refuse[request.path]
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
                return self._sign(DESIRED, self.desired)
            case "/v1/node/status":
                self.statuses.append(decode(Status, body))
                eeprom = self.eeprom.number if self.eeprom else 0
                update = self.update.number if self.update else 0
                errand = self.errand.number if self.errand else 0
                reboot = self.reboot.number if self.reboot else 0
                taken = max(status.sequence for status in self.statuses)
                numbers = (eeprom, update, errand, reboot, taken)
                return encode(StatusAccepted(self.desired.generation, self.interval_s, *numbers))
            case "/v1/node/eeprom" if self.eeprom is not None:
                self.eeprom_requests += 1
                return self._sign(EEPROM, self.eeprom)
            case "/v1/node/reboot" if self.reboot is not None:
                return self._sign(REBOOT, self.reboot)
            case "/v1/node/update" if self.update is not None:
                return self._sign(UPDATE, self.update)
            case "/v1/node/errand" if self.errand is not None:
                return self._sign(ERRAND, self.errand)
            case "/v1/node/logs":
                self.answers.append(decode(LogUpload, body))
                return b"{}"
            case "/v1/node/run":
                self.answers.append(decode(RunResult, body))
                return b"{}"
            case path if path.startswith("/v1/node/agent/") and self.archive is not None:
                return self.archive
            case "/v1/node/join-material" if self.material is not None:
                self.material_requests += 1
                return encode(self.material)
        raise Refusal(404, "not-found", f"no route {request.path}")

    def _sign(self, kind: str, message: Any) -> bytes:
        body = encode(message)
        key = (self.signer or self.authority).key
        signature = key.sign(signed_bytes(kind, self.signs_for, body), ec.ECDSA(hashes.SHA256()))
        return encode(SignedOrder(kind, body.decode(), signature.hex()))

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
