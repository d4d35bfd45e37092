"""An API server that takes a request and says no more, as k3s does whose etcd has no quorum."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_etcd import _leaf

from fleet.k3s.material import ClientIdentity, open_k3s
from fleet.kube import client
from fleet.kube.client import KubeApi, KubeError
from fleet.trust.certificates import certificate_pem, key_pem, load_authority, new_key

pytestmark = pytest.mark.integration

PATIENCE_S = 20.0
"""asyncio itself waits half a minute for the end of TLS."""


@contextlib.contextmanager
def silent_api(directory: Path) -> Iterator[tuple[str, ClientIdentity]]:
    """Its URL, and what a client shows it."""
    keys = open_k3s(directory / "keys", "attic", time.time())
    files = {name: content.reveal() for name, content in keys.tls_files().items()}
    pems = [
        next(text for name, text in files.items() if name.endswith(f"tls/server-ca.{end}"))
        for end in ("crt", "key")
    ]
    authority, key = load_authority(pems[0].encode(), pems[1].encode()), new_key()
    chain = directory / "server.pem"
    leaf = _leaf(authority, key.public_key(), "127.0.0.1")
    chain.write_bytes(certificate_pem(leaf) + key_pem(key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    over = threading.Event()

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            taken, _ = listener.accept()
            with taken, context.wrap_socket(taken, server_side=True) as connection:
                connection.recv(4096)
                over.wait(60.0)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield (
                f"https://127.0.0.1:{listener.getsockname()[1]}",
                keys.client_identity(time.time()),
            )
        finally:
            over.set()
            thread.join(60.0)


def test_no_connection_outlives_the_client_that_was_not_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TIMEOUT_S", 1.0)

    async def story(url: str, identity: ClientIdentity) -> None:
        before = asyncio.all_tasks()
        async with KubeApi(url, identity) as api:
            with pytest.raises(KubeError, match="does not answer"):
                await api.nodes()
        transports = asyncio.get_running_loop()._transports  # type: ignore[attr-defined]
        async with asyncio.timeout(PATIENCE_S):
            while any(one._sock is not None for one in list(transports.values())):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert asyncio.all_tasks() == before

    with silent_api(tmp_path) as (url, identity):
        asyncio.run(story(url, identity))
