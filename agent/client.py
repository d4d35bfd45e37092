"""HTTPS with JSON bodies to the control server, in two manners of trust.

`PinnedTrust`: the installer knows the SHA-256 of the server's certificate from its kernel command line. The
certificate is compared right after the handshake, before the first byte of a request leaves.
`AuthorityTrust`: the agent knows the control CA from node.json, and presents its own certificate once it
has one.

One attempt per call; who calls decides when to try again (`agent.backoff`).
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from agent.errors import AgentError
from agent.protocol import CONTROL_PORT
from agent.wire import MAX_BODY_BYTES, ProtocolError, decode, encode

CONNECT_TIMEOUT_S = 10.0
REQUEST_TIMEOUT_S = 15.0
"""Without a byte."""
ANSWER_TIMEOUT_S = 25.0
"""For a whole answer, however many bytes come in between: two servers that never end take less than the two
minutes of the service's watchdog, and the second one is asked."""
SLOWEST_BYTES_PER_S = 64 * 1024
"""A download has more time by this rate."""
X509_V_FLAG_NO_CHECK_TIME = 0x200000
"""Do not compare a certificate's dates with the clock. Source: openssl/x509_vfy.h; Python has no name for
it."""

Message = TypeVar("Message")


class Unreachable(AgentError):
    """No answer: no route, refused, timed out, or the TLS handshake failed for another reason than trust."""


class Untrusted(AgentError):
    """The server's certificate was not issued by the control CA of this cluster."""


class PinMismatch(Untrusted):
    """The server's certificate is not the one that the boot files named. Nothing was sent."""


