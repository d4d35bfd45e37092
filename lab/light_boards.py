"""Many boards (1,024 and more) from one thread, over ordinary UDP sockets and without any rights.

The file order, request bytes, probes, block sizes and timeouts are the firmware's, the network below is this
machine's. Content that the firmware does not look into is counted and dropped, so a board costs a few KiB and
about ten microseconds of CPU for each block. Boot storms are measured with it; one board with a wire of its
own: `lab.netclient`.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Final

from fleet.boards import BootMode
from lab.bootloader.client import make_boot
from lab.bootloader.files import BoardResetError, BoardStuckError, Boot, FoundFile, Loader, ModeFailedError
from lab.bootloader.loader import load
from lab.bootloader.profile import AnyBoard, EepromProfile
from lab.bootloader.tftp import TFTP_PORT, Download, Outcome, PayloadCarrier

SWEEP_S: Final = 0.25
"""How often the timers of light boards are looked at; the firmware's shortest one is half a second."""
_MAX_DATAGRAM_BYTES: Final = 2048
_DATA_OPCODE: Final = b"\0\x03"


@dataclass(slots=True, kw_only=True)
class LightResult:
    """How one light board fared.

    Attributes:
        started, finished: `time.monotonic()` seconds; `finished` is None where time ran out.
        received_bytes: Content of all files.
        files: How many were read to their end; probes do not count.
        error: Why it did not boot; None where it did, or where time ran out.
    """

    board: AnyBoard
    started: float
    finished: float | None = None
    received_bytes: int = 0
    files: int = 0
    error: str | None = None

    @property
    def booted(self) -> bool:
        return self.finished is not None and self.error is None


def run_light_boards(
    boards: Sequence[AnyBoard],
    profile: EepromProfile,
    *,
    server: IPv4Address,
    tftp_port: int = TFTP_PORT,
    sources: Sequence[IPv4Address] | None = None,
    start_within_s: float = 0.0,
    timeout_s: float = 300.0,
    on_result: Callable[[LightResult], None] = lambda result: None,
) -> list[LightResult]:
    """Let boards that have their addresses already fetch everything that they boot, all at once.

    A server that does not answer is asked again after the firmware's five seconds, as a board with
    NET_BOOT_MAX_RETRIES=-1 would: one that starts late finds them all waiting.

    Args:
        boards: Each with a serial of its own.
        profile: Their EEPROM.
        server, tftp_port: Whom they ask.
        sources: An address of this machine for each board, as a server sees real boards; None: they all
            share the system's choice, and whatever cap the server has for one client.
        start_within_s: The boards are switched on evenly over this time.
        timeout_s: After which those that are not done count as failed.
        on_result: Called when a board is done.

    Returns:
        One result for each board, in their order.
    """
    started = time.monotonic()
    step = start_within_s / len(boards) if boards else 0.0
    runs = [
        _LightBoard(
            board,
            profile,
            server=(str(server), tftp_port),
            source=("" if sources is None else str(sources[place]), 0),
            start_at=started + step * place,
        )
        for place, board in enumerate(boards)
    ]
    poller = select.epoll()
    by_fd: dict[int, _LightBoard] = {}
    waiting = set(runs)
    end, sweep_at = started + timeout_s, started
    try:
        while waiting:
            now = time.monotonic()
            if now >= end:
                break
            if now >= sweep_at:
                # Fine steps until the last board is on; then only timers are left.
                sweep_at = now + (
                    min(SWEEP_S, max(step, 0.01)) if now < started + start_within_s else SWEEP_S
                )
                for run in list(waiting):
                    run.handle_timeout(now, poller, by_fd)
                    if run.result.finished is not None:
                        waiting.discard(run)
                        on_result(run.result)
            for fd, _ in poller.poll(max(0.0, sweep_at - now), 256):
                active = by_fd.get(fd)
                if active is None:
                    continue
                active.receive(time.monotonic(), poller, by_fd)
                if active.result.finished is not None:
                    waiting.discard(active)
                    on_result(active.result)
    finally:
        for run in runs:
            run.close(poller, by_fd)
        poller.close()
    return [run.result for run in runs]


