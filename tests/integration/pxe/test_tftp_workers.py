"""TFTP workers as processes: several on one port, one port for everything, and workers that end by
themselves."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Network
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from fakes_pxe import LOOPBACK, installing_node, running_server, udp_socket
from process_children import tftp_workers
from tftp_reader import read_file

from fleet.spec.model import DhcpMode
from pxe.boot.table import BootTable, BootTree
from pxe.errors import PxeError
from pxe.events import BoardEvent, BootFile
from pxe.net.tftp import TftpService
from pxe.server import PxeConfig, PxeServer
from pxe.tftp.process import start_worker
from pxe.tftp.settings import WorkerSettings
from pxe.tftp.wire import Ack, Data, Error, ErrorCode, OptionAck, Request, parse_packet

pytestmark = pytest.mark.integration

PREFIX = "91cdf03d"
KERNEL = bytes(range(256)) * 12_000 + b"end"
WAIT_S = 60.0


@asynccontextmanager
async def serving(
    tmp_path: Path,
    on_event: Callable[[BoardEvent], None] = lambda _event: None,
    *,
    workers: int = 1,
    single_port: bool = False,
) -> AsyncIterator[PxeServer]:
    tree = tmp_path / "boot"
    tree.mkdir(exist_ok=True)
    (tree / "kernel8.img").write_bytes(KERNEL)
    table = BootTable((installing_node(BootTree(tree)),))
    async with running_server(
        table, tmp_path / "state", on_event, tftp_workers=workers, tftp_single_port=single_port
    ) as server:
        yield server


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110  # processes have no event to wait on
            await asyncio.sleep(0.01)


def address(server: PxeServer) -> tuple[str, int]:
    return str(LOOPBACK), server.ports.tftp


async def fetch(server: PxeServer, windowsize: int, client: int) -> bytes:
    return await asyncio.to_thread(
        read_file,
        address(server),
        f"{PREFIX}/kernel8.img",
        {"blksize": "1468", "windowsize": str(windowsize)},
        client,
    )


@pytest.mark.asyncio
@pytest.mark.parametrize("single_port", [False, True], ids=["own ports", "single port"])
@pytest.mark.parametrize("windowsize", [1, 16, 64])
async def test_every_board_gets_its_file_from_several_workers(
    tmp_path: Path, windowsize: int, single_port: bool
) -> None:
    async with serving(tmp_path, workers=3, single_port=single_port) as server:
        received = await asyncio.gather(*(fetch(server, windowsize, client) for client in range(12)))
        assert all(content == KERNEL for content in received)


@pytest.mark.asyncio
async def test_with_a_single_port_every_packet_comes_from_the_port_that_was_asked(tmp_path: Path) -> None:
    async with serving(tmp_path, single_port=True) as server:
        with udp_socket() as sock, udp_socket(1) as stranger:
            sock.sendto(Request(f"{PREFIX}/kernel8.img", (("blksize", "1024"),)).encode(), address(server))
            data, peer = await asyncio.to_thread(sock.recvfrom, 65536)
            assert peer == address(server)
            assert isinstance(parse_packet(data), OptionAck)
            stranger.sendto(Error(0, "stop").encode(), address(server))
            stranger.sendto(Ack(0).encode(), address(server))
            sock.sendto(Ack(0).encode(), address(server))
            while isinstance(parse_packet(data), OptionAck):  # again, if our ACK was long in coming
                data, peer = await asyncio.to_thread(sock.recvfrom, 65536)
                assert peer == address(server)
            assert parse_packet(data) == Data(1, KERNEL[:1024])
            sock.sendto(Error(0, "enough").encode(), address(server))


@pytest.mark.asyncio
async def test_a_worker_that_is_killed_is_started_again_and_the_server_stays(tmp_path: Path) -> None:
    events: list[BoardEvent] = []
    async with serving(tmp_path, events.append) as server:
        (killed,) = tftp_workers()
        os.kill(killed, signal.SIGKILL)
        # Asked while there is no worker: the request waits in the socket that the new one takes over.
        assert await fetch(server, 1, 0) == KERNEL
        (worker,) = tftp_workers()
        assert worker != killed
        assert server.tftp_restarts == 1
        await until(lambda: any(isinstance(event, BootFile) for event in events))


@pytest.mark.asyncio
async def test_a_new_worker_knows_what_the_old_one_knew(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        server.update(BootTable())
        os.kill(tftp_workers()[0], signal.SIGKILL)
        with udp_socket() as sock:
            sock.sendto(Request(f"{PREFIX}/kernel8.img").encode(), address(server))
            packet = parse_packet(await asyncio.to_thread(sock.recv, 65536))
        assert packet == Error(ErrorCode.FILE_NOT_FOUND, "File not found")


@pytest.mark.asyncio
async def test_a_worker_that_ends_over_and_over_ends_the_server_which_says_so(tmp_path: Path) -> None:
    config = PxeConfig(
        server_address=LOOPBACK,
        subnet=IPv4Network("127.0.0.0/8"),
        dhcp=DhcpMode.OFF,
        state_dir=tmp_path,
        tftp_port=0,
        http_port=0,
    )
    server = PxeServer(config, lambda _event: None)
    running = asyncio.create_task(server.run())
    async with asyncio.timeout(WAIT_S):
        await server.ready.wait()
        killed: set[int] = set()
        while not running.done():
            for pid in set(tftp_workers()) - killed:
                killed.add(pid)
                with suppress(ProcessLookupError):  # ended by itself just now
                    os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.01)
    with pytest.raises(PxeError, match="ended 5 times within 60 s"):
        await running
    assert len(killed) == 5


@pytest.mark.asyncio
async def test_where_one_worker_does_not_start_the_others_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    stopped = threading.Event()
    stop = TftpService.stop

    def start(
        sock: socket.socket, settings: WorkerSettings, table: BootTable
    ) -> tuple[subprocess.Popen[bytes], Connection]:
        if not happened:
            happened.append("failed")
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        stopped.wait(0.2)  # slower than the one that fails
        happened.append("started")
        return start_worker(sock, settings, table)

    async def note_stop(service: TftpService) -> None:
        happened.append("stopped")
        stopped.set()
        await stop(service)

    monkeypatch.setattr("pxe.net.tftp.start_worker", start)
    monkeypatch.setattr(TftpService, "stop", note_stop)
    with pytest.raises(PxeError, match="did not start"):
        async with serving(tmp_path, workers=2):
            pass
    assert happened == ["failed", "started", "stopped"]
    assert tftp_workers() == []
