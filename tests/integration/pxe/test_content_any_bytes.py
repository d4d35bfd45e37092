"""Any bytes on the HTTP port: an answer that tells nothing, or none, and the next client is served."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import threading
from collections.abc import Iterator

import pytest
from fakes_pxe import LOOPBACK, installing_node
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bramble.request_log import BAD_REQUESTS
from pxe.boot.clients import ClientBook
from pxe.boot.table import BootTable, BootTree
from pxe.net.ports import bind_tcp
from pxe.web.content import ContentServer
from pxe.web.door import Door

pytestmark = pytest.mark.integration

IMAGE = b"image" * 1000
SECRET = b"not to be read by anybody"
WAIT_S = 60.0
GOOD = b"GET /images/abc/disk HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
METHODS = st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT", b"CONNECT", b"get", b"\xff", b""])
PATHS = st.sampled_from(
    [
        b"/images/abc/disk",
        b"/boot/91cdf03d/config.txt",
        b"/metrics",
        b"*",
        b"http://x:99999999/",
        b"//",
        b"/%00",
    ]
) | st.lists(
    st.sampled_from([b"/", b"..", b"%2e", b"%2f", b"\\", b"secret", b"images", b"abc", b"boot"])
).map(b"".join)
VERSIONS = st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/9.9", b"HTTP/1.1 x", b""])
HEADERS = st.lists(
    st.sampled_from(
        [
            b"Host: x",
            b"Content-Length: -1",
            b"Content-Length: 99999999999999999999",
            b"Content-Length: 3",
            b"Transfer-Encoding: chunked",
            b"Range: bytes=0-",
            b"Range: bytes=9-3,-0,999999999999999999999-",
            b"If-Range: \xff",
            b"Expect: 100-continue",
            b"Upgrade: websocket",
            b"Connection: upgrade",
            b": no name",
            b"X\0Y: z",
        ]
    )
    | st.binary(max_size=40),
    max_size=6,
)
REQUESTS = st.builds(
    lambda method, path, version, headers, body: (
        b"\r\n".join([b" ".join([method, path, version]), *headers]) + b"\r\n\r\n" + body
    ),
    METHODS,
    PATHS,
    VERSIONS,
    HEADERS,
    st.binary(max_size=60),
)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A content server in a loop of its own thread; a fault in it fails the module."""
    root = tmp_path_factory.mktemp("content")
    (root / "tree").mkdir()
    (root / "disk").write_bytes(IMAGE)
    (root / "secret").write_bytes(SECRET)
    node = installing_node(BootTree(root=root / "tree", rendered={"config.txt": b"arm_64bit=1\n"}))
    table = BootTable((node,), images={"abc/disk": root / "disk"})
    door = Door(first_request_s=0.15, next_request_s=0.15)
    server = ContentServer(lambda: table, ClientBook(), lambda _event: None, door=door)
    sock = bind_tcp(LOOPBACK, 0, "HTTP")
    number: int = sock.getsockname()[1]
    loop = asyncio.new_event_loop()
    running = loop.create_task(server.run(sock, grace_s=0.5))
    faults: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.addFilter(BAD_REQUESTS)  # as `bramble serve` does
    handler.emit = lambda record: faults.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    loop.set_exception_handler(lambda _loop, context: faults.append(str(context)))

    def serve() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(running)

    thread = threading.Thread(target=serve)
    thread.start()
    yield number
    loop.call_soon_threadsafe(running.cancel)
    thread.join(WAIT_S)
    logging.getLogger().removeHandler(handler)
    assert not thread.is_alive()
    loop.close()
    assert faults == []


def talk(port: int, data: bytes) -> bytes:
    """Send it, and read until the server closes."""
    answer = b""
    with (
        socket.create_connection((str(LOOPBACK), port), WAIT_S) as client,
        contextlib.suppress(ConnectionError),
    ):
        client.sendall(data)
        while part := client.recv(65536):
            answer += part
    return answer


@settings(max_examples=60)
@given(data=REQUESTS | st.binary(max_size=300))
@example(data=GOOD)
@example(data=b"GET /boot/91cdf03d/../../secret HTTP/1.1\r\nHost: x\r\n\r\n")
@example(data=b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03")  # TLS
@example(data=b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
def test_any_bytes_are_answered_or_cut_off(port: int, data: bytes) -> None:
    answer = talk(port, data)
    assert SECRET not in answer
    assert b"Traceback" not in answer
    assert b"/tmp" not in answer
    for status in re.findall(rb"^HTTP/1\.[01] (\d{3})", answer, re.MULTILINE):
        assert int(status) < 500 or status in (b"501", b"505")
    # A client whom a busy machine holds up for as long as the door waits is shown out, and comes again.
    assert any(talk(port, GOOD).endswith(IMAGE) for _ in range(20))
