"""The TFTP data plane: an epoll loop in a process of its own, which holds everything that it needs to answer.

The parent binds the socket, starts the process, and sends `BootTable` snapshots and address bindings down a
pipe; events come back up in batches. Nothing on the data path waits for the parent. When the pipe ends, so
does the process.

One socket per transfer, bound to the address that the request came for and connected to the client: the
kernel finds the transfer of a packet, and refuses packets of strangers with an ICMP error (where the core
alone would send ERROR 5). With `single_port` all go through the listening socket, for networks (NAT, a
Kubernetes service) that lead to that port only.

Each turn of the loop serves a few transfers, one window each, and then looks for requests: "not found" is
answered at once, however many transfers there are. What goes wrong in one transfer ends that one.
"""

from __future__ import annotations

import heapq
import logging
import select
import socket
import time
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import IPv4Address
from multiprocessing.connection import Connection
from typing import Final, TypeAlias

from pxe.boot.clients import ClientBook, Learn
from pxe.boot.content import Content, open_content
from pxe.boot.decision import Install
from pxe.boot.routes import Route, is_still_so, locate, route
from pxe.boot.table import BootTable
from pxe.events import BoardEvent
from pxe.net.ports import connect_udp, from_address, path_mtu, received_for
from pxe.net.sparse_log import SparseLog
from pxe.tftp.frames import FrameStore
from pxe.tftp.readiness import Readiness
from pxe.tftp.reflection import ReflectionGuard
from pxe.tftp.reports import EventPipe, TftpCounters, missing_event, outcome_event, progress_event
from pxe.tftp.sender import Channel, ConnectedChannel, Segmentation, SharedChannel
from pxe.tftp.session import Failed, Outcome, ReadSession
from pxe.tftp.settings import HEADERS_BYTES, WorkerSettings
from pxe.tftp.transfers import PROGRESS_EVERY_S, Asked, Transfer, TransferBook
from pxe.tftp.waiting import WaitingRoom
from pxe.tftp.wire import MINIMUM_BLKSIZE, Error, ErrorCode, Opcode, Request, TftpWireError, parse_packet

log = logging.getLogger(__name__)

REQUESTS_PER_ROUND: Final = 64
TRANSFERS_PER_ROUND: Final = 16
LISTEN_EVERY_S: Final = 0.0005
FEW: Final = 4  # transfers; with more, packets come often enough, and "not found" has to wait for nobody
ANCILLARY_BYTES: Final = 64
PACKET_BYTES: Final = 2048  # more than any request may have
ACK_BYTES: Final = 256
"""Of a packet within a transfer: an ACK has 4, and of an ERROR's text the beginning will do. Python makes a
buffer of this size for each packet, which costs 0.15 µs more with 2,048 bytes."""
COUNT_EVERY_S: Final = 1.0

Order: TypeAlias = BootTable | Learn | None
"""What the parent sends down: a new snapshot, an address binding, or None to stop."""


