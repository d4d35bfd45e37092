"""The DNS service: queries over UDP and TCP in, through the responder, answers out; the rest asked upstream.

Each forwarded query has a socket of its own, connected to the server that is asked: the kernel then takes
answers from that address only, to a port that nobody can guess (RFC 5452). There is a bound on open ones.

Neither a datagram nor a connection can end the service, not even with a fault of this program; and no
connection keeps it from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address
from typing import Final, TypeAlias

from pxe.dns.core import NameSettings, Relay, Reply, Silence, failure, respond
from pxe.dns.wire import (
    MAXIMUM_MESSAGE,
    MAXIMUM_QUERY,
    Query,
    is_answer_to,
    parse_query,
    truncate,
    with_id,
)
from pxe.errors import PxeError, WireError
from pxe.net.ports import bind_tcp, bind_udp
from pxe.net.sparse_log import SparseLog

log = logging.getLogger(__name__)

DNS_PORT: Final = 53
ANY_PORT_TRIES: Final = 8
"""The kernel's choice for UDP may be taken for TCP."""
ATTEMPT_S: Final = 1.5
"""How long one upstream server is waited for; clients themselves ask again after 5 s."""
ROUNDS: Final = 2
MAXIMUM_FORWARDED: Final = 256
"""Queries that wait for upstream answers at once; more are answered SERVFAIL at once."""
MAXIMUM_CONNECTIONS: Final = 64
IDLE_S: Final = 10.0  # RFC 7766 §6.2.3: a connection without queries is closed after seconds
BATCH: Final = 64
OUTCOMES: Final = (
    "answered",
    "no such name",
    "no such record",
    "forwarded",
    "upstream silent",
    "too many forwarded",
    "not ours",
    "refused",
    "not implemented",
    "unknown EDNS version",
    "malformed",
    "fault",
)
"""How a query can end; a forwarded one that nobody answers counts twice."""

Ask: TypeAlias = Callable[[bytes, IPv4Address, Query, int], Awaitable[bytes]]


class DnsSockets:
    """Both sockets of the service on one port, bound before anything runs.

    Args:
        port: 0 for any that is free.

    Raises:
        PxeError: from the constructor, when the port is taken or not allowed.
    """

    def __init__(self, address: IPv4Address, port: int) -> None:
        for tries_left in reversed(range(ANY_PORT_TRIES if port == 0 else 1)):
            try:
                self.udp, self.tcp = _bind_both(address, port)
                break
            except PxeError:
                if not tries_left:
                    raise
        self.port: int = self.udp.getsockname()[1]

    def close(self) -> None:
        self.udp.close()
        self.tcp.close()


def _bind_both(address: IPv4Address, port: int) -> tuple[socket.socket, socket.socket]:
    udp = bind_udp(address, port, "DNS", interface=None)
    try:
        return udp, bind_tcp(address, udp.getsockname()[1], "DNS")
    except PxeError:
        udp.close()
        raise