@dataclass(slots=True, eq=False)
class _LightBoard:
    """One board on sockets: a fresh one for each request, like the firmware's fresh port."""

    board: AnyBoard
    profile: EepromProfile
    server: tuple[str, int] = field(kw_only=True)
    source: tuple[str, int] = field(kw_only=True)
    start_at: float = field(kw_only=True)
    result: LightResult = field(init=False)
    _boot: Boot = field(init=False)
    _loader: Loader | None = field(init=False, default=None)
    _download: Download | None = field(init=False, default=None)
    _socket: socket.socket | None = field(init=False, default=None)
    _is_connected: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.result = LightResult(board=self.board, started=self.start_at)
        self._boot = make_boot(self.board, self.profile, BootMode.NETWORK)

    def handle_timeout(self, now: float, poller: select.epoll, by_fd: dict[int, _LightBoard]) -> None:
        """Start, resend or give up, where it is due."""
        download = self._download
        if download is None:
            if now >= self.start_at and self.result.finished is None:
                self._loader = load(self._boot)
                self._ask(None, now, poller, by_fd, first=True)
            return
        if now >= download.next_timeout():
            download.handle_timeout(now)
            self._flush(download)
            if download.outcome is not None:
                self._finish(download, now, poller, by_fd)

    def receive(self, now: float, poller: select.epoll, by_fd: dict[int, _LightBoard]) -> None:
        """Take one datagram. The hot path."""
        download, sock = self._download, self._socket
        if download is None or sock is None:
            return
        try:
            if self._is_connected:
                data = sock.recv(_MAX_DATAGRAM_BYTES)
                port = download.server_port or 0
            else:
                data, (_host, port) = sock.recvfrom(_MAX_DATAGRAM_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:
            return  # nobody listens yet: like silence to a board, the request is repeated
        if self._is_connected and data[:2] == _DATA_OPCODE and len(data) >= 4:
            download.receive_data(data[2] << 8 | data[3], data[4:], now)
        else:
            download.receive(data, port, now)
            if not self._is_connected and download.server_port is not None:
                sock.connect((self.server[0], download.server_port))
                self._is_connected = True
        self._flush(download)
        if download.outcome is not None:
            self._finish(download, now, poller, by_fd)

    def _flush(self, download: Download) -> None:
        sock = self._socket
        if sock is None:
            return
        for payload in download.to_send:
            with contextlib.suppress(BlockingIOError, ConnectionError):
                if self._is_connected:
                    sock.send(payload)
                else:
                    sock.sendto(payload, self.server)
        download.to_send.clear()

    def _finish(
        self, download: Download, now: float, poller: select.epoll, by_fd: dict[int, _LightBoard]
    ) -> None:
        self.close(poller, by_fd)
        self._download = None
        self.result.received_bytes += download.received_bytes
        match download.outcome:
            case Outcome.FOUND:
                self.result.files += not download.request.probe
                self._ask(download.found, now, poller, by_fd)
            case Outcome.REFUSED:
                self._ask(None, now, poller, by_fd)
            case _ if download.request.stuck_on_timeout:
                self._end(f"{download.request.name}: no answer", now)
            case _:
                self.start_at = now + 5.0  # the firmware's pause before the network is tried again

    def _ask(
        self,
        answer: FoundFile | None,
        now: float,
        poller: select.epoll,
        by_fd: dict[int, _LightBoard],
        *,
        first: bool = False,
    ) -> None:
        if self._loader is None:
            return
        try:
            request = next(self._loader) if first else self._loader.send(answer)
        except StopIteration:
            self._end(None, now)
            return
        except (ModeFailedError, BoardStuckError, BoardResetError) as error:
            self._end(str(error), now)
            return
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        sock.bind(self.source)
        self._socket, self._is_connected = sock, False
        self._download = Download(
            request,
            PayloadCarrier(),
            self.profile,
            port=sock.getsockname()[1],
            now=now,
            keeps_content=request.is_read,
        )
        by_fd[sock.fileno()] = self
        poller.register(sock.fileno(), select.EPOLLIN)
        self._flush(self._download)

    def _end(self, error: str | None, now: float) -> None:
        self.result.finished, self.result.error = now, error

    def close(self, poller: select.epoll, by_fd: dict[int, _LightBoard]) -> None:
        """Give the socket back."""
        if self._socket is not None:
            del by_fd[self._socket.fileno()]
            poller.unregister(self._socket.fileno())
            self._socket.close()
            self._socket = None
