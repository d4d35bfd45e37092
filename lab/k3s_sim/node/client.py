"""HTTPS as a joining node speaks it: find the CA, compare it with the token's pin, then talk verified.

Causes of failures are worded as Go's standard library words them: programs that watch an agent read them.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lab.k3s_sim.node import log, tokens
from lab.k3s_sim.node.errors import K3sError
from lab.k3s_sim.node.tokens import JoinToken, TokenError

TIMEOUT_S = 10.0
"""Of every call of a joining node, as in k3s."""


_TRUSTED_BY_HOST = (
    "Cluster CA certificate is trusted by the host CA bundle. Token CA hash will not be validated."
)
_NOT_PINNED = (
    "Cluster CA certificate is not trusted by the host CA bundle, but the token does not include a CA hash. "
    "Use the full token from the server's node-token file to enable Cluster CA validation."
)


class TransportError(Exception):
    """No answer came."""


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    reason: str
    body: bytes
    content_type: str

    @property
    def status_line(self) -> str:
        """Like `401 Unauthorized`."""
        return f"{self.status} {self.reason}"


@dataclass(frozen=True)
class KeyPair:
    """A client certificate with its key, as files."""

    certificate: Path
    key: Path

    def is_usable(self) -> bool:
        """Whether the two load as a pair."""
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError):
            return False
        return True


@dataclass(frozen=True)
class TrustedServer:
    """A server whose CA was checked. An empty `cacerts` means: the host's own trust store vouches for it."""

    url: str
    cacerts: bytes
    token: JoinToken = field(repr=False)

    def call(
        self,
        method: str,
        path: str,
        *,
        identity: KeyPair | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        """One verified call, with the token and, if given, a client certificate.

        Raises:
            TransportError: no answer came.
        """
        context = _pinned_context(self.cacerts) if self.cacerts else ssl.create_default_context()
        if identity is not None:
            context.load_cert_chain(identity.certificate, identity.key)
        given = dict(headers or {})
        authorization = self.token.authorization()
        if authorization:
            given["Authorization"] = authorization
        return _send(self.url, method, path, context, given, body)

    def require(self, path: str, *, identity: KeyPair | None = None) -> bytes:
        """The body of a GET that must succeed.

        Raises:
            K3sError: with URL and status, as k3s words it.
            TransportError: no answer came.
        """
        answer = self.call("GET", path, identity=identity)
        if answer.status != 200:
            raise K3sError(f"{self.url}{path}: {answer.status_line}")
        return answer.body


def validate(url: str, token: JoinToken) -> TrustedServer:
    """Fetch a server's CA and hold it against the token's pin, before any secret leaves this machine.

    A server that the host's trust store accepts is not compared with the pin; k3s only warns, as this does.

    Raises:
        K3sError, TransportError, TokenError: with the texts k3s logs.
    """
    if urllib.parse.urlsplit(url).scheme != "https":
        raise K3sError(f"only https:// URLs are supported, invalid scheme: {url}")
    cacerts = _fetch_cacerts(url)
    if not cacerts:
        if token.ca_hash:
            log.warning(_TRUSTED_BY_HOST)
    elif token.ca_hash:
        tokens.require_pin(token, cacerts)
    elif token is not tokens.NO_TOKEN:
        log.warning(_NOT_PINNED)
    return TrustedServer(url, cacerts, token)


def _fetch_cacerts(url: str) -> bytes:
    """The cluster's CA, or nothing if the host's trust store accepts the server."""
    try:
        if _send(url, "GET", "/cacerts", ssl.create_default_context(), {}, b"").status == 200:
            return b""
    except TransportError:
        pass  # expected: a cluster signs its own certificates
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    try:
        answer = _send(url, "GET", "/cacerts", unverified, {}, b"")
    except TransportError as error:
        raise TransportError(f"failed to get CA certs: {error}") from error
    if answer.status != 200:
        raise K3sError(f"failed to get CA certs: {url}/cacerts: {answer.status_line}")
    try:
        _send(url, "GET", "/cacerts", _pinned_context(answer.body), {}, b"")
    except (TransportError, ssl.SSLError, ValueError) as error:
        raise K3sError(f"CA cert validation failed: {error}") from error
    return answer.body


def _pinned_context(cacerts: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=cacerts.decode("ascii", "replace"))
    return context


def _send(
    url: str, method: str, path: str, context: ssl.SSLContext, headers: Mapping[str, str], body: bytes
) -> Answer:
    parts = urllib.parse.urlsplit(url)
    host, port = parts.hostname or "", parts.port or 443
    connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
    try:
        connection.request(method, path, body=body or None, headers=dict(headers))
        response = connection.getresponse()
        content_type = response.headers.get("Content-Type", "text/plain")
        return Answer(response.status, response.reason, response.read(), content_type)
    except (OSError, http.client.HTTPException) as error:
        raise TransportError(f'{method.capitalize()} "{url}{path}": {_cause(error, host, port)}') from error
    finally:
        connection.close()


def _cause(error: Exception, host: str, port: int) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"tls: failed to verify certificate: x509: {_certificate_cause(error, host)}"
    if isinstance(error, ssl.SSLError):
        return f"remote error: tls: {(error.reason or str(error)).lower()}"
    if isinstance(error, ConnectionRefusedError):
        return f"dial tcp {host}:{port}: connect: connection refused"
    if isinstance(error, socket.gaierror):
        return f"dial tcp: lookup {host}: no such host"
    if isinstance(error, TimeoutError):
        return "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
    if isinstance(error, ConnectionResetError):
        return "EOF"
    if isinstance(error, OSError) and error.strerror:
        return f"dial tcp {host}:{port}: connect: {error.strerror.lower()}"
    return str(error)


# X509_V_ERR_* of OpenSSL's x509_vfy.h.
_CERT_NOT_YET_VALID, _CERT_HAS_EXPIRED, _HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH = 9, 10, 62, 64


def _certificate_cause(error: ssl.SSLCertVerificationError, host: str) -> str:
    if error.verify_code in (_CERT_NOT_YET_VALID, _CERT_HAS_EXPIRED):
        when = (
            "is before its first day" if error.verify_code == _CERT_NOT_YET_VALID else "is after its last day"
        )
        return f"certificate has expired or is not yet valid: current time {when}"
    if error.verify_code in (_HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH):
        return f"certificate is not valid for {host}"
    return "certificate signed by unknown authority"


Refusal = (K3sError, TransportError, TokenError)
"""Everything that can go wrong on the way to a server."""
