"""The TFTP worker on loopback, with real clients (curl, atftp) and with sockets that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from fakes_pxe import LOOPBACK, installing_node, running_server, udp_socket
from process_children import tftp_workers

from pxe.boot.table import BootTable, BootTree
from pxe.events import BoardEvent, BootFile, BootFileMissing, BootFileProbed, TransferFailed
from pxe.server import PxeServer
from pxe.tftp.wire import Ack, Data, Error, ErrorCode, OptionAck, Request, parse_packet

pytestmark = pytest.mark.integration

PREFIX = "91cdf03d"
KERNEL = bytes(range(256)) * 5000 + b"end"
WAIT_S = 60.0


@dataclass
class Served:
    """A running server and what it reported."""

    server: PxeServer
    tree: Path
    table: BootTable
    events: list[BoardEvent]

    @property
    def address(self) -> tuple[str, int]:
        return str(LOOPBACK), self.server.ports.tftp

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():  # noqa: ASYNC110  # files and processes have no event to wait on
                await asyncio.sleep(0.01)

    def of_kind(self, kind: type[BoardEvent]) -> list[BoardEvent]:
        return [event for event in self.events if isinstance(event, kind)]


@contextlib.asynccontextmanager
async def serving(tmp_path: Path, *, mtu: int = 1500) -> AsyncIterator[Served]:
    tree = tmp_path / "boot"
    (tree / "overlays").mkdir(parents=True)
    (tree / "kernel8.img").write_bytes(KERNEL)
    (tree / "empty").write_bytes(b"")
    (tree / "overlays" / "x.dtbo").write_bytes(b"overlay")
    (tree / "escape").symlink_to("/etc/hostname")
    (tmp_path / "tail").write_bytes(b"tail")
    boot_tree = BootTree(tree, {"config.txt": b"arm_64bit=1\n"}, {"joined": (b"head+", tmp_path / "tail")})
    table = BootTable((installing_node(boot_tree),))
    events: list[BoardEvent] = []
    async with running_server(table, tmp_path / "state", events.append, mtu=mtu) as server:
        yield Served(server, tree, table, events)


async def run(*argv: str) -> str:
    """Run a client; its output."""
    if shutil.which(argv[0]) is None:
        pytest.skip(f"{argv[0]} is not installed (package {argv[0]})")
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(WAIT_S):
        output, _none = await process.communicate()
    assert process.returncode == 0, output
    return output.decode(errors="replace")


def ask(served: Served, request: Request, client: int = 0) -> tuple[object, socket.socket, tuple[str, int]]:
    """Send a request from a socket of its own; the first answer. Blocking: run in a thread."""
    sock = udp_socket(client)
    sock.sendto(request.encode(), served.address)
    data, peer = sock.recvfrom(65536)
    return parse_packet(data), sock, peer


def next_data(sock: socket.socket) -> Data:
    """The next block, past an OACK that was sent again to a slow client. Blocking: run in a thread."""
    packet = parse_packet(sock.recv(65536))
    while isinstance(packet, OptionAck):
        packet = parse_packet(sock.recv(65536))
    assert isinstance(packet, Data), packet
    return packet


def download(
    served: Served, name: str, options: tuple[tuple[str, str], ...] = (("blksize", "1468"),), client: int = 0
) -> bytes:
    """A whole file in lock-step. Blocking: run in a thread."""
    packet, sock, peer = ask(served, Request(f"{PREFIX}/{name}", options), client)
    blksize, received = 512, b""
    with sock:
        while True:
            if isinstance(packet, OptionAck):
                blksize = int(packet.option("blksize") or blksize)
                sock.sendto(Ack(0).encode(), peer)
            elif isinstance(packet, Data):
                received += packet.payload
                sock.sendto(Ack(packet.block).encode(), peer)
                if len(packet.payload) < blksize:
                    return received
            else:
                raise AssertionError(packet)
            packet = parse_packet(sock.recv(65536))


@pytest.mark.asyncio
async def test_curl_reads_files_of_every_source(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        port = served.server.ports.tftp
        for name, content in {
            "kernel8.img": KERNEL,
            "config.txt": b"arm_64bit=1\n",
            "joined": b"head+tail",
            "overlays/x.dtbo": b"overlay",
        }.items():
            target = tmp_path / "received"
            await run("curl", "-sS", "-o", str(target), f"tftp://{LOOPBACK}:{port}/{PREFIX}//{name}")
            assert target.read_bytes() == content
            target.unlink()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("command", "blksize"),
    [
        ("busybox tftp -g -r {name} -l {target} -b 1024 {host} {port}", 1024),
        ("busybox tftp -g -r {name} -l {target} -b 512 {host} {port}", 512),
        ("tftp -4 -m octet {host} {port} -c get {name} {target}", 512),
    ],
    ids=["busybox", "busybox without options", "tftp-hpa"],
)
async def test_other_clients_read_the_kernel(tmp_path: Path, command: str, blksize: int) -> None:
    async with serving(tmp_path) as served:
        target = tmp_path / "received"
        host, port = served.address
        words = command.format(name=f"{PREFIX}/kernel8.img", target=target, host=host, port=port)
        await run(*words.split())
        assert target.read_bytes() == KERNEL
        await served.until(lambda: bool(served.of_kind(BootFile)))
        (event,) = served.of_kind(BootFile)
        assert isinstance(event, BootFile)
        assert event.statistics.blksize == blksize


@pytest.mark.asyncio
@pytest.mark.parametrize("windowsize", [1, 4, 64])
@pytest.mark.parametrize("mtu", [1500, 9000])
async def test_atftp_reads_with_windows(tmp_path: Path, windowsize: int, mtu: int) -> None:
    async with serving(tmp_path, mtu=mtu) as served:
        target = tmp_path / "received"
        await run(
            *("atftp", "--option", "blksize 8192", "--option", f"windowsize {windowsize}", "--get"),
            *("--remote-file", f"{PREFIX}/kernel8.img", "--local-file", str(target)),
            *map(str, served.address),
        )
        assert target.read_bytes() == KERNEL
        await served.until(lambda: bool(served.of_kind(BootFile)))
        (event,) = served.of_kind(BootFile)
        assert isinstance(event, BootFile)
        assert (event.node, event.name, event.size_bytes) == ("pi4-worker-1", "kernel8.img", len(KERNEL))
        assert event.statistics.blksize == min(8192, mtu - 32)
        assert event.statistics.windowsize == min(windowsize, 98304 // (event.statistics.blksize + 4))


@pytest.mark.asyncio
async def test_a_probe_frees_the_transfer_and_is_no_failure(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        packet, sock, peer = await asyncio.to_thread(
            ask, served, Request(f"{PREFIX}/kernel8.img", (("tsize", "0"), ("blksize", "1024")))
        )
        assert packet == OptionAck((("tsize", str(len(KERNEL))), ("blksize", "1024")))
        with sock:
            sock.sendto(Error(0, "Early terminate".ljust(1400, ".")).encode(), peer)
        await served.until(lambda: bool(served.of_kind(BootFileProbed)))
        assert not served.of_kind(TransferFailed)


@pytest.mark.asyncio
async def test_a_strangers_packets_do_not_disturb_a_transfer(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        packet, sock, peer = await asyncio.to_thread(ask, served, Request(f"{PREFIX}/kernel8.img"))
        assert isinstance(packet, Data)
        with sock, udp_socket() as stranger:
            stranger.sendto(Error(0, "stop").encode(), peer)
            stranger.sendto(Ack(1).encode(), peer)
            sock.sendto(Ack(1).encode(), peer)
            answer = await asyncio.to_thread(next_data, sock)
            while answer.block == 1:  # again, if our ACK was long in coming
                answer = await asyncio.to_thread(next_data, sock)
            assert answer.block == 2
            sock.sendto(Error(0, "enough").encode(), peer)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "name",
    [
        f"{PREFIX}/nope",
        f"{PREFIX}/../../etc/hostname",
        f"{PREFIX}/escape",
        f"{PREFIX}/overlays",
        "/etc/hostname",
        "kernel8.img\\..\\x",
        f"{PREFIX}/\udcff\udcfe",
        "00000001/kernel8.img",
        "%2e%2e/etc/hostname",
    ],
)
async def test_what_is_not_served_is_not_found_and_no_path_is_told(tmp_path: Path, name: str) -> None:
    async with serving(tmp_path) as served:
        packet, sock, _peer = await asyncio.to_thread(ask, served, Request(name))
        sock.close()
        assert packet == Error(ErrorCode.FILE_NOT_FOUND, "File not found")
        await served.until(lambda: bool(served.of_kind(BootFileMissing)))


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\0\2x\0octet\0", ErrorCode.ACCESS_VIOLATION),
        (b"\0\1x\0", ErrorCode.ILLEGAL_OPERATION),
        (b"\0\x09abcd", ErrorCode.ILLEGAL_OPERATION),
        (b"\0\1" + PREFIX.encode() + b"/kernel8.img\0mail\0", ErrorCode.ILLEGAL_OPERATION),
        (b"\0\1" + PREFIX.encode() + b"/kernel8.img\0octet\0blksize\0abc\0", ErrorCode.BAD_OPTIONS),
    ],
    ids=["write", "no mode", "opcode", "mail", "options"],
)
async def test_wrong_requests_get_their_error(tmp_path: Path, data: bytes, code: ErrorCode) -> None:
    async with serving(tmp_path) as served:
        with udp_socket() as sock:
            sock.sendto(b"\0", served.address)  # not answered
            sock.sendto(Ack(7).encode(), served.address)  # not answered
            sock.sendto(data, served.address)
            packet = parse_packet(await asyncio.to_thread(sock.recv, 65536))
            assert isinstance(packet, Error)
            assert packet.code == code


@pytest.mark.asyncio
async def test_an_empty_file_is_a_file(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        assert await asyncio.to_thread(download, served, "empty", (("tsize", "0"),)) == b""


@pytest.mark.asyncio
async def test_64_boards_at_once_all_get_the_file(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        with ThreadPoolExecutor(64) as threads:
            loop = asyncio.get_running_loop()
            received = await asyncio.gather(
                *(
                    loop.run_in_executor(
                        threads, download, served, "kernel8.img", (("blksize", "1468"),), client
                    )
                    for client in range(64)
                )
            )
        assert all(data == KERNEL for data in received)


@pytest.mark.asyncio
async def test_a_board_that_starts_over_and_over_pushes_out_its_own_ghosts_only(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        request = Request(f"{PREFIX}/kernel8.img", (("blksize", "1468"),))
        other, other_sock, other_peer = await asyncio.to_thread(ask, served, request, 1)
        assert isinstance(other, OptionAck)
        ghosts = [await asyncio.to_thread(ask, served, request) for _ in range(20)]
        assert all(isinstance(packet, OptionAck) for packet, _sock, _peer in ghosts)
        _packet, newest, peer = ghosts[-1]
        for sock, ack_to in ((newest, peer), (other_sock, other_peer)):
            sock.sendto(Ack(0).encode(), ack_to)
            assert (await asyncio.to_thread(next_data, sock)).block == 1
        for _packet, sock, _peer in ghosts:
            sock.close()
        other_sock.close()


@pytest.mark.asyncio
async def test_an_update_takes_the_files_away_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        assert await asyncio.to_thread(download, served, "config.txt") == b"arm_64bit=1\n"
        served.server.update(BootTable())
        deadline = time.monotonic() + WAIT_S
        packet: object = None
        while packet != Error(ErrorCode.FILE_NOT_FOUND, "File not found") and time.monotonic() < deadline:
            packet, sock, _peer = await asyncio.to_thread(ask, served, Request(f"{PREFIX}/config.txt"))
            sock.close()
        assert packet == Error(ErrorCode.FILE_NOT_FOUND, "File not found")


@pytest.mark.asyncio
async def test_a_repeated_request_does_not_start_a_second_transfer(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        request = Request(f"{PREFIX}/kernel8.img", (("blksize", "1024"),))
        with udp_socket() as sock:
            for _ in range(3):
                sock.sendto(request.encode(), served.address)
            _data, first = await asyncio.to_thread(sock.recvfrom, 65536)
            peers = {first}
            sock.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                while True:
                    _data, peer = await asyncio.to_thread(sock.recvfrom, 65536)
                    peers.add(peer)
            assert peers == {first}


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.asyncio
async def test_a_stop_ends_the_worker(tmp_path: Path) -> None:
    async with serving(tmp_path):
        (pid,) = tftp_workers()
    assert pid not in tftp_workers()


ORPHAN_MAKER = """
import asyncio, sys
from pathlib import Path
from fakes_pxe import running_server
from pxe.boot.table import BootTable

