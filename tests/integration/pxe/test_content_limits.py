"""HTTP under strain: clients that say nothing, too much or too slowly, and many at a time."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import web
from fakes_pxe import LOOPBACK

from pxe.boot.clients import ClientBook
from pxe.boot.table import BootTable
from pxe.net.ports import bind_tcp
from pxe.web import files
from pxe.web.content import ContentServer
from pxe.web.door import Door

pytestmark = pytest.mark.integration

IMAGE = os.urandom(3_000_000)
WAIT_S = 60.0
REQUEST = b"GET /images/abc/disk HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE_REQUEST = REQUEST.replace(b"disk", b"large")
LARGE_BYTES = 64 << 20  # more than the kernel buffers for a connection


@contextlib.asynccontextmanager
async def serving(tmp_path: Path, door: Door) -> AsyncIterator[int]:
    """A content server with its own bounds; its port."""
    (tmp_path / "disk").write_bytes(IMAGE)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(LARGE_BYTES)
    table = BootTable(images={f"abc/{name}": tmp_path / name for name in ("disk", "large")})
    server = ContentServer(lambda: table, ClientBook(), lambda _event: None, door=door)
    sock = bind_tcp(LOOPBACK, 0, "HTTP")
    running = asyncio.create_task(server.run(sock, grace_s=1.0))
    try:
        yield sock.getsockname()[1]
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def is_closed(reader: asyncio.StreamReader) -> bool:
    """Whether the server closes the connection without a word."""
    try:
        async with asyncio.timeout(WAIT_S):
            return await reader.read(1) == b""
    except ConnectionError:
        return True


async def ask(port: int, request: bytes = REQUEST) -> tuple[bytes, bytes]:
    """One request on a connection of its own: head and body of the answer."""
    reader, writer = await asyncio.open_connection(str(LOOPBACK), port)
    try:
        writer.write(request)
        async with asyncio.timeout(WAIT_S):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            return head, await reader.readexactly(length)
    finally:
        writer.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("said", [b"", b"GET /images/abc/disk HTTP/1.1\r\nHost:"], ids=["nothing", "half"])
async def test_a_client_that_does_not_finish_its_request_is_shown_out(tmp_path: Path, said: bytes) -> None:
    door = Door(first_request_s=0.2)
    async with serving(tmp_path, door) as port:
        reader, writer = await asyncio.open_connection(str(LOOPBACK), port)
        writer.write(said)
        assert await is_closed(reader)
        writer.close()
        assert door.shown_out == 1
        assert (await ask(port))[1] == IMAGE


@pytest.mark.asyncio
async def test_dripping_a_request_does_not_buy_time(tmp_path: Path) -> None:
    door = Door(first_request_s=0.3)
    async with serving(tmp_path, door) as port:
        reader, writer = await asyncio.open_connection(str(LOOPBACK), port)
        writer.write(b"GET /")
        closed = asyncio.create_task(is_closed(reader))
        with contextlib.suppress(ConnectionError):
            while not closed.done():
                writer.write(b"X")
                await writer.drain()
                await asyncio.wait({closed}, timeout=0.05)
        assert await closed
        writer.close()


@pytest.mark.asyncio
async def test_a_connection_that_was_served_may_ask_again_but_not_stay_for_ever(tmp_path: Path) -> None:
    door = Door(first_request_s=30, next_request_s=1.0)
    async with serving(tmp_path, door) as port:
        reader, writer = await asyncio.open_connection(str(LOOPBACK), port)
        for _ in range(3):
            writer.write(REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(len(IMAGE)) == IMAGE
        assert await is_closed(reader)
        writer.close()


@pytest.mark.asyncio
async def test_a_connection_that_is_kept_does_not_keep_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Since Python 3.12 a listening server that is waited for waits for all its connections."""

    async def wait_for_clients(_server: asyncio.Server) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.Server, "wait_closed", wait_for_clients)
    async with asyncio.timeout(WAIT_S):
        async with serving(tmp_path, Door()) as port:
            reader, writer = await asyncio.open_connection(str(LOOPBACK), port)
            writer.write(REQUEST)
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(len(IMAGE))
        assert await reader.read() == b""
    writer.close()