class DnsService:
    """Answers for one zone.

    Args:
        sockets: the service closes them.
        settings: the zone, and what becomes of other names.
        upstream_port: of the name servers that are asked.

    Attributes:
        outcomes: how many queries ended how, by the words of `OUTCOMES`.
    """

    def __init__(self, sockets: DnsSockets, settings: NameSettings, upstream_port: int = DNS_PORT) -> None:
        self._sockets = sockets
        self._settings = settings
        self._upstream_port = upstream_port
        self._forwarding = 0
        self._connections = 0
        self._tasks = asyncio.TaskGroup()
        self._fault_log = SparseLog(log)
        self.outcomes: Counter[str] = Counter()

    def update(self, settings: NameSettings) -> None:
        """Answer from another zone from the next query on."""
        self._settings = settings

    async def run(self) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            async with self._tasks:
                server = await asyncio.start_server(self._welcome, sock=self._sockets.tcp)
                loop.add_reader(self._sockets.udp, self._receive)
                try:
                    await asyncio.Event().wait()
                finally:
                    loop.remove_reader(self._sockets.udp)
                    server.close()  # not `wait_closed`: since Python 3.12 that waits for every client
        finally:
            self._sockets.close()

    def _receive(self) -> None:
        for _ in range(BATCH):
            try:
                data, peer = self._sockets.udp.recvfrom(MAXIMUM_MESSAGE)
            except OSError:  # nothing more, or an ICMP error about an earlier answer
                return
            try:
                self._answer_datagram(data, peer)
            except Exception:
                self._fault(data)

    def _answer_datagram(self, data: bytes, peer: tuple[str, int]) -> None:
        query = self._parse(data)
        if query is None:
            return
        answer = respond(query, IPv4Address(peer[0]), self._settings)
        self.outcomes[answer.outcome] += 1
        match answer:
            case Reply(reply):
                self._send(query, reply, peer)
            case Relay():
                self._tasks.create_task(self._forward_datagram(query, peer))
            case Silence():
                pass

    async def _forward_datagram(self, query: Query, peer: tuple[str, int]) -> None:
        try:
            self._send(query, await self._forward(query, self._ask_udp), peer)
        except Exception:
            self._fault(query.data)

    def _send(self, query: Query, answer: bytes, peer: tuple[str, int]) -> None:
        if len(answer) > query.udp_bytes:
            answer = truncate(answer)
        with contextlib.suppress(OSError):  # the client asks again
            self._sockets.udp.sendto(answer, peer)

    def _fault(self, data: bytes) -> None:
        """To be called where an exception is handled that nobody expected."""
        self.outcomes["fault"] += 1
        fields = {"datagram": data[:MAXIMUM_QUERY].hex()}
        self._fault_log.write(logging.ERROR, "fault in the DNS service", fields, traceback=True)

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._sockets.tcp.fileno() < 0:  # it was accepted in the moment in which the service ends
            writer.close()
        else:
            self._tasks.create_task(self._serve_connection(reader, writer))

    async def _serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one TCP client, query by query (RFC 7766): 0–1 length · 2–… the message."""
        self._connections += 1
        data = b""
        try:
            if self._connections > MAXIMUM_CONNECTIONS:
                return
            while True:
                async with asyncio.timeout(IDLE_S):
                    length = int.from_bytes(await reader.readexactly(2))
                    data = await reader.readexactly(length)
                reply = await self._answer_stream(data, IPv4Address(writer.get_extra_info("peername")[0]))
                if reply is None:
                    return
                writer.write(len(reply).to_bytes(2) + reply)
                async with asyncio.timeout(IDLE_S):
                    await writer.drain()
        except (TimeoutError, EOFError, OSError):
            pass  # the client went away, or never came to the point
        except Exception:
            self._fault(data)
        finally:
            self._connections -= 1
            writer.close()

    async def _answer_stream(self, data: bytes, client: IPv4Address) -> bytes | None:
        query = self._parse(data)
        if query is None:
            return None
        answer = respond(query, client, self._settings)
        self.outcomes[answer.outcome] += 1
        match answer:
            case Reply(reply):
                return reply
            case Relay():
                return await self._forward(query, self._ask_tcp)
            case Silence():
                return None

    def _parse(self, data: bytes) -> Query | None:
        try:
            return parse_query(data)
        except WireError as error:
            self.outcomes["malformed"] += 1
            log.debug("not a DNS query", extra={"reason": error.message, "size": len(data)})
            return None

    async def _forward(self, query: Query, ask: Ask) -> bytes:
        """The first upstream answer, under the client's id; SERVFAIL where there is none."""
        if self._forwarding >= MAXIMUM_FORWARDED:
            self.outcomes["too many forwarded"] += 1
            return failure(query)
        self._forwarding += 1
        try:
            for upstream in self._settings.upstreams * ROUNDS:
                message_id = secrets.randbelow(2**16)
                try:
                    async with asyncio.timeout(ATTEMPT_S):
                        answer = await ask(with_id(query.data, message_id), upstream, query, message_id)
                except (TimeoutError, EOFError, OSError):
                    continue
                return with_id(answer, query.id)
        finally:
            self._forwarding -= 1
        self.outcomes["upstream silent"] += 1
        return failure(query)

    async def _ask_udp(self, data: bytes, upstream: IPv4Address, query: Query, message_id: int) -> bytes:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.connect((str(upstream), self._upstream_port))
            await loop.sock_sendall(sock, data)
            while True:
                answer = await loop.sock_recv(sock, MAXIMUM_MESSAGE)
                if is_answer_to(query, answer, message_id):
                    return answer

    async def _ask_tcp(self, data: bytes, upstream: IPv4Address, query: Query, message_id: int) -> bytes:
        reader, writer = await asyncio.open_connection(str(upstream), self._upstream_port)
        try:
            writer.write(len(data).to_bytes(2) + data)
            await writer.drain()
            while True:
                answer = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
                if is_answer_to(query, answer, message_id):
                    return answer
        finally:
            writer.close()