class TftpWorker:
    """Serves read requests from a snapshot of the boot table.

    Args:
        sock: bound, non-blocking, with IP_PKTINFO on.
        orders: from the parent.
        settings: bounds.
        table: the first snapshot.

    Attributes:
        counters: what it did so far.
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
        self._transfers = TransferBook(settings)
        self._waiting: WaitingRoom[Asked] = WaitingRoom()
        self._guard = ReflectionGuard()
        self._frames = FrameStore()
        self._timers: list[tuple[float, int, Transfer]] = []  # due · a number against ties · whose
        self._timers_set = 0
        self._events = EventPipe(orders)
        self._segmentation = Segmentation(settings.use_gso)
        self._ends_at: float | None = None
        self._is_over = False
        self._due = 0.0  # when the house wants to be kept
        self._listened_at = 0.0
        self._drop_log = SparseLog(log)
        self.counters = TftpCounters()
        self._counted_at = 0.0

    def run(self) -> None:
        """Serve until the parent says stop or is gone."""
        listening, orders = self._sock.fileno(), self._orders.fileno()
        self._epoll.register(listening, select.EPOLLIN)
        self._epoll.register(orders, select.EPOLLIN)
        transfers, wait, monotonic = self._transfers.by_fd, Readiness(self._epoll).wait, time.monotonic
        now, has_served = monotonic(), False
        try:
            self._orders.send([])  # up and running
            while not self._is_over:
                ready = wait(
                    self._due - now, TRANSFERS_PER_ROUND, is_soon=has_served and len(transfers) <= FEW
                )
                now, has_served = monotonic(), False
                for fd, _mask in ready:
                    transfer = transfers.get(fd)
                    if transfer is not None:
                        has_served = True
                        self._serve(transfer, now)
                    elif fd == orders:
                        self._take_orders()
                    elif fd == listening:
                        self._accept_requests(now)
                if len(ready) == TRANSFERS_PER_ROUND and now - self._listened_at > LISTEN_EVERY_S:
                    self._accept_requests(now)  # they might have to wait behind many transfers
                if now >= self._due:
                    self._keep_house(now)
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
            self._is_over = True

    def _stop_accepting(self) -> None:
        """From now on only what is under way is brought to its end, for as long as the grace period lasts."""
        if self._ends_at is None:
            self._ends_at = time.monotonic() + self._settings.grace_s
            self._due = 0.0
            if not self._settings.single_port:
                self._epoll.unregister(self._sock.fileno())

    def _flush_events(self, *, all_now: bool = False) -> None:
        try:
            self._events.flush(all_now=all_now)
        except OSError:
            self._is_over = True

    # Requests

    def _accept_requests(self, now: float) -> None:
        self._listened_at = now
        for _ in range(REQUESTS_PER_ROUND):
            try:
                data, ancillary, _flags, peer = self._sock.recvmsg(PACKET_BYTES, ANCILLARY_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                log.debug("TFTP receive failed", extra={"error": error.strerror})
                return
            try:
                self._accept(data, peer, received_for(ancillary), now)
            except Exception:  # one packet must not end the service
                self.counters.broken += 1
                self._drop_log.write(logging.ERROR, "TFTP request failed", {"peer": peer[0]}, traceback=True)

    def _accept(self, data: bytes, peer: tuple[str, int], ours: IPv4Address | None, now: float) -> None:
        self._guard.received(peer[0], len(data))
        running = self._transfers.find(peer)
        try:
            packet = parse_packet(data)
        except TftpWireError as error:
            self.counters.malformed += 1
            if error.answer is not None and running is None:
                self._refuse(peer, ours, error.answer, "malformed request")
            return
        if not isinstance(packet, Request):
            if running is not None and self._settings.single_port:
                self._handle(running, data, now)
            else:
                self.counters.malformed += 1  # a late packet: answering could go on for ever
        elif self._ends_at is not None:
            return
        elif packet.opcode is Opcode.WRQ:
            self._refuse(peer, ours, ErrorCode.ACCESS_VIOLATION, "this server only sends")
        elif running is not None and self._is_repetition(packet, running):
            self._handle(running, data, now)
        else:
            if running is not None:
                self._end(running)
            self._answer(Asked(packet, peer, ours), now, waited_s=0.0)

    def _is_repetition(self, request: Request, running: Transfer) -> bool:
        """Whether a client asks again because our answer was lost, and would be told the same now.

        A board that lost its power may ask from a port that it had before: a boot ROM counts from the same
        number after every reset. What one intent gave must not go on under the next, or under none.
        """
        if request != running.request or not running.session.is_untouched:
            return False
        client = self._clients.find(IPv4Address(running.client[0]))
        return is_still_so(running.route, request.filename, client, self._table, time.time())

    def _is_neighbour(self, address: str) -> bool:
        networks = self._settings.neighbours
        return not networks or any(IPv4Address(address) in network for network in networks)

    def _answer(self, asked: Asked, now: float, waited_s: float) -> None:
        """Say no, put it into the queue, or begin."""
        address = IPv4Address(asked.peer[0])
        found = route(asked.request.filename, self._clients.find(address), self._table, time.time())
        if found.node is not None:
            self._clients.learn(address, found.board)
        content = None
        if isinstance(found.answer, Install) and found.node is not None:
            location = locate(found.node.tree, found.parts)
            try:
                content = open_content(location) if location is not None else None
            except OSError as error:
                self._drop(asked.peer, error)
                return
        if content is None:
            self.counters.missing += 1
            self._refuse(asked.peer, asked.ours, ErrorCode.FILE_NOT_FOUND, "File not found")
            self._tell(missing_event(found))
            return
        asked = replace(asked, is_bulk=content.size > self._settings.bulk_bytes)
        ghost = self._transfers.find_ghost(asked.peer[0])
        if ghost is not None:
            self._end(ghost)
        if not self._transfers.may_start(asked.peer[0], asked):
            content.close()
            if not self._waiting.add(*asked.peer, asked, now - waited_s):
                self._drop(asked.peer, "the queue is full")
            return
        self._waiting.discard(*asked.peer)
        self._start(asked, found, content, now, waited_s)

    def _start(self, asked: Asked, found: Route, content: Content, now: float, waited_s: float) -> None:
        limits = self._settings.limits
        try:
            with ExitStack() as undo:
                undo.callback(content.close)
                channel: Channel
                if self._settings.single_port:
                    channel = SharedChannel(self._sock, asked.peer, asked.ours, self._segmentation)
                    session = ReadSession(asked.request, asked.peer, content, limits, self._frames, now)
                else:
                    sock = undo.enter_context(connect_udp(asked.ours, asked.peer))
                    blksize = max(min(limits.max_blksize, path_mtu(sock) - HEADERS_BYTES), MINIMUM_BLKSIZE)
                    if blksize < limits.max_blksize:
                        limits = replace(limits, max_blksize=blksize)
                    session = ReadSession(asked.request, asked.peer, content, limits, self._frames, now)
                    windowed = session.negotiated.windowsize > 1
                    channel = ConnectedChannel(
                        sock, self._segmentation, session.packet_bytes if windowed else None
                    )
                    self._epoll.register(sock.fileno(), select.EPOLLIN)
                undo.pop_all()
        except TftpWireError as error:
            self._refuse(asked.peer, asked.ours, error.answer or ErrorCode.NOT_DEFINED, error.message)
            return
        except OSError as error:
            self._drop(asked.peer, error)
            return
        transfer = Transfer(asked, channel, found, content, session, now, waited_s)
        transfer.has_credit = not session.negotiated.options and self._is_neighbour(asked.peer[0])
        self._transfers.add(transfer)
        self.counters.started += 1
        self._advance(transfer, now)
        self._set_timer(transfer)

    def _drop(self, peer: tuple[str, int], reason: object) -> None:
        """Leave a request without an answer: a client asks again, while after an error a bootloader goes on
        to its next file."""
        self.counters.dropped += 1
        self._drop_log.write(
            logging.WARNING, "TFTP request dropped", {"peer": peer[0], "reason": str(reason)}
        )

    def _refuse(self, peer: tuple[str, int], ours: IPv4Address | None, code: ErrorCode, text: str) -> None:
        packet = Error(code, text).encode()
        if not self._guard.allows(peer[0], len(packet)):
            return
        try:
            self._sock.sendmsg((packet,), [from_address(ours)] if ours is not None else [], 0, peer)
        except OSError as error:
            log.debug("TFTP error not sent", extra={"peer": peer[0], "error": error.strerror})

    # Transfers

    def _serve(self, transfer: Transfer, now: float) -> None:
        """A packet of a client has come on the transfer's own socket."""
        channel, session = transfer.channel, transfer.session
        try:
            data = transfer.receive(ACK_BYTES)
            if data == session.expected:
                if transfer.is_lock_step:
                    transfer.send(session.reply[0])
                else:
                    for piece in session.reply:
                        channel.send(piece, session.packet_bytes)
                session.advance(now)
                if now >= transfer.progress_at:
                    self._report_progress(transfer, now)
                return
        except BlockingIOError:
            return
        except OSError:
            self._client_gone(transfer)
            return
        except Exception:
            self._break(transfer)
            return
        self._handle(transfer, data, now)

    def _handle(self, transfer: Transfer, data: bytes, now: float) -> None:
        try:
            transfer.session.receive_datagram(data, transfer.client, now)
            self._advance(transfer, now)
        except Exception:  # a mistake of ours in one transfer must not end the others
            self._break(transfer)

    def _advance(self, transfer: Transfer, now: float) -> None:
        """Send what is due, and see whether it was the end."""
        session, client = transfer.session, transfer.client[0]
        proved = not session.is_untouched
        if proved:
            self._guard.proved(client)
        try:
            for _peer, packets, size in session.datagrams_to_send():
                if proved or self._guard.allows(client, len(packets), on_credit=transfer.has_credit):
                    transfer.channel.send(packets, size)
        except BlockingIOError:
            pass  # as if lost on the way
        except ConnectionRefusedError:
            self._client_gone(transfer)
            return
        except OSError as error:
            log.debug("TFTP packet not sent", extra={"error": error.strerror})
        outcome = session.next_event()
        if outcome is not None:
            self._finish(transfer, outcome, now)
        elif now >= transfer.progress_at:
            self._report_progress(transfer, now)

    def _report_progress(self, transfer: Transfer, now: float) -> None:
        transfer.progress_at = now + PROGRESS_EVERY_S
        done = transfer.session.acknowledged_bytes
        self._tell(progress_event(transfer.route, done, transfer.content.size))

    def _client_gone(self, transfer: Transfer) -> None:
        """ICMP port unreachable: the client has closed its end. Bootloaders do so right after they have
        ended a probe, others when they are interrupted."""
        done, size = transfer.session.acknowledged_bytes, transfer.content.size
        self._finish(transfer, Failed("the client is gone", done, size), time.monotonic())

    def _break(self, transfer: Transfer) -> None:
        self.counters.broken += 1
        log.exception("TFTP transfer broken off", extra={"peer": transfer.client[0]})
        self._end(transfer)

    def _finish(self, transfer: Transfer, outcome: Outcome, now: float) -> None:
        self.counters.count(outcome, transfer.session.acknowledged_bytes)
        seconds = now - transfer.started
        self._tell(
            outcome_event(transfer.route, outcome, seconds, transfer.session.statistics(transfer.queued_s))
        )
        self._end(transfer)

    def _end(self, transfer: Transfer) -> None:
        if not self._transfers.remove(transfer):
            return
        if transfer.fd >= 0:
            self._epoll.unregister(transfer.fd)
        transfer.channel.close()
        transfer.content.close()
        if self._waiting or self._ends_at is not None:
            self._due = 0.0  # the next one's turn, or the end

    def _start_waiting(self, now: float) -> None:
        """Begin what waits, as far as there is room."""
        self.counters.expired += self._waiting.expire(now)
        while (turn := self._waiting.take(now, self._transfers.may_start)) is not None:
            self._answer(turn.item, now, waited_s=now - turn.since)

    # Time

    def _keep_house(self, now: float) -> None:
        """Everything that is not a packet; says when it wants to be called again.

        Timers are not moved with every ACK: one that rings too early is set again.
        """
        while self._timers and self._timers[0][0] <= now:
            _due, _number, transfer = heapq.heappop(self._timers)
            if transfer not in self._transfers:
                continue  # it has ended
            try:
                transfer.session.handle_timeout(now)
                self._advance(transfer, now)
            except Exception:
                self._break(transfer)
            self._set_timer(transfer)
        if self._waiting and self._ends_at is None:
            self._start_waiting(now)
        if now >= self._counted_at + COUNT_EVERY_S:
            self._counted_at = now
            self.counters.expired += self._waiting.expire(now)
            self.counters.active, self.counters.waiting = len(self._transfers), len(self._waiting)
            self._events.count(self.counters)
        self._flush_events()
        if self._ends_at is not None and (not self._transfers or now >= self._ends_at):
            self._is_over = True
        self._due = now + COUNT_EVERY_S
        for due in (self._timers[0][0] if self._timers else None, self._events.next_timeout(), self._ends_at):
            if due is not None and due < self._due:
                self._due = due

    def _tell(self, event: BoardEvent) -> None:
        self._events.add(event)
        due = self._events.next_timeout()
        if due is not None and due < self._due:
            self._due = due

    def _set_timer(self, transfer: Transfer) -> None:
        deadline = transfer.session.next_timeout()
        if deadline is not None:
            self._timers_set += 1
            heapq.heappush(self._timers, (deadline, self._timers_set, transfer))
            if deadline < self._due:
                self._due = deadline

    def _close(self) -> None:
        for transfer in self._transfers:
            self._end(transfer)
        self._flush_events(all_now=True)
        self._epoll.close()
        self._sock.close()
        self._orders.close()
