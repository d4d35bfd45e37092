"""The HTTPS socket: one thread per connection, client certificates optional, everything else is the
application's.

A client certificate that no CA of the cluster signed ends the TLS handshake here; k3s would answer 401.
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import urllib.parse
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, cast

from lab.k3s_sim.node import log
from lab.k3s_sim.node.errors import StatusError
from lab.k3s_sim.node.messages import Application, Peer, Request, Response

MAX_BODY_BYTES = 1024 * 1024
IDLE_TIMEOUT_S = 60.0
HANDSHAKE_TIMEOUT_S = 20.0
"""Long: both ends may be emulated processors."""


def server_context(certificate: Path, key: Path, client_authorities: Iterable[Path]) -> ssl.SSLContext:
    """TLS for the server: its own certificate, and the CAs whose client certificates count."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_OPTIONAL
    for authority in client_authorities:
        context.load_verify_locations(authority)
    return context


def certificate_subject(certificate: Path) -> str:
    """The subject of a CA certificate, in the form `Peer.issuer` has."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_verify_locations(certificate)
    return _flat_name(cast("dict[str, Any]", context.get_ca_certs()[0])["subject"])


class HttpsServer(ThreadingMixIn, TCPServer):
    """Listens from construction on; `serve_forever` answers."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext, application: Application) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self._context = context
        self.application = application
        super().__init__(address, _Handler)

    def start(self) -> None:
        """Answer from a thread of its own until the process ends."""
        threading.Thread(target=self.serve_forever, name="https", daemon=True).start()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Runs in the connection's thread, so a slow handshake delays nobody else."""
        request.settimeout(HANDSHAKE_TIMEOUT_S)
        with self._context.wrap_socket(request, server_side=True) as channel:
            channel.settimeout(IDLE_TIMEOUT_S)
            _Handler(channel, client_address, self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that breaks off or speaks no TLS is not an event; anything else is a bug worth its
        traceback.
        """
        error = sys.exc_info()[1]
        if isinstance(error, ssl.SSLError):
            log.info(
                f"http: TLS handshake error from {client_address[0]}:{client_address[1]}: {error.reason}"
            )
        elif not isinstance(error, OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "k3s-simulator"
    sys_version = ""
    wbufsize = -1  # one segment for headers and body

    def _answer(self) -> None:
        response = self._respond()
        self.send_response(response.status)
        self.send_header("Content-Type", response.content_type)
        self.send_header("X-Simulator", "bramble-k3s-sim")
        if response.stream is not None:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self._send_pieces(response.stream)
            return
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    def _send_pieces(self, pieces: Iterator[bytes]) -> None:
        """Each piece is on its way before the next one is waited for. Source: RFC 9112, section 7.1."""
        self.wfile.flush()
        for piece in pieces:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def _respond(self) -> Response:
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            text = f"a body needs a Content-Length of at most {MAX_BODY_BYTES} bytes"
            return Response.refusal(StatusError(413, "RequestEntityTooLarge", text))
        url = urllib.parse.urlsplit(self.path)
        request = Request(
            method="GET" if self.command == "HEAD" else self.command,
            path=urllib.parse.unquote(url.path),
            raw_query=url.query,
            headers=tuple((name.lower(), value) for name, value in self.headers.items()),
            body=self.rfile.read(int(length)),
            peer=_peer(self.connection),
            remote=f"{self.client_address[0]}:{self.client_address[1]}",
        )
        try:
            return cast("HttpsServer", self.server).application.handle(request)
        except StatusError as error:
            log.error(f"Sending HTTP {error.code} response to {request.remote}: {error.message}")
            return Response.refusal(error)

    def log_message(self, format: str, *args: Any) -> None:
        """No access log: the journal of a node is for people."""


def _peer(channel: object) -> Peer | None:
    certificate = cast("ssl.SSLSocket", channel).getpeercert()
    if not certificate:
        return None
    fields = [
        cast("tuple[str, str]", pair) for group in certificate["subject"] for pair in cast("Any", group)
    ]
    return Peer(
        common_name=next((value for key, value in fields if key == "commonName"), ""),
        organizations=tuple(value for key, value in fields if key == "organizationName"),
        issuer=_flat_name(certificate["issuer"]),
    )


def _flat_name(name: Any) -> str:
    return ",".join(f"{key}={value}" for group in name for key, value in group)
