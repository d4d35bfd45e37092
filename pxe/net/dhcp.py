"""The DHCP service: datagrams in, through the responder, datagrams out. Everything that DHCP means is in
the core.

A datagram can not end the service, not even with a fault of this program: that is counted and logged with its
traceback, and the next datagram is answered.

Leases are on the disk before their clients hear of them, and the disk is not waited for: what a message does
to the lease table is done at once, and the replies that depend on it are held until the next write has ended.
All that comes while one write runs goes into the next, so one sync serves as many clients as the disk is
slow. A reply that changes no lease (every OFFER) leaves at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from typing import Final, Protocol

from fleet.boards import MacAddress
from pxe.boot.clients import Learn
from pxe.dhcp.leases import Lease, LeaseTable
from pxe.dhcp.replies import BROADCAST, Action, Probe, Report, SendReply
from pxe.dhcp.wire import DhcpMessage, parse_request
from pxe.errors import WireError
from pxe.events import BoardEvent
from pxe.net.lease_store import LeaseStore
from pxe.net.link import Link, NeighbourProbe
from pxe.net.ports import from_address
from pxe.net.sparse_log import SparseLog

log = logging.getLogger(__name__)

MAXIMUM_DATAGRAM: Final = 65_535
RECEIVE_BURST: Final = 64
"""Datagrams that are answered before anything else on this loop has its turn: some ten milliseconds."""
RECEIVE_BUFFER_BYTES: Final = 4 << 20
"""What the kernel is asked to keep while this loop does other things; it may give less."""
SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h; takes CAP_NET_ADMIN
MAXIMUM_HELD: Final = 4096
"""Exchanges that may wait for the disk. With more, new messages are dropped: their clients ask again."""
LOGGED_BYTES: Final = 576  # of a datagram that met a fault: what every DHCP client must take, RFC 2131 §2
NEIGHBOUR_WAIT_S: Final = 0.3
PROBES_PER_S: Final = 64
"""A flood of DISCOVERs must not become a flood of ARP."""


class DhcpResponder(Protocol):
    """The core: full or proxy."""

    def respond(self, message: DhcpMessage, now: float) -> list[Action]: ...


class ConflictListener(Protocol):
    """A core that wants to know who has an address that it asked for."""

    def conflict(self, address: IPv4Address, holder: MacAddress, now: float) -> list[Action]: ...

    def not_asked(self, address: IPv4Address, now: float) -> None: ...


Respond = Callable[[DhcpMessage, float], list[Action]]


class DhcpService:
    """Runs one responder on one socket, or on two.

    Args:
        sock: bound and non-blocking; the service closes it.
        source: the address of ours that replies come from; a machine may have several on one interface.
        responder: the core.
        leases: whose changes are stored before replies are sent; None in proxy mode.
        store: where to; None in proxy mode.
        on_event: gets what happened.
        on_learn: gets which board is behind which address, before the reply that makes it so.
        boot_server: a second socket (port 4011) and the core's answer to what comes there.
        link: raw access to the cable; None without the right to it. The service closes it.
        on_conflict: gets who has an address that the core had probed; None: nothing is probed.
        on_foreign: gets what other servers say, with their addresses.

    Attributes:
        malformed: datagrams that were no DHCP requests.
        dropped: messages that came while too many replies waited for the disk.
        unsent: replies that are larger than a datagram, or that the kernel refused.
        faults: exceptions that nobody expected, each while one datagram was handled.
        paused: while the interface or its address is away nothing is answered.
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
        boot_server: tuple[socket.socket, Respond] | None = None,
        link: Link | None = None,
        on_conflict: ConflictListener | None = None,
        on_foreign: Callable[[DhcpMessage, IPv4Address], None] | None = None,
    ) -> None:
        self._sock = sock
        self._source = source
        self._responder = responder
        self._leases = leases
        self._store = store
        self._on_event = on_event
        self._on_learn = on_learn
        self._boot_server = boot_server
        self._link = link
        self._on_conflict = on_conflict
        self._on_foreign = on_foreign
        self._neighbours: NeighbourProbe | None = None
        self._held: deque[list[Action]] = deque()
        self._unstored: list[Lease] = []
        self._rewriting: Iterator[None] | None = None
        self._work = asyncio.Event()
        self._probes = 0
        self.malformed = 0
        self.dropped = 0
        self.unsent = 0
        self.faults = 0
        self.paused = False
        self._fault_log = SparseLog(log)
        self._send_log = SparseLog(log)
        self._store_log = SparseLog(log)

    async def run(self) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            self._listen(loop, stack)
            while True:
                await self._work.wait()
                self._work.clear()
                while self._held or self._rewriting is not None:
                    await self._commit()

    def attach_link(self) -> None:
        """Listen on the cable again: the interface came back as another device."""
        if self._link is not None:
            with self._surviving("attach"):
                self._link.attach()

    def _listen(self, loop: asyncio.AbstractEventLoop, stack: contextlib.ExitStack) -> None:
        sources: list[tuple[socket.socket, Callable[[], None]]] = [
            (self._sock, lambda: self._receive(self._sock, self._responder.respond))
        ]
        stack.enter_context(self._sock)
        _enlarge_buffer(self._sock)
        if self._boot_server is not None:
            sock, respond = self._boot_server
            stack.enter_context(sock)
            sources.append((sock, lambda: self._receive(sock, respond)))
        if self._link is not None:
            stack.callback(self._link.close)
            sources.append((self._link.arp_socket, self._hear_arp))
            if self._on_foreign is not None:
                sources.append((self._link.reply_socket, self._hear_replies))
        elif self._on_conflict is not None:
            self._neighbours = NeighbourProbe(self._conflict)
            stack.callback(self._neighbours.close)
        for sock, callback in sources:
            loop.add_reader(sock, callback)
            stack.callback(loop.remove_reader, sock)

    def _receive(self, sock: socket.socket, respond: Respond) -> None:
        for _ in range(RECEIVE_BURST):
            try:
                data = sock.recv(MAXIMUM_DATAGRAM)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # an ICMP error about an earlier reply, or the interface is down
                log.debug("DHCP receive failed", extra={"error": error.strerror})
                return
            if self.paused:
                continue
            if len(self._held) >= MAXIMUM_HELD:
                self.dropped += 1
                continue
            with self._surviving("answer", data):
                self._carry_out(self._respond(data, respond))

    def _respond(self, data: bytes, respond: Respond) -> list[Action]:
        try:
            message = parse_request(data)
        except WireError as error:
            self.malformed += 1
            log.debug("not a DHCP request", extra={"reason": error.message, "size": len(data)})
            return []
        return respond(message, time.time())

    def _carry_out(self, actions: list[Action]) -> None:
        """Act at once, or with the next write where leases have changed."""
        changes = self._leases.drain_changes() if self._leases is not None else []
        if changes and self._store is not None:
            self._unstored += changes
            self._held.append(actions)
            self._work.set()
            return
        self._act_all(actions)

    async def _commit(self) -> None:
        """Write what has changed, then do what waited for it."""
        held, self._held = self._held, deque()
        with self._surviving("store"):
            await self._store_changes()
        for actions in held:
            self._act_all(actions)

    async def _store_changes(self) -> None:
        if self._leases is None or self._store is None:
            return
        unstored, self._unstored = self._unstored, []
        self._begin_rewriting(self._store, self._leases)
        writing = asyncio.ensure_future(asyncio.to_thread(self._write, unstored))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            # The owner closes the file next; the thread has to be done with it.
            with contextlib.suppress(OSError):
                await writing
            raise
        except OSError as error:
            # A full disk must not keep boards from booting. Only a crash before the next success can cost
            # these leases, and then their clients renew them.
            self._unstored = unstored + self._unstored
            self._rewriting = None
            log.error("leases not stored", extra={"count": len(self._unstored), "error": error.strerror})

    def _begin_rewriting(self, store: LeaseStore, leases: LeaseTable) -> None:
        """Begin a new file where the old one has grown; the next writes fill it."""
        if self._rewriting is not None or not store.needs_rewrite(len(leases)):
            return
        try:
            self._rewriting = store.rewrite(list(leases))
        except OSError as error:
            fields = {"error": error.strerror}
            self._store_log.write(logging.WARNING, "the lease file can not be written anew", fields)

    def _write(self, leases: list[Lease]) -> None:
        """In a thread: one sync for all these leases, and one slice of a new file where one is written."""
        if self._store is None:
            return
        self._store.append(leases)
        if self._rewriting is not None and next(self._rewriting, _ENDED) is _ENDED:
            self._rewriting = None

    @contextmanager
    def _surviving(self, step: str, data: bytes = b"") -> Iterator[None]:
        """Go on after a fault: what one datagram brings about is no reason to leave all boards unanswered."""
        try:
            yield
        except Exception:
            self.faults += 1
            fields = {"step": step, "datagram": data[:LOGGED_BYTES].hex()}
            self._fault_log.write(logging.ERROR, "fault in the DHCP service", fields, traceback=True)

    def _act_all(self, actions: list[Action]) -> None:
        for action in actions:
            with self._surviving("act"):
                self._act(action)

    def _act(self, action: Action) -> None:
        match action:
            case SendReply():
                self._send(action)
            case Learn():
                self._on_learn(action)
            case Report(event):
                self._on_event(event)
            case Probe(address):
                self._probe(address)

    def _send(self, reply: SendReply) -> None:
        try:
            data = reply.encode()
            if reply.hardware is not None and self._link is not None and self._send_below(reply, data):
                return
            address = BROADCAST if reply.hardware is not None else reply.address
            self._sock.sendmsg([data], [from_address(self._source)], 0, (str(address), reply.port))
        except (OSError, WireError) as error:
            self.unsent += 1
            reason = error.message if isinstance(error, WireError) else error.strerror or str(error)
            fields = {"to": str(reply.address), "error": reason}
            self._send_log.write(logging.WARNING, "DHCP reply not sent", fields)

    def _send_below(self, reply: SendReply, data: bytes) -> bool:
        """Straight to the client's hardware address; False where the kernel does not do it."""
        if self._link is None or reply.hardware is None:
            return False
        source = (self._source, self._sock.getsockname()[1])
        try:
            target = (reply.address, reply.port)
            self._link.send(data, source=source, target=target, hardware=reply.hardware)
        except OSError as error:
            log.debug("raw DHCP reply not sent", extra={"error": error.strerror})
            return False
        return True

    def _probe(self, address: IPv4Address) -> None:
        if self._on_conflict is not None and not self._ask_cable(address):
            self._on_conflict.not_asked(address, time.time())

    def _ask_cable(self, address: IPv4Address) -> bool:
        """Whether it was asked: nothing follows from silence where it was not."""
        if self._probes >= PROBES_PER_S:
            return False
        loop = asyncio.get_running_loop()
        if self._probes == 0:
            loop.call_later(1.0, self._forget_probes)
        self._probes += 1
        try:
            if self._link is not None:
                self._link.probe(address)
            elif self._neighbours is not None:
                self._neighbours.probe(address)
                loop.call_later(NEIGHBOUR_WAIT_S, self._read_neighbours)
        except OSError as error:
            log.debug("address not probed", extra={"error": error.strerror})
            return False
        return True

    def _forget_probes(self) -> None:
        self._probes = 0

    def _read_neighbours(self) -> None:
        if self._neighbours is not None:
            with self._surviving("neighbours"):
                self._neighbours.read()

    def _hear_arp(self) -> None:
        if self._link is not None:
            for address, holder in self._link.holders():
                self._conflict(address, holder)

    def _conflict(self, address: IPv4Address, holder: MacAddress) -> None:
        if self._on_conflict is not None:
            with self._surviving("conflict"):
                self._carry_out(self._on_conflict.conflict(address, holder, time.time()))

    def _hear_replies(self) -> None:
        if self._link is not None and self._on_foreign is not None:
            for reply, source in self._link.replies():
                with self._surviving("foreign"):
                    self._on_foreign(reply, source)


def _enlarge_buffer(sock: socket.socket) -> None:
    """Ask for room for a storm of requests, beyond the system's limit where this process may (socket(7))."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
    except OSError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)


_ENDED: Final = object()
