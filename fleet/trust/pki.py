"""The control server's own PKI: one CA, its server and node certificates, and the key behind tickets.

Owns these files of the state directory, all 0600: `control-ca.crt`, `control-ca.key`, `control.crt`,
`control.key`, `ticket.key`, `certificate-life`; while the CA is being replaced (see
`fleet.trust.pki_rotation`) also `control-ca.next.crt`, `control-ca.next.key` and `control-ca.previous.crt`.
Installed nodes trust what they were handed out. Nodes are known by the serial number of their
certificate, which the store keeps; forgetting the number revokes the certificate.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.orders import SignedOrder, signed_bytes
from agent.wire import encode
from fleet.errors import FleetError
from fleet.files import sync_directory, write_private
from fleet.secret import Secret
from fleet.trust.certificates import (
    Authority,
    certificate_pem,
    key_pem,
    load_authority,
    make_authority,
    new_key,
    sign_leaf,
    subject,
    utc,
)

CA_LIFETIME: Final = timedelta(days=3650)
SERVER_LIFETIME: Final = timedelta(days=365)
SERVER_RENEW_BEFORE: Final = timedelta(days=30)
NODE_LIFETIME: Final = timedelta(days=7)
"""The agent renews at a third of it, so a node survives four days without the control server."""
CA_CERTIFICATE: Final = "control-ca.crt"
CA_KEY: Final = "control-ca.key"
NEXT_CERTIFICATE: Final = "control-ca.next.crt"
NEXT_KEY: Final = "control-ca.next.key"
PREVIOUS_CERTIFICATE: Final = "control-ca.previous.crt"
SERVER_CERTIFICATE: Final = "control.crt"
LONGEST_LIFE: Final = "certificate-life"
"""Seconds: the longest life that any policy gave nodes' certificates."""
VERIFY_NO_CHECK_TIME: Final = ssl.VerifyFlags(0x200000)
"""X509_V_FLAG_NO_CHECK_TIME, which `ssl` has no name for. Source: OpenSSL, <openssl/x509_vfy.h>."""
MAX_CSR_BYTES: Final = 8 * 1024


class PkiError(FleetError):
    """Key material of the state directory that cannot be used."""

    def __init__(self, message: str, hint: str, path: Path) -> None:
        super().__init__(message, hint)
        self.path = path


class CsrError(FleetError, ValueError):
    """A certificate request that is not one for an EC P-256 key, or not signed by that key."""


@dataclass(frozen=True, slots=True)
class NodeCertificate:
    """A certificate made for a node; `serial` is the hex number under which the store knows it."""

    pem: str
    serial: str