async def take_slowly(reader: asyncio.StreamReader, size: int, pieces: int) -> int:
    """Read an answer's body with pauses; how much came before the connection ended."""
    received = 0
    with contextlib.suppress(ConnectionError):
        while received < size and (data := await reader.read(size // pieces)):
            received += len(data)
            await asyncio.sleep(0.01)
    return received


@pytest.mark.asyncio
async def test_a_transfer_may_take_longer_than_a_client_may_say_nothing(tmp_path: Path) -> None:
    door = Door(next_request_s=0.1)
    async with serving(tmp_path, door) as port, asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_connection(str(LOOPBACK), port, limit=2**16)
        writer.write(LARGE_REQUEST)
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(2.5)  # the door looks once a second
        assert await take_slowly(reader, LARGE_BYTES, 64) == LARGE_BYTES
        writer.close()
    assert door.shown_out <= 1  # afterwards


@pytest.mark.asyncio
async def test_connections_that_end_while_they_are_sent_a_file_leave_the_others_heard(tmp_path: Path) -> None:
    """A descriptor that is closed while the loop waits for it makes the next one with its number deaf."""
    web_server: list[asyncio.Transport] = []

    class Watched(Door):
        def admits(self, server: web.Server, transport: asyncio.Transport) -> bool:
            web_server.append(transport)
            return super().admits(server, transport)

    async with serving(tmp_path, Watched()) as port, asyncio.timeout(WAIT_S):
        for _ in range(3):
            clients = [await asyncio.open_connection(str(LOOPBACK), port, limit=2**12) for _ in range(8)]
            for reader, writer in clients:
                writer.write(LARGE_REQUEST)
                await reader.readuntil(b"\r\n\r\n")
            for transport in web_server:
                transport.abort()
            for _reader, writer in clients:
                writer.close()
            assert [body for _head, body in await asyncio.gather(*(ask(port) for _ in range(16)))] == [
                IMAGE
            ] * 16


@pytest.mark.asyncio
async def test_connections_beyond_the_bounds_are_refused_and_the_others_served(tmp_path: Path) -> None:
    door = Door(per_client=4)
    async with serving(tmp_path, door) as port:
        held = [await asyncio.open_connection(str(LOOPBACK), port) for _ in range(4)]
        for _ in range(20):
            reader, writer = await asyncio.open_connection(str(LOOPBACK), port)
            assert await is_closed(reader)
            writer.close()
        assert door.refused == 20
        reader, writer = await asyncio.open_connection(str(LOOPBACK), port, local_addr=(str(LOOPBACK + 1), 0))
        writer.write(REQUEST)
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(len(IMAGE)) == IMAGE
        for _reader, each in [*held, (reader, writer)]:
            each.close()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "flood",
    [
        b"GET /" + b"a" * 100_000,
        b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * 100_000,
        b"GET / HTTP/1.1\r\nX: " + b"b" * 100_000,
    ],
    ids=["long line", "many headers", "long header"],
)
async def test_a_flood_of_headers_is_cut_off(tmp_path: Path, flood: bytes) -> None:
    async with serving(tmp_path, Door()) as port:
        reader, writer = await asyncio.open_connection(str(LOOPBACK), port)
        writer.write(flood)
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(WAIT_S):
                assert (await reader.read(100)).startswith(b"HTTP/1.") or reader.at_eof()
        writer.close()
        assert (await ask(port))[1] == IMAGE


@pytest.mark.asyncio
async def test_a_client_that_resets_while_it_is_sent_a_file_is_no_error_of_ours(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path, Door()) as port:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, (str(LOOPBACK), port))
            await asyncio.get_running_loop().sock_sendall(sock, LARGE_REQUEST)
            assert (await asyncio.get_running_loop().sock_recv(sock, 100)).startswith(b"HTTP/1.1 200")
        assert (await ask(port))[1] == IMAGE
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.asyncio
async def test_a_client_that_reads_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(files, "PIECE_TIMEOUT_S", 0.3)
    async with serving(tmp_path, Door()) as port:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, (str(LOOPBACK), port))
            await asyncio.get_running_loop().sock_sendall(sock, LARGE_REQUEST)
            before = set(connections(port))
            assert before
            async with asyncio.timeout(WAIT_S):
                while list(connections(port)):  # noqa: ASYNC110  # the kernel's table has no event
                    await asyncio.sleep(0.05)
        assert (await ask(port))[1] == IMAGE
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def connections(port: int) -> Iterator[str]:
    """Established connections of the server's end. Columns: 1 local address · 3 state, 01 established."""
    for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]:
        columns = line.split()
        if columns[1].endswith(f":{port:04X}") and columns[3] == "01":
            yield line


@pytest.mark.asyncio
async def test_32_clients_at_once_get_the_file_and_no_descriptor_is_kept(tmp_path: Path) -> None:
    async with serving(tmp_path, Door()) as port:
        await ask(port)
        gc.collect()
        before = open_descriptors()
        answers = await asyncio.gather(*(ask(port) for _ in range(32)))
        assert all(body == IMAGE for _head, body in answers)
        async with asyncio.timeout(WAIT_S):
            while open_descriptors() > before:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


@pytest.mark.asyncio
async def test_a_file_that_shrinks_is_never_passed_off_as_whole(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, Door()) as port:
        reader, writer = await asyncio.open_connection(str(LOOPBACK), port, limit=2**12)
        writer.write(LARGE_REQUEST)
        await reader.readuntil(b"\r\n\r\n")
        os.truncate(tmp_path / "large", 1000)
        received = 0
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(WAIT_S):
                while data := await reader.read(2**16):
                    received += len(data)
        writer.close()
        assert received < LARGE_BYTES
