"""The DNS service on loopback: dig as the client, and name servers of the test's own behind it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Address, IPv4Network
from typing import cast

import pytest
from dnslib import QTYPE, RR, A, DNSRecord

from pxe.dns.core import NameSettings, Rest
from pxe.dns.zone import Zone
from pxe.errors import PxeError
from pxe.net import dns
from pxe.net.dns import DnsService, DnsSockets
from pxe.net.ports import bind_tcp

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

LOOPBACK = IPv4Address("127.0.0.1")
SILENT_UPSTREAM = IPv4Address("127.0.0.9")
ZONE = Zone(
    domain="attic.internal",
    server=LOOPBACK,
    hosts={"pi5-1": (IPv4Address("192.168.86.33"),)},
    subnet=IPv4Network("192.168.86.0/24"),
    owns_reverse=True,
)


async def dig(port: int, *words: str) -> str:
    """What dig prints; `+short` gives the records only."""
    result = await asyncio.to_thread(
        subprocess.run,
        ["dig", "@127.0.0.1", "-p", str(port), "+time=20", "+tries=1", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return result.stdout.strip()


@contextlib.asynccontextmanager
async def serving(
    upstream_port: int = 0, upstreams: tuple[IPv4Address, ...] = (LOOPBACK,), rest: Rest = Rest.FORWARD
) -> AsyncIterator[tuple[DnsService, int]]:
    settings = NameSettings(zone=ZONE, rest=rest, upstreams=upstreams, clients=(IPv4Network("127.0.0.0/8"),))
    sockets = DnsSockets(LOOPBACK, 0)
    service = DnsService(sockets, settings, upstream_port)
    task = asyncio.create_task(service.run())
    try:
        yield service, sockets.port
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert set(service.outcomes) <= set(dns.OUTCOMES)  # what metrics can tell


class Upstream(asyncio.DatagramProtocol):
    """A name server: its datagrams are what a function makes of the query; over TCP it says a lot."""

    def __init__(self, answers: Callable[[DNSRecord], list[bytes]]) -> None:
        self._answers = answers
        self.asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.asked += 1
        for answer in self._answers(DNSRecord.parse(data)):
            self._transport.sendto(answer, addr)


@contextlib.asynccontextmanager
async def upstream(answers: Callable[[DNSRecord], list[bytes]]) -> AsyncIterator[tuple[Upstream, int]]:
    async def serve_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        query = DNSRecord.parse(await reader.readexactly(int.from_bytes(await reader.readexactly(2))))
        data = addresses(query, 100)
        writer.write(len(data).to_bytes(2) + data)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve_stream, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Upstream(answers), local_addr=("127.0.0.1", port)
    )
    async with server:
        try:
            yield protocol, port
        finally:
            transport.close()


def addresses(query: DNSRecord, count: int = 1) -> bytes:
    reply = query.reply()
    reply.add_answer(
        *(RR(query.q.qname, QTYPE.A, rdata=A(f"192.0.2.{number}"), ttl=5) for number in range(count))
    )
    packed: bytes = reply.pack()
    return packed


async def test_dig_gets_names_and_reverse_names() -> None:
    async with serving() as (_service, port):
        assert await dig(port, "+short", "pi5-1.attic.internal") == "192.168.86.33"
        assert await dig(port, "+short", "+tcp", "pi5-1.attic.internal") == "192.168.86.33"
        assert await dig(port, "+short", "-x", "192.168.86.33") == "pi5-1.attic.internal."
        assert "status: NXDOMAIN" in await dig(port, "pi9.attic.internal")


async def test_other_names_are_asked_upstream() -> None:
    async with upstream(lambda query: [addresses(query)]) as (_up, up), serving(up) as (service, port):
        assert await dig(port, "+short", "example.org") == "192.0.2.0"
        assert service.outcomes["forwarded"] == 1


async def test_forged_answers_are_waited_out() -> None:
    def forge(query: DNSRecord) -> list[bytes]:
        good = addresses(query)
        wrong_id = (query.header.id ^ 1).to_bytes(2) + good[2:]
        wrong_name = query.header.id.to_bytes(2) + addresses(DNSRecord.question("example.com"))[2:]
        return [b"", b"\xff" * 9, wrong_id, wrong_name, good]

    async with upstream(forge) as (up, up_port), serving(up_port) as (_service, port):
        assert await dig(port, "+short", "example.org") == "192.0.2.0"
        assert up.asked == 1


async def test_answer_that_is_too_long_for_a_datagram_comes_over_tcp() -> None:
    async with (
        upstream(lambda query: [addresses(query, 100)]) as (_up, up_port),
        serving(up_port) as (_service, port),
    ):
        truncated = await dig(port, "+ignore", "+noedns", "example.org")
        assert " tc " in truncated
        assert len((await dig(port, "+short", "example.org")).splitlines()) == 100


async def test_next_upstream_is_asked_when_one_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns, "ATTEMPT_S", 0.2)
    async with (
        upstream(lambda query: [addresses(query)]) as (_up, up_port),
        serving(up_port, (SILENT_UPSTREAM, LOOPBACK)) as (_service, port),
    ):
        assert await dig(port, "+short", "example.org") == "192.0.2.0"


async def test_nobody_upstream_is_a_server_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns, "ATTEMPT_S", 0.1)
    async with upstream(lambda query: []) as (up, up_port), serving(up_port) as (service, port):
        assert "status: SERVFAIL" in await dig(port, "example.org")
        assert (up.asked, service.outcomes["upstream silent"]) == (2, 1)


async def test_zone_only_server_is_silent_about_the_rest() -> None:
    async with serving(rest=Rest.SILENT) as (service, port):
        assert "timed out" in await dig(port, "+time=1", "example.org")
        assert service.outcomes["not ours"] == 1
        assert await dig(port, "+short", "pi5-1.attic.internal") == "192.168.86.33"


async def test_any_free_port_is_one_that_is_free_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def bind(address: IPv4Address, port: int, service: str) -> socket.socket:
        tried.append(port)
        if len(tried) == 1:
            raise PxeError("another program holds it", "Stop it.")
        return bind_tcp(address, port, service)

    monkeypatch.setattr(dns, "bind_tcp", bind)
    sockets = DnsSockets(LOOPBACK, 0)
    try:
        assert [sockets.port] == tried[1:]
    finally:
        sockets.close()


async def test_garbage_ends_nothing() -> None:
    async with serving() as (service, port):
        loop = asyncio.get_running_loop()
        transport, _protocol = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=("127.0.0.1", port)
        )
        for length in range(0, 60):
            transport.sendto(b"\xc0" * length)
        transport.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\0\4junk")
        assert await reader.read() == b""
        writer.close()
        assert await dig(port, "+short", "pi5-1.attic.internal") == "192.168.86.33"
        assert service.outcomes["malformed"] > 0
        assert service.outcomes["fault"] == 0


async def test_a_client_that_stays_connected_does_not_keep_the_service() -> None:
    async with serving() as (_service, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        query = DNSRecord.question("pi5-1.attic.internal").pack()
        writer.write(len(query).to_bytes(2) + query)
        await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
    async with asyncio.timeout(dns.IDLE_S / 2):
        assert await reader.read() == b""
    writer.close()


async def test_a_fault_on_a_connection_ends_that_connection_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as (service, port):
        with monkeypatch.context() as patch:
            patch.setattr(dns, "parse_query", lambda _data: 1 // 0)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"\0\1?")
            assert await reader.read() == b""
            writer.close()
        assert service.outcomes["fault"] == 1
        assert await dig(port, "+short", "+tcp", "pi5-1.attic.internal") == "192.168.86.33"