class ControlPki:
    """The PKI of one cluster's control server."""

    def __init__(self, directory: Path, authority: Authority, ticket_key: bytes) -> None:
        self._directory = directory
        self._authority = authority
        self._ticket_key = ticket_key

    @property
    def ca_pem(self) -> str:
        """What nodes are to trust: the CA, and the one that will follow it while that is announced.

        From the exchange of the CA until this process starts again, that is what is on the disk: this process
        signs with the old one still, and whom it told of that one alone would not know the next start.
        """
        own, on_disk = certificate_pem(self._authority.certificate).decode(), self._read(CA_CERTIFICATE)
        return own + ("" if on_disk == own else on_disk) + self._read(NEXT_CERTIFICATE)

    @property
    def accepted_pem(self) -> str:
        """Issuers of certificates that nodes may present: also the CA before the present one, until each node
        has a newer certificate."""
        return self.ca_pem + self._read(PREVIOUS_CERTIFICATE)

    def _read(self, name: str) -> str:
        path = self._directory / name
        return path.read_text("ascii") if path.exists() else ""

    @property
    def server_certificate_path(self) -> Path:
        return self._directory / SERVER_CERTIFICATE

    @property
    def server_key_path(self) -> Path:
        return self._directory / "control.key"

    def server_pin(self) -> str:
        """SHA-256 over the server certificate's DER, hex: an installer compares it before it speaks."""
        certificate = x509.load_pem_x509_certificate(self.server_certificate_path.read_bytes())
        return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()

    def ensure_server_certificate(
        self, addresses: Sequence[IPv4Address], names: Sequence[str], now: float
    ) -> None:
        """Make the server's certificate anew when it is missing, ends soon, or is for other names."""
        if self._server_certificate_serves(addresses, names, now):
            return
        key = new_key()
        wanted = [*(x509.IPAddress(item) for item in addresses), *(x509.DNSName(name) for name in names)]
        certificate = sign_leaf(
            self._authority,
            key.public_key(),
            subject("bramble control server"),
            now=utc(now),
            lifetime=SERVER_LIFETIME,
            names=wanted,
            is_server=True,
        )
        # A crash between the two leaves a pair that does not match, and the check above finds it.
        write_private(self.server_key_path, key_pem(key))
        write_private(self.server_certificate_path, certificate_pem(certificate))

    def _server_certificate_serves(
        self, addresses: Sequence[IPv4Address], names: Sequence[str], now: float
    ) -> bool:
        try:
            certificate = x509.load_pem_x509_certificate(self.server_certificate_path.read_bytes())
            key = serialization.load_pem_private_key(self.server_key_path.read_bytes(), None)
            certificate.verify_directly_issued_by(self._authority.certificate)
            present = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (FileNotFoundError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return False
        return (
            key.public_key() == certificate.public_key()
            and set(present.get_values_for_type(x509.IPAddress)) == set(addresses)
            and set(present.get_values_for_type(x509.DNSName)) == set(names)
            and certificate.not_valid_after_utc - SERVER_RENEW_BEFORE > utc(now)
        )

    def server_context(self) -> ssl.SSLContext:
        """TLS for the control API: shows the server's certificate, accepts but does not demand a node's."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.server_certificate_path, self.server_key_path)
        context.load_verify_locations(cadata=self.accepted_pem)
        context.verify_mode = ssl.CERT_OPTIONAL
        # The store is the revocation list: a certificate counts for as long as its serial number is a node's.
        # Its end date only paces renewals. If it were enforced here, a node that was off for a week could not
        # even connect to renew. /v1/node/* serves an expired one too: a 401 would make the agent enrol anew,
        # which takes a ticket or a person, whereas a served agent renews by itself on its next round.
        context.verify_flags |= VERIFY_NO_CHECK_TIME
        return context

    def issue_node_certificate(
        self,
        csr_pem: str,
        *,
        uuid: str,
        node: str,
        now: float,
        board: str | None = None,
        lifetime: timedelta = NODE_LIFETIME,
    ) -> NodeCertificate:
        """Sign an agent's request, of which only the key is taken.

        CN is the node's uuid, which no other node ever has; SAN are URIs with its name and its board.

        Raises:
            CsrError: Not a usable request.
        """
        key = csr_public_key(csr_pem)
        certificate = sign_leaf(
            self._authority,
            key,
            subject(uuid),
            now=utc(now),
            lifetime=lifetime,
            names=[
                x509.UniformResourceIdentifier(f"bramble:node/{node}"),
                *([x509.UniformResourceIdentifier(f"bramble:board/{board}")] if board else []),
            ],
        )
        return NodeCertificate(certificate_pem(certificate).decode(), f"{certificate.serial_number:x}")

    def note_life(self, seconds: int) -> None:
        """A policy is in force that lets certificates live for so long: they may outlive it."""
        if seconds > longest_life_s(self._directory):
            write_private(self._directory / LONGEST_LIFE, f"{seconds}\n".encode())

    def sign_order(self, kind: str, node: str, message: Any) -> SignedOrder:
        """An order for one node, signed with the CA's key; `agent.orders` has the form."""
        body = encode(message)
        signature = self._authority.key.sign(signed_bytes(kind, node, body), ec.ECDSA(hashes.SHA256()))
        return SignedOrder(kind, body.decode(), signature.hex())

    def ticket(self, node: str, intent: int, attempt: int) -> Secret:
        """The single-use secret of one attempt to install one node, 64 hex digits.

        It is derived, not stored: the store keeps its hash only, and verifying a proof needs the ticket
        itself. Asking again for the plan of one attempt gives the same ticket.
        """
        message = f"bramble ticket v1\0{node}\0{intent}\0{attempt}".encode()
        return Secret(hmac.new(self._ticket_key, message, hashlib.sha256).hexdigest())


def longest_life_s(directory: Path) -> float:
    """Of the certificates that nodes of this state directory may hold."""
    try:
        noted = int((directory / LONGEST_LIFE).read_text("ascii"))
    except (FileNotFoundError, ValueError):
        noted = 0
    return max(noted, NODE_LIFETIME.total_seconds())


def csr_public_key(csr_pem: str) -> ec.EllipticCurvePublicKey:
    """The key of a certificate request, whose signature proves that the caller has the private half.

    Raises:
        CsrError: Not a usable request.
    """
    if len(csr_pem) > MAX_CSR_BYTES:
        raise CsrError(f"the certificate request has {len(csr_pem)} bytes, the limit is {MAX_CSR_BYTES}")
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        key = request.public_key()
        valid = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CsrError("the certificate request is not PKCS#10 in PEM") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CsrError("the certificate request is not for an EC P-256 key")
    if not valid:
        raise CsrError("the certificate request is not signed by its own key")
    return key


def csr_common_name(csr_pem: str) -> str | None:
    """What a certificate request that `csr_public_key` took says of its maker: a claim, no more."""
    try:
        names = x509.load_pem_x509_csr(csr_pem.encode()).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:
        return None
    return str(names[0].value) if names else None


def key_sha256(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 over the key's SubjectPublicKeyInfo in DER, hex: the agent's `key_sha256` of the protocol."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def finish_switch(directory: Path) -> None:
    """Go on where an exchange of the CA was cut short: its key was exchanged, its certificate was not."""
    following, key = directory / NEXT_CERTIFICATE, directory / NEXT_KEY
    if following.exists() and not key.exists():
        following.replace(directory / CA_CERTIFICATE)
        sync_directory(directory)


def open_pki(directory: Path, cluster: str, now: float) -> ControlPki:
    """Read the PKI of the state directory, or make it there when there is none at all.

    Raises:
        PkiError: A part is missing or damaged. Nothing is replaced: installed nodes trust the old CA.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    finish_switch(directory)
    certificate_path, key_path = directory / CA_CERTIFICATE, directory / CA_KEY
    ticket_path = directory / "ticket.key"
    if not ticket_path.exists():
        write_private(ticket_path, secrets.token_bytes(32))
    # The certificate is written last: without it, whatever else is there belongs to a first start that was
    # cut short.
    if not certificate_path.exists():
        made = make_authority(f"bramble control CA of {cluster}", utc(now), CA_LIFETIME)
        write_private(key_path, key_pem(made.key))
        write_private(certificate_path, certificate_pem(made.certificate))
    try:
        authority = load_authority(certificate_path.read_bytes(), key_path.read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise PkiError(
            f"{certificate_path} and {key_path.name} cannot be used: {error}",
            "Restore both from a backup: installed nodes trust this CA and no other.",
            certificate_path,
        ) from error
    return ControlPki(directory, authority, ticket_path.read_bytes())
