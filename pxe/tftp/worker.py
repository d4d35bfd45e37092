"""The TFTP data plane: an epoll loop in a process of its own, which holds everything that it needs to answer.

The parent binds the socket, starts the process, and sends `BootTable` snapshots and address bindings down a
pipe; events come back up in batches. Nothing on the data path waits for the parent. When the pipe ends, so
does the process.

One socket per transfer, bound to the address that the request came for and connected to the client: the
kernel finds the transfer of a packet, and refuses packets of strangers with an ICMP error (where the core
alone would send ERROR 5).
"""

from __future__ import annotations

import heapq
import logging
import resource
import select
import signal
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from multiprocessing.connection import Connection
from typing import Final, TypeAlias

from pxe.boot.clients import ClientBook, Learn
from pxe.boot.content import Content, open_content
from pxe.boot.decision import Install
from pxe.boot.routes import Route, locate, route
from pxe.boot.table import BootTable
from pxe.events import TransferStatistics
from pxe.net.ports import connect_udp, received_for
from pxe.net.sparse_log import SparseLog
from pxe.tftp.reports import EventPipe, missing_event, outcome_event, progress_event
from pxe.tftp.sender import PacketSender
from pxe.tftp.session import Failed, Outcome, ReadSession, SessionLimits
from pxe.tftp.wire import Error, ErrorCode, Opcode, Request, TftpWireError, parse_packet

log = logging.getLogger(__name__)

HEADER_BYTES: Final = 4
REQUESTS_PER_ROUND: Final = 64
ANCILLARY_BYTES: Final = 64
SEND_BUFFER_BYTES: Final = 1024 * 1024
PROGRESS_EVERY_S: Final = 1.0
LONGEST_WAIT_S: Final = 1.0
OWN_DESCRIPTORS: Final = 64  # of the worker itself, and for contents of several files
DESCRIPTORS_PER_TRANSFER: Final = 2  # a socket and a file

Order: TypeAlias = BootTable | Learn | None
"""What the parent sends down: a new snapshot, an address binding, or None to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Bounds of one worker.

    Args:
        limits: bounds of each transfer.
        max_transfers: at one time; requests beyond are not answered and come again.
        max_per_client: at one time for one address; the oldest makes room, for it is a ghost of an earlier
            boot.
        use_gso: hand windows to the kernel as one packet to be cut (UDP_SEGMENT).
        grace_s: how long transfers may go on after the order to stop.
    """

    limits: SessionLimits
    max_transfers: int = 1024
    max_per_client: int = 8
    use_gso: bool = True
    grace_s: float = 5.0


class _Transfer:
    """A session with its socket, its content and its place in the records."""

    __slots__ = ("client", "content", "progress_at", "route", "session", "sock", "started")

    def __init__(
        self,
        sock: socket.socket,
        client: tuple[str, int],
        found: Route,
        content: Content,
        session: ReadSession,
        now: float,
    ) -> None:
        self.sock = sock
        self.client = client
        self.route = found
        self.content = content
        self.session = session
        self.started = now
        self.progress_at = now + PROGRESS_EVERY_S


