"""The DHCP service: datagrams in, through the responder, datagrams out. Everything that DHCP means is in
the core.

A datagram can not end the service, not even with a fault of this program: that is counted and logged with its
traceback, and the next datagram is answered.

Datagrams that wait together are answered together, so that their leases reach the disk with one sync.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from typing import Final, Protocol

from pxe.boot.clients import Learn
from pxe.dhcp.leases import Lease, LeaseTable
from pxe.dhcp.replies import Action, Report, SendReply
from pxe.dhcp.wire import MINIMUM_REPLY_BYTES, DhcpMessage, parse_request
from pxe.errors import WireError
from pxe.events import BoardEvent
from pxe.net.lease_store import LeaseStore
from pxe.net.ports import from_address
from pxe.net.sparse_log import SparseLog

log = logging.getLogger(__name__)

MAXIMUM_DATAGRAM: Final = 65_535
MAXIMUM_BATCH: Final = 256
QUEUE_SIZE: Final = 1024
LOGGED_BYTES: Final = 576  # of a datagram that met a fault: what every DHCP client must take, RFC 2131 §2


class DhcpResponder(Protocol):
    """The core: full or proxy."""

    def respond(self, message: DhcpMessage, now: float) -> list[Action]: ...


class DhcpService:
    """Runs one responder on one socket.

    Args:
        sock: bound and non-blocking; the service closes it.
        source: the address of ours that replies come from; a machine may have several on one interface.
        responder: the core.
        leases: whose changes are stored before replies are sent; None in proxy mode.
        store: where to; None in proxy mode.
        on_event: gets what happened.
        on_learn: gets which board is behind which address, before the reply that makes it so.

    Attributes:
        malformed: datagrams that were no DHCP requests.
        dropped: datagrams that came faster than they were answered.
        unsent: replies that are larger than a datagram, or that the kernel refused.
        faults: exceptions that nobody expected, each while one datagram was handled.
    """

    def __init__(
        self,
        sock: socket.socket,
        source: IPv4Address,
        responder: DhcpResponder,
        *,
        leases: LeaseTable | None,
        store: LeaseStore | None,
        on_event: Callable[[BoardEvent], None],
        on_learn: Callable[[Learn], None],
    ) -> None:
        self._sock = sock
        self._source = source
        self._responder = responder
        self._leases = leases
        self._store = store
        self._on_event = on_event
        self._on_learn = on_learn
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(QUEUE_SIZE)
        self._unstored: list[Lease] = []
        self.malformed = 0
        self.dropped = 0
        self.unsent = 0
        self.faults = 0
        self._fault_log = SparseLog(log)

    async def run(self) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._sock, self._receive)
        try:
            while True:
                batch = [await self._queue.get()]
                while len(batch) < MAXIMUM_BATCH and not self._queue.empty():
                    batch.append(self._queue.get_nowait())
                await self._answer(batch)
        finally:
            loop.remove_reader(self._sock)
            self._sock.close()

    def _receive(self) -> None:
        for _ in range(MAXIMUM_BATCH):
            try:
                data = self._sock.recv(MAXIMUM_DATAGRAM)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # an ICMP error about an earlier reply
                log.debug("DHCP receive failed", extra={"error": error.strerror})
                return
            try:
                self._queue.put_nowait(data)
            except asyncio.QueueFull:
                self.dropped += 1

    async def _answer(self, batch: list[bytes]) -> None:
        actions: list[Action] = []
        for data in batch:
            with self._surviving("answer", data):
                actions.extend(self._respond(data))
        with self._surviving("store"):
            await self._store_changes()
        for action in actions:
            with self._surviving("act"):
                self._act(action)

    @contextmanager
    def _surviving(self, step: str, data: bytes = b"") -> Iterator[None]:
        """Go on after a fault: what one datagram brings about is no reason to leave all boards unanswered."""
        try:
            yield
        except Exception:
            self.faults += 1
            fields = {"step": step, "datagram": data[:LOGGED_BYTES].hex()}
            self._fault_log.write(logging.ERROR, "fault in the DHCP service", fields, traceback=True)

    def _respond(self, data: bytes) -> list[Action]:
        try:
            message = parse_request(data)
        except WireError as error:
            self.malformed += 1
            log.debug("not a DHCP request", extra={"reason": error.message, "size": len(data)})
            return []
        return self._responder.respond(message, time.time())

    def _act(self, action: Action) -> None:
        match action:
            case SendReply():
                self._send(action)
            case Learn():
                self._on_learn(action)
            case Report(event):
                self._on_event(event)

    async def _store_changes(self) -> None:
        if self._leases is None or self._store is None:
            return
        self._unstored += self._leases.drain_changes()
        if not self._unstored:
            return
        try:
            await asyncio.to_thread(self._store.append, self._unstored)
            if self._store.needs_rewrite:
                await asyncio.to_thread(self._store.rewrite, list(self._leases))
        except OSError as error:
            # A full disk must not keep boards from booting. Only a crash before the next success can cost
            # these leases, and then their clients renew them.
            log.error("leases not stored", extra={"count": len(self._unstored), "error": error.strerror})
        else:
            self._unstored = []

    def _send(self, reply: SendReply) -> None:
        try:
            self._sock.sendmsg(
                [reply.message.encode(MINIMUM_REPLY_BYTES)],
                [from_address(self._source)],
                0,
                (str(reply.address), reply.port),
            )
        except (OSError, WireError) as error:
            self.unsent += 1
            reason = error.message if isinstance(error, WireError) else error.strerror or str(error)
            log.warning("DHCP reply not sent", extra={"to": str(reply.address), "error": reason})
