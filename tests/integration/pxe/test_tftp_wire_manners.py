"""TFTP among strangers: what a false name brings, and who waits when many ask."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from fakes_pxe import LOOPBACK, installing_node, running_server, udp_socket
from tftp_reader import read_file

from pxe.boot.table import BootTable, BootTree
from pxe.tftp.settings import MAX_BULK
from pxe.tftp.wire import Ack, Error, ErrorCode, OptionAck, Request, parse_packet

pytestmark = pytest.mark.integration

PREFIX = "91cdf03d"
HEADERS_BYTES = 28
WAIT_S = 30
SETTLED_S = 3
"""An order reaches the workers at once; a transfer without any ACK would be given up later than this."""


def table(tmp_path: Path, size: int) -> BootTable:
    tree = tmp_path / "boot"
    tree.mkdir(exist_ok=True)
    (tree / "kernel8.img").write_bytes(b"k" * size)
    return BootTable((installing_node(BootTree(tree)),))


@pytest.mark.asyncio
async def test_a_request_in_a_false_name_brings_at_most_twice_its_bytes(tmp_path: Path) -> None:
    async with running_server(table(tmp_path, 100_000), tmp_path / "state") as server:

        def answers_to(name: str, client: int) -> float:
            """All that comes, for each byte that was sent."""
            request = Request(name, (("tsize", "0"), ("blksize", "1468"))).encode()
            with udp_socket(client) as sock:
                sock.sendto(request, (str(LOOPBACK), server.ports.tftp))
                received = len(sock.recv(65536)) + HEADERS_BYTES
                sock.settimeout(4.0)  # two retransmissions would be due
                deadline = time.monotonic() + 4.0
                with suppress(TimeoutError):
                    while time.monotonic() < deadline:
                        received += len(sock.recv(65536)) + HEADERS_BYTES
            return received / (len(request) + HEADERS_BYTES)

        names = (f"{PREFIX}/kernel8.img", f"{PREFIX}/nope", "x")
        shares = await asyncio.gather(
            *(asyncio.to_thread(answers_to, name, client) for client, name in enumerate(names))
        )
    assert [name for name, share in zip(names, shares, strict=True) if share > 2] == []


@pytest.mark.asyncio
async def test_a_thousand_requests_without_options_do_not_bring_a_thousand_blocks(tmp_path: Path) -> None:
    request = Request(f"{PREFIX}/kernel8.img").encode()
    async with running_server(table(tmp_path, 100_000), tmp_path / "state") as server:
        socks = [udp_socket() for _ in range(200)]
        for _ in range(5):
            for sock in socks:
                sock.sendto(request, (str(LOOPBACK), server.ports.tftp))
        sent = 1000 * (len(request) + HEADERS_BYTES)
        address = (str(LOOPBACK), server.ports.tftp)  # somebody else is served meanwhile
        other = await asyncio.to_thread(read_file, address, f"{PREFIX}/kernel8.img", {"blksize": "1468"}, 1)
        assert other == b"k" * 100_000
        received = 0
        for sock in socks:
            sock.setblocking(False)
            while True:
                try:
                    received += len(sock.recv(65536)) + HEADERS_BYTES
                except BlockingIOError:
                    break
            sock.close()
        assert received <= 2 * sent + 600


@pytest.mark.asyncio
async def test_beyond_the_cap_requests_wait_and_small_files_and_not_found_do_not(tmp_path: Path) -> None:
    large = table(tmp_path, 2_000_000)
    (tmp_path / "boot" / "config.txt").write_bytes(b"small")
    async with running_server(large, tmp_path / "state") as server:
        address = (str(LOOPBACK), server.ports.tftp)
        request = Request(f"{PREFIX}/kernel8.img", (("blksize", "1468"),)).encode()
        holding = []
        for client in range(MAX_BULK):
            sock = udp_socket(client + 1)
            sock.sendto(request, address)
            data, peer = await asyncio.to_thread(sock.recvfrom, 65536)
            assert isinstance(parse_packet(data), OptionAck)
            sock.sendto(Ack(0).encode(), peer)
            await asyncio.to_thread(sock.recv, 65536)
            holding.append((sock, peer))
        with udp_socket(200) as waiting:
            waiting.sendto(request, address)
            waiting.settimeout(0.3)
            with pytest.raises(TimeoutError):
                await asyncio.to_thread(waiting.recv, 65536)
            options = {"blksize": "512"}
            small = await asyncio.to_thread(read_file, address, f"{PREFIX}/config.txt", options, 201)
            assert small == b"small"
            with udp_socket(202) as asking:
                asking.sendto(Request(f"{PREFIX}/nope").encode(), address)
                answer = parse_packet(await asyncio.to_thread(asking.recv, 65536))
                assert answer == Error(ErrorCode.FILE_NOT_FOUND, "File not found")
            sock, peer = holding.pop()
            sock.sendto(Error(0, "enough").encode(), peer)
            sock.close()
            waiting.settimeout(WAIT_S)
            data, _peer = await asyncio.to_thread(waiting.recvfrom, 65536)
            assert isinstance(parse_packet(data), OptionAck)
        for sock, peer in holding:
            sock.sendto(Error(0, "enough").encode(), peer)
            sock.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("single_port", [False, True], ids=["own ports", "single port"])
@pytest.mark.parametrize("is_rearmed", [True, False], ids=["next intent", "closed"])
async def test_a_request_from_a_known_port_gets_what_is_decided_now(
    tmp_path: Path, is_rearmed: bool, single_port: bool
) -> None:
    """A board lost its power before its first ACK, and asks from the same port under another intent."""
    name = f"{PREFIX}/cmdline.txt"
    request = Request(name, (("tsize", "0"),))
    before = installing_node(BootTree(None, {"cmdline.txt": b"old"}))
    if is_rearmed:
        tree = BootTree(None, {"cmdline.txt": b"of the next"})
        after = replace(before, install_intent=(before.install_intent or 0) + 1, tree=tree)
    else:
        after = replace(before, install_intent=None)
    async with running_server(
        BootTable((before,)), tmp_path / "state", tftp_single_port=single_port
    ) as server:
        address = (str(LOOPBACK), server.ports.tftp)

        def ask() -> object:
            sock.sendto(request.encode(), address)
            return parse_packet(sock.recv(65536))

        with udp_socket() as sock:
            assert await asyncio.to_thread(ask) == OptionAck((("tsize", "3"),))
            server.update(BootTable((after,)))
            wanted = (
                OptionAck((("tsize", "11"),))
                if is_rearmed
                else Error(ErrorCode.FILE_NOT_FOUND, "File not found")
            )
            deadline = time.monotonic() + SETTLED_S
            answer: object = None
            while answer != wanted and time.monotonic() < deadline:
                answer = await asyncio.to_thread(ask)
            assert answer == wanted