class TftpWorker:
    """Serves read requests from a snapshot of the boot table.

    Args:
        sock: bound, non-blocking, with IP_PKTINFO on.
        orders: from the parent.
        settings: bounds.
        table: the first snapshot.

    Attributes:
        malformed: datagrams that were no requests.
        dropped_requests: requests beyond `max_transfers`, or beyond what the kernel has descriptors for. They
            are not answered: a client asks again, while after an error a bootloader goes on to its next file.
    """

    def __init__(
        self, sock: socket.socket, orders: Connection, settings: WorkerSettings, table: BootTable
    ) -> None:
        self._sock = sock
        self._orders = orders
        self._settings = settings
        self._table = table
        self._clients = ClientBook()
        self._epoll = select.epoll()
        self._transfers: dict[int, _Transfer] = {}  # by file descriptor of the transfer's socket
        self._by_client: dict[str, dict[int, int]] = {}  # address → port → file descriptor, oldest first
        self._timers: list[tuple[float, int, _Transfer]] = []  # due · a number against ties · whose
        self._timers_set = 0
        self._events = EventPipe(orders)
        self._sender = PacketSender(settings.use_gso)
        self._ends_at: float | None = None
        self._orphaned = False
        self._drop_log = SparseLog(log)
        self.malformed = 0
        self.dropped_requests = 0

    def run(self) -> None:
        """Serve until the parent says stop or is gone."""
        listening, orders = self._sock.fileno(), self._orders.fileno()
        self._epoll.register(listening, select.EPOLLIN)
        self._epoll.register(orders, select.EPOLLIN)
        transfers = self._transfers
        try:
            self._orders.send([])  # up and running
            while not self._is_over():
                for fd, _mask in self._epoll.poll(self._wait_s()):
                    transfer = transfers.get(fd)
                    if transfer is not None:
                        self._receive(transfer)
                    elif fd == listening:
                        self._accept_requests()
                    elif fd == orders:
                        self._take_orders()
                self._run_timers()
                self._flush_events()
        finally:
            self._close()

    # The parent

    def _take_orders(self) -> None:
        try:
            while self._orders.poll():
                order: Order = self._orders.recv()
                match order:
                    case BootTable():
                        self._table = order
                    case Learn(address, board):
                        self._clients.learn(address, board)
                    case None:
                        self._stop_accepting()
        except (EOFError, OSError):
            self._orphaned = True

    def _stop_accepting(self) -> None:
        """From now on only what is under way is brought to its end, for as long as the grace period lasts."""
        if self._ends_at is None:
            self._ends_at = time.monotonic() + self._settings.grace_s
            self._epoll.unregister(self._sock.fileno())

    def _is_over(self) -> bool:
        if self._orphaned:
            return True
        return self._ends_at is not None and (not self._transfers or time.monotonic() >= self._ends_at)

    def _flush_events(self, *, all_now: bool = False) -> None:
        try:
            self._events.flush(all_now=all_now)
        except OSError:
            self._orphaned = True

    # Requests

    def _accept_requests(self) -> None:
        for _ in range(REQUESTS_PER_ROUND):
            try:
                data, ancillary, _flags, peer = self._sock.recvmsg(2048, ANCILLARY_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                log.debug("TFTP receive failed", extra={"error": error.strerror})
                return
            self._accept(data, peer, received_for(ancillary))

    def _accept(self, data: bytes, peer: tuple[str, int], ours: IPv4Address | None) -> None:
        try:
            packet = parse_packet(data)
        except TftpWireError as error:
            self.malformed += 1
            if error.answer is not None:
                self._refuse(peer, error.answer, "malformed request")
            return
        if not isinstance(packet, Request):
            self.malformed += 1  # a late packet of a transfer that has ended: answering could go on for ever
        elif packet.opcode is Opcode.WRQ:
            self._refuse(peer, ErrorCode.ACCESS_VIOLATION, "this server only sends")
        else:
            self._answer(packet, peer, ours)

    def _answer(self, request: Request, peer: tuple[str, int], ours: IPv4Address | None) -> None:
        ports = self._by_client.get(peer[0], {})
        running = self._transfers.get(ports.get(peer[1], -1))
        if running is not None:
            if running.session.is_untouched:
                return  # the client repeats its request: the running transfer repeats its answer
            self._end(running)
        wall = time.time()
        address = IPv4Address(peer[0])
        found = route(request.filename, self._clients.find(address), self._table, wall)
        if found.node is not None:
            self._clients.learn(address, found.board)
        content = None
        if isinstance(found.answer, Install) and found.node is not None:
            location = locate(found.node.tree, found.parts)
            try:
                content = open_content(location) if location is not None else None
            except OSError as error:
                self._drop(peer, error)
                return
        if content is None:
            self._refuse(peer, ErrorCode.FILE_NOT_FOUND, "File not found")
            self._events.add(missing_event(found))
            return
        if len(self._transfers) >= self._settings.max_transfers:
            self._drop(peer, "all transfers are taken")
            content.close()
            return
        while len(ports) >= self._settings.max_per_client:
            self._end(self._transfers[next(iter(ports.values()))])
        self._start(request, peer, ours, found, content)

    def _start(
        self,
        request: Request,
        peer: tuple[str, int],
        ours: IPv4Address | None,
        found: Route,
        content: Content,
    ) -> None:
        now = time.monotonic()
        try:
            session = ReadSession(request, peer, content, self._settings.limits, now)
        except TftpWireError as error:
            content.close()
            self._refuse(peer, error.answer or ErrorCode.NOT_DEFINED, error.message)
            return
        try:
            with ExitStack() as undo:
                undo.callback(content.close)
                sock = undo.enter_context(connect_udp(ours, peer, SEND_BUFFER_BYTES))
                fd = sock.fileno()
                self._epoll.register(fd, select.EPOLLIN)
                undo.pop_all()
        except OSError as error:
            self._drop(peer, error)
            return
        transfer = _Transfer(sock, peer, found, content, session, now)
        self._transfers[fd] = transfer
        self._by_client.setdefault(peer[0], {})[peer[1]] = fd
        self._advance(transfer, now)
        self._set_timer(transfer)

    def _drop(self, peer: tuple[str, int], reason: object) -> None:
        self.dropped_requests += 1
        self._drop_log.write(
            logging.WARNING, "TFTP request dropped", {"peer": peer[0], "reason": str(reason)}
        )

    def _refuse(self, peer: tuple[str, int], code: ErrorCode, text: str) -> None:
        try:
            self._sock.sendto(Error(code, text).encode(), peer)
        except OSError as error:
            log.debug("TFTP error not sent", extra={"peer": peer[0], "error": error.strerror})

    # Transfers

    def _receive(self, transfer: _Transfer) -> None:
        now = time.monotonic()
        try:
            data = transfer.sock.recv(2048)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            # ICMP port unreachable: the client has closed its end. Bootloaders do so right after they have
            # ended a probe, others when they are interrupted.
            self._finish(
                transfer,
                Failed("the client is gone", transfer.session.acknowledged_bytes, transfer.content.size),
            )
            return
        transfer.session.receive_datagram(data, transfer.client, now)
        self._advance(transfer, now)

    def _advance(self, transfer: _Transfer, now: float) -> None:
        """Send what is due, and see whether it was the end."""
        session = transfer.session
        datagrams = session.datagrams_to_send()
        if datagrams:
            self._sender.send(transfer.sock, datagrams, HEADER_BYTES + session.negotiated.blksize)
        outcome = session.next_event()
        if outcome is not None:
            self._finish(transfer, outcome)
        elif now >= transfer.progress_at:
            transfer.progress_at = now + PROGRESS_EVERY_S
            self._events.add(
                progress_event(transfer.route, session.acknowledged_bytes, transfer.content.size)
            )

    def _finish(self, transfer: _Transfer, outcome: Outcome) -> None:
        session = transfer.session
        statistics = TransferStatistics(
            blksize=session.negotiated.blksize,
            windowsize=session.negotiated.windowsize,
            retransmitted=session.retransmitted,
            timeouts=session.timeouts,
        )
        seconds = time.monotonic() - transfer.started
        self._events.add(outcome_event(transfer.route, outcome, seconds, statistics))
        self._end(transfer)

    def _end(self, transfer: _Transfer) -> None:
        fd = transfer.sock.fileno()
        if self._transfers.pop(fd, None) is None:
            return
        ports = self._by_client[transfer.client[0]]
        del ports[transfer.client[1]]
        if not ports:
            del self._by_client[transfer.client[0]]
        self._epoll.unregister(fd)
        transfer.sock.close()
        transfer.content.close()

    # Time

    def _run_timers(self) -> None:
        """Timers are not moved with every ACK: one that rings too early is set again."""
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _due, _number, transfer = heapq.heappop(self._timers)
            if self._transfers.get(transfer.sock.fileno()) is not transfer:
                continue  # it has ended
            transfer.session.handle_timeout(now)
            self._advance(transfer, now)
            self._set_timer(transfer)

    def _set_timer(self, transfer: _Transfer) -> None:
        deadline = transfer.session.next_timeout()
        if deadline is not None:
            self._timers_set += 1
            heapq.heappush(self._timers, (deadline, self._timers_set, transfer))

    def _wait_s(self) -> float:
        """Seconds until something is due."""
        dues = (
            self._timers[0][0] if self._timers else None,
            self._events.next_timeout(),
            self._ends_at,
        )
        due = min((due for due in dues if due is not None), default=None)
        return LONGEST_WAIT_S if due is None else min(max(due - time.monotonic(), 0.0), LONGEST_WAIT_S)

    def _close(self) -> None:
        for transfer in list(self._transfers.values()):
            self._end(transfer)
        self._flush_events(all_now=True)
        self._epoll.close()
        self._sock.close()
        self._orders.close()


def run_worker(sock: socket.socket, orders: Connection, settings: WorkerSettings, table: BootTable) -> None:
    """Main function of the worker process."""
    # ^C goes to the whole foreground group; the parent stops its workers itself, after their grace period.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    most = (raise_descriptor_limit() - OWN_DESCRIPTORS) // DESCRIPTORS_PER_TRANSFER
    bounded = replace(settings, max_transfers=max(min(settings.max_transfers, most), 1))
    TftpWorker(sock, orders, bounded, table).run()


def raise_descriptor_limit() -> int:
    """Let this process open as many files as it may; how many that are. Linux knows no "unlimited" here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:  # a sandbox forbids it
        log.debug("descriptor limit not raised", extra={"error": str(error)})
        return soft
    return hard