class Refused(AgentError):
    """The server answered, and the answer is no."""

    def __init__(self, status: int, error: str, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.status = status
        self.error = error


class Trust(Protocol):
    """How a connection is secured, and what is checked before it is used."""

    def context(self) -> ssl.SSLContext: ...

    def check(self, connection: ssl.SSLSocket) -> None: ...


@dataclass(frozen=True, slots=True)
class PinnedTrust:
    certificate_sha256: str
    """Hex digest of the server certificate's DER form."""

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # the pin is the check: it names one certificate, not an issuer
        return context

    def check(self, connection: ssl.SSLSocket) -> None:
        certificate = connection.getpeercert(binary_form=True) or b""
        found = hashlib.sha256(certificate).hexdigest()
        if not hmac.compare_digest(found, self.certificate_sha256.lower()):
            raise PinMismatch(
                f"the control server shows certificate {found[:16]}…, the boot files name "
                f"{self.certificate_sha256[:16]}…; nothing was sent to it",
                "Either the server's certificate changed after this board got its boot files (power-cycle "
                "the board), or another machine answers at its address.",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityTrust:
    ca_pem: str
    certificate: Path | None = None
    key: Path | None = None
    check_time: bool = True
    """False only while the node's clock is unknown: a board without an RTC may stand at 1970."""

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_verify_locations(cadata=self.ca_pem)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ValueError, TypeError) as exc:  # ValueError, TypeError: a CA that is no ASCII
            raise AgentError(
                f"the CA of node.json or the node's own certificate can not be loaded: {exc}",
                "The files under /etc/bramble or /var/lib/bramble are damaged; re-image the node.",
            ) from exc
        if not self.check_time:
            context.verify_flags |= X509_V_FLAG_NO_CHECK_TIME
        return context

    def check(self, connection: ssl.SSLSocket) -> None:
        """Nothing beyond the handshake: it verified the chain and that the address is one of the
        certificate's."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    host: str
    port: int

    def __str__(self) -> str:
        return f"https://{self.host}:{self.port}"


def parse_endpoint(url: str) -> Endpoint:
    """`https://10.0.0.1:7443`; the port defaults to the control port.

    Raises:
        AgentError: not an https URL with a host.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise AgentError(f"'{url}' is not a URL: {exc}", "Expected https://ADDRESS:7443.") from exc
    if parts.scheme != "https" or not host:
        raise AgentError(f"'{url}' is not an https URL with a host", "Expected https://ADDRESS:7443.")
    return Endpoint(host, port or CONTROL_PORT)


class _TimedSocket(ssl.SSLSocket):
    """Reads end at a deadline (`time.monotonic`), not only where nothing comes."""

    deadline = float("inf")

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        left_s = self.deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the answer does not end")
        self.settimeout(min(left_s, REQUEST_TIMEOUT_S))
        return super().recv_into(buffer, nbytes, flags)


class _Connection(http.client.HTTPSConnection):
    """An HTTPS connection that is checked between the handshake and the first request byte."""

    def __init__(self, endpoint: Endpoint, trust: Trust, context: ssl.SSLContext) -> None:
        super().__init__(endpoint.host, endpoint.port, timeout=CONNECT_TIMEOUT_S, context=context)
        self._trust = trust
        self._tls = context
        self._tls.sslsocket_class = _TimedSocket
        self._pieces: list[bytes] | None = None

    def request(self, *arguments: Any, **words: Any) -> None:
        """As the base class, in one write: headers and body in two cost the server a TLS record and a round
        of its loop more for each of thousands of reports."""
        self._pieces = []
        try:
            super().request(*arguments, **words)
            whole = b"".join(self._pieces)
        finally:
            self._pieces = None
        self.send(whole)

    def send(self, data: Any) -> None:
        """Keep a piece of a request, or send it."""
        if self._pieces is None:
            super().send(data)
        else:
            self._pieces.append(bytes(data))

    def limit_time(self, seconds: float) -> None:
        """So long the next answer may take as a whole."""
        if isinstance(self.sock, _TimedSocket):
            self.sock.deadline = time.monotonic() + seconds
            self.sock.settimeout(REQUEST_TIMEOUT_S)  # for sending: the last answer may have left little

    def connect(self) -> None:
        # As the base class, but for the type of the name: of a text Python makes an international domain
        # name, for which it loads tables of Unicode that stay (0.2 MB).
        host: str | bytes = self.host.encode() if self.host.isascii() else self.host
        plain = socket.create_connection((host, self.port), self.timeout)  # type: ignore[arg-type]
        try:
            self.sock = sock = self._tls.wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise
        try:
            sock.settimeout(REQUEST_TIMEOUT_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._trust.check(sock)
        except BaseException:
            self.close()
            raise


class ControlClient:
    """Calls on the first endpoint that answers; the connection is kept open between calls where the server
    keeps it.

    Calls of several threads follow one another: at the end of an install the reporter's last report may
    still be under way when the installer says that it is complete.
    """

    def __init__(self, urls: tuple[str, ...], trust: Trust) -> None:
        if not urls:
            raise AgentError("no control server is named", "node.json needs an entry in control_urls.")
        self._endpoints = [parse_endpoint(url) for url in urls]
        self._trust = trust
        self._connection: _Connection | None = None
        self._in_use = threading.RLock()
        """Held for a whole call, and by what changes the connection; `_call` itself closes it."""
        self.token: str | None = None
        """Bearer token of an admitted installer; sent with every call once set."""
        self.clock_behind_s: float | None = None
        """How far this node's clock was behind the server's at the last answer (negative: ahead)."""

    def trust(self, trust: Trust) -> None:
        """Use another manner of trust from the next call on."""
        with self._in_use:
            if trust != self._trust:
                self.close()
                self._trust = trust

    def close(self) -> None:
        with self._in_use:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def get(self, path: str, kind: type[Message]) -> Message:
        return self._decode(kind, self._call("GET", path, None))

    def post(self, path: str, message: Any, kind: type[Message]) -> Message:
        """Send `message` (a protocol dataclass, or None for an empty body); the answer is a `kind`."""
        return self._decode(kind, self._call("POST", path, b"{}" if message is None else encode(message)))

    def send(self, path: str, message: Any) -> None:
        """POST where the answer holds nothing."""
        self._call("POST", path, encode(message))

    def download(self, path: str, limit: int) -> bytes:
        """A file of at most `limit` bytes; longer ones are cut off there, which their digest tells."""
        return self._call("GET", path, None, limit)

    def _decode(self, kind: type[Message], body: bytes) -> Message:
        try:
            return decode(kind, body, newer_peer=True)
        except ProtocolError as exc:
            raise AgentError(
                f"the control server's answer is not understood: {exc}",
                "Server and node speak different versions; rebuild the image with the server's release.",
            ) from exc

    def _call(self, method: str, path: str, body: bytes | None, limit: int = MAX_BODY_BYTES) -> bytes:
        with self._in_use:
            return self._call_alone(method, path, body, limit)

    def _call_alone(self, method: str, path: str, body: bytes | None, limit: int) -> bytes:
        kept = self._connection
        if kept is not None:
            try:
                return self._exchange(kept, method, path, body, limit)
            except Unreachable:
                # The server may have closed an idle connection; every message of the protocol may be
                # repeated.
                self.close()
        failures: list[Unreachable | Untrusted] = []
        for endpoint in list(self._endpoints):
            try:
                self._connection = self._connect(endpoint)
                answer = self._exchange(self._connection, method, path, body, limit)
            except (Unreachable, Untrusted) as exc:
                # Another machine may have got the address of one that is gone: it was told nothing.
                self.close()
                failures.append(exc)
                continue
            self._endpoints.remove(endpoint)
            self._endpoints.insert(0, endpoint)
            return answer
        # That one is not trusted weighs more: waiting does not mend it.
        raise next((exc for exc in failures if isinstance(exc, Untrusted)), failures[0])

    def _connect(self, endpoint: Endpoint) -> _Connection:
        connection = _Connection(endpoint, self._trust, self._trust.context())
        try:
            connection.connect()
        except ssl.SSLCertVerificationError as exc:
            raise Untrusted(
                f"{endpoint}: the server's certificate is not trusted: {exc.verify_message or exc}",
                "Another cluster's server answers there, its address changed, or this node's clock is wrong.",
            ) from exc
        except (OSError, http.client.HTTPException) as exc:
            raise Unreachable(
                f"{endpoint} can not be reached: {exc}",
                "Is 'bramble serve' running, and is the port open in its firewall?",
            ) from exc
        return connection

    def _exchange(
        self, connection: _Connection, method: str, path: str, body: bytes | None, limit: int
    ) -> bytes:
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            connection.limit_time(ANSWER_TIMEOUT_S + limit / SLOWEST_BYTES_PER_S)
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            answer = response.read(limit + 1)
        except (OSError, http.client.HTTPException, ValueError, OverflowError) as exc:
            # The last two: chunks of a negative length, or of one beyond all numbers; a path that is none.
            raise Unreachable(
                f"https://{connection.host}:{connection.port}{path}: no answer: {exc or type(exc).__name__}",
                "Is 'bramble serve' running? The call is tried again.",
            ) from exc
        self._note_clock(response.getheader("Date"))
        if len(answer) > limit or response.will_close:
            self.close()  # the rest of the body is still in it, or the server keeps no connection for us
        if response.status >= 500:
            raise Unreachable(
                f"{path}: the control server failed with status {response.status}: {_explain(answer)[1]}",
                "Look at the server's log. The call is tried again.",
            )
        if response.status >= 300:
            raise Refused(response.status, *_explain(answer))
        return answer

    def _note_clock(self, date: str | None) -> None:
        try:
            told = parsedate_to_datetime(date).timestamp() if date else None
        except (ValueError, OverflowError):
            return
        if told is not None:
            self.clock_behind_s = told - time.time()


def _explain(body: bytes) -> tuple[str, str, str]:
    """`(error, message, hint)` of an error body; other servers' bodies are quoted."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        error, message, hint = (str(value.get(key, "")) for key in ("error", "message", "hint"))
        if error:
            return error, message or error, hint
    return "unknown", body[:200].decode("utf-8", "replace") or "an empty answer", ""