async def main() -> None:
    async with running_server(BootTable(), Path(sys.argv[1])):
        print("ready", flush=True)
        await asyncio.Event().wait()

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.asyncio
async def test_a_worker_ends_with_a_server_that_was_killed(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text(ORPHAN_MAKER, encoding="utf-8")
    checkout = Path(__file__).parents[3]
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, str(script), str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{checkout}:{checkout / 'tests/support'}"},
    )
    assert server.stdout is not None
    try:
        async with asyncio.timeout(WAIT_S):
            assert await server.stdout.readline() == b"ready\n"
            (worker,) = tftp_workers(server.pid)
            server.kill()
            await server.wait()
            while is_running(worker):  # noqa: ASYNC110  # another's child gives no event
                await asyncio.sleep(0.01)
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.kill()
        await server.wait()


@pytest.mark.asyncio
async def test_a_large_file_arrives_whole_across_the_rollover(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        large = served.tree / "large"
        block = os.urandom(1 << 20)
        with large.open("wb") as file:
            for _ in range(34):  # 34 MiB in blocks of 512 bytes: past block 65535
                file.write(block)
        target = tmp_path / "received"
        await run(
            *("curl", "-sS", "--tftp-blksize", "512", "-o", str(target)),
            f"tftp://{LOOPBACK}:{served.server.ports.tftp}/{PREFIX}/large",
        )
        assert hashlib.sha256(target.read_bytes()).digest() == hashlib.sha256(large.read_bytes()).digest()
