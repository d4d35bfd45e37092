"""Becoming a member: a key that never leaves the node, a request, a certificate.

Every stage may be the last one before a power cut, and the next start goes on from what is there:

    nothing            → make the key
    key                → ask with it (the server knows the request again by the key's hash)
    key, certificate   → enrolled; a ticket that is still in node.json is removed

Keys and requests are made by the `openssl` command: Python's standard library can not.
"""

from __future__ import annotations

import hashlib
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.client import ControlClient
from agent.commands import CommandError, Runner
from agent.device_key import ProveDevice, prove_nothing
from agent.errors import AgentError
from agent.files import sync_directory, write_atomically
from agent.protocol import (
    PROTOCOL_VERSION,
    Hardware,
    Hello,
    Outcome,
    Proof,
    ProofKind,
    Stage,
    Verdict,
    Welcome,
    ticket_proof,
)
from agent.trusted import TrustedAuthorities

RENEW_AFTER = 1 / 3
"""Part of a certificate's life after which it is renewed: two thirds are left for a server that is away."""


@dataclass(frozen=True, slots=True)
class Applicant:
    """Who asks: the values of the hello that do not change while the service runs."""

    node: str
    hardware: Hardware
    boot_id: str
    image_id: str | None


class Identity:
    """Owns agent.key and agent.crt in the state directory."""

    def __init__(self, directory: Path, run: Runner) -> None:
        self._run = run
        self.key = directory / "agent.key"
        self.certificate = directory / "agent.crt"

    def is_enrolled(self) -> bool:
        """True when there is a certificate and it belongs to the key.

        Raises:
            CommandError: openssl gave no verdict on the files.
        """
        if not (self.key.exists() and self.certificate.exists()):
            return False
        try:
            certified = self._run(
                ["openssl", "x509", "-in", str(self.certificate), "-noout", "-pubkey"]
            ).stdout
            return certified.strip() == self._public_key("PEM").strip()
        except CommandError as exc:
            if exc.returncode is None:
                raise
            return False  # a damaged file: enrol again

    def ensure_key(self) -> None:
        """Make a P-256 key unless there is a usable one.

        A key that openssl refuses is kept as agent.key.damaged. One that openssl could not judge (no memory,
        too slow, not installed) stays: without it the node's certificate is worth nothing.

        Raises:
            AgentError: openssl is missing or gave no verdict, or the disk refuses.
        """
        if self.key.exists():
            try:
                self._public_key("DER")
                return
            except CommandError as exc:
                if exc.returncode is None:
                    raise
                self._put_aside()
        self.key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self._run(
            [
                "openssl",
                "genpkey",
                "-algorithm",
                "EC",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-outform",
                "PEM",
            ]
        ).stdout
        write_atomically(self.key, fresh, 0o600)

    def _put_aside(self) -> None:
        damaged = self.key.with_name("agent.key.damaged")
        try:
            self.key.replace(damaged)
        except OSError as exc:
            raise AgentError(
                f"{self.key} is damaged and can not be renamed: {os.strerror(exc.errno or 0)}",
                "Did the kernel remount the disk read-only ('dmesg')?",
            ) from exc

    def key_sha256(self) -> str:
        """Hash of the public key, SubjectPublicKeyInfo in DER."""
        return hashlib.sha256(self._public_key("DER")).hexdigest()

    def request(self, node: str) -> str:
        """A PKCS#10 request, PEM. The server decides what stands in the certificate."""
        argv = ["openssl", "req", "-new", "-key", str(self.key), "-subj", f"/CN={node}", "-outform", "PEM"]
        return self._run(argv).text

    def store(self, certificate_pem: str) -> None:
        """Keep a certificate that belongs to our key.

        Raises:
            AgentError: it is for another key, or the disk refuses.
        """
        candidate = self.certificate.with_name("agent.crt.candidate")
        write_atomically(candidate, certificate_pem.encode(), 0o600)
        argv = ["openssl", "x509", "-in", str(candidate), "-noout", "-pubkey"]
        if self._run(argv).stdout.strip() != self._public_key("PEM").strip():
            candidate.unlink()
            raise AgentError(
                "the control server issued a certificate for another key",
                "This is a bug of the control server; please report it.",
            )
        candidate.replace(self.certificate)
        sync_directory(self.certificate.parent)

    def renewal_due_at(self) -> float:
        """When a third of the certificate's life is over; seconds since 1970."""
        argv = ["openssl", "x509", "-in", str(self.certificate), "-noout", "-startdate", "-enddate"]
        return parse_renewal_time(self._run(argv).text)

    def _public_key(self, form: str) -> bytes:
        argv = ["openssl", "pkey", "-in", str(self.key), "-pubout", "-outform", form]
        return self._run(argv).stdout


def parse_renewal_time(text: str) -> float:
    """From openssl's `notBefore=Nov 21 07:00:00 2026 GMT` and `notAfter=…`.

    Raises:
        AgentError: the text has not these two lines.
    """
    dates = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    try:
        start = ssl.cert_time_to_seconds(dates["notBefore"].strip())
        end = ssl.cert_time_to_seconds(dates["notAfter"].strip())
    except (KeyError, ValueError) as exc:
        raise AgentError(f"openssl gave no dates of the certificate: {text!r}") from exc
    return start + (end - start) * RENEW_AFTER


def ask(
    client: ControlClient,
    identity: Identity,
    applicant: Applicant,
    *,
    kind: ProofKind,
    ticket: str | None = None,
    on_server_time: Callable[[float], None] = lambda _: None,
    prove_device: ProveDevice = prove_nothing,
    authorities: TrustedAuthorities | None = None,
) -> Verdict:
    """One hello and one proof. An ENROLLED verdict's certificate is stored when this returns.

    Args:
        kind: TICKET needs `ticket`; PREVIOUS needs a client that presents the old certificate.
        on_server_time: told the server's clock before the proof is made.
        prove_device: has the board's firmware sign the conversation, whatever else is shown.
        authorities: takes over the CAs that come with a certificate.

    Raises:
        AgentError: unreachable, refused, or the answer can not be stored.
    """
    identity.ensure_key()
    hello = Hello(
        protocol=PROTOCOL_VERSION,
        stage=Stage.AGENT,
        hardware=applicant.hardware,
        boot_id=applicant.boot_id,
        key_sha256=identity.key_sha256(),
        client_nonce=os.urandom(32).hex(),
        image_id=applicant.image_id,
    )
    welcome = client.post("/v1/hello", hello, Welcome)
    on_server_time(welcome.server_time)
    proof = Proof(
        session=welcome.session,
        kind=kind,
        value=ticket_proof(ticket, hello, welcome) if kind is ProofKind.TICKET and ticket else "",
        csr_pem=identity.request(applicant.node),
        device=prove_device(hello, welcome),
    )
    verdict = client.post("/v1/prove", proof, Verdict)
    if verdict.outcome is Outcome.ENROLLED:
        if not verdict.certificate_pem:
            raise AgentError(
                "the control server enrolled this node without a certificate", "Update the server."
            )
        identity.store(verdict.certificate_pem)
        if authorities is not None:
            authorities.take(verdict.ca_pem)
        client.close()  # the next connection presents the new certificate
    return verdict


def read_boot_id(root: Path) -> str:
    """The kernel's id of this boot.

    Raises:
        AgentError: /proc is not mounted.
    """
    try:
        return (root / "proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError as exc:
        raise AgentError(
            f"the boot id can not be read: {os.strerror(exc.errno or 0)}", "Is /proc mounted?"
        ) from exc
