"""A control server whose answers never end, and a word that no program can be given."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fakes_agent import Authority, ControlServer

from agent.client import (
    CONNECT_TIMEOUT_S,
    AuthorityTrust,
    ControlClient,
    Refused,
    _Connection,
    parse_endpoint,
)
from agent.commands import CommandError, run
from agent.orders import SignedOrder

pytestmark = pytest.mark.integration

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n"
WAIT_S = 60.0
LONGEST_ANSWER_S = (120.0 - 4 * CONNECT_TIMEOUT_S) / 3
"""A kept connection and two servers, each within the time of the service's watchdog."""


@contextlib.contextmanager
def dripping(directory: Path, authority: Authority, first: bytes, piece: bytes) -> Iterator[str]:
    """A server that begins each answer with `first` and goes on with `piece`, without an end; its URL."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = authority.issue(key.public_key(), "control", server=True)
    files = directory / "drip.crt", directory / "drip.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    kind = serialization.PrivateFormat.PKCS8
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    over = threading.Event()

    def serve(listener: socket.socket) -> None:
        while not over.is_set():
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            plain.settimeout(WAIT_S)
            with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as peer:
                peer.recv(4096)
                peer.sendall(first)
                while not over.wait(0.02):
                    peer.sendall(piece)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(WAIT_S)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("first", "piece"),
    [(HEAD, b"x"), (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"), (b"", b"HTTP/1.1 100 Continue\r\n\r\n")],
    ids=["body", "header", "continue"],
)
def test_answer_that_never_ends_is_given_up_and_the_next_server_asked(
    tmp_path: Path, control: ControlServer, monkeypatch: pytest.MonkeyPatch, first: bytes, piece: bytes
) -> None:
    limit_time = _Connection.limit_time
    with dripping(tmp_path, control.authority, first, piece) as url:
        slow = parse_endpoint(url).port

        def limit(connection: _Connection, seconds: float) -> None:
            assert seconds < LONGEST_ANSWER_S
            limit_time(connection, 0.2 if connection.port == slow else seconds)

        monkeypatch.setattr(_Connection, "limit_time", limit)
        client = ControlClient((url, control.url), AuthorityTrust(ca_pem=control.authority.pem))
        with pytest.raises(Refused, match="a client certificate is needed"):
            client.get("/v1/node/desired", SignedOrder)
        client.close()


def test_argument_that_no_program_can_get_is_refused() -> None:
    with pytest.raises(CommandError, match="could not start"):
        run(["journalctl", "--after-cursor=a\0b"])
