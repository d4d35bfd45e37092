"""The thin shells around the pure firmware: it on real wires, with timers on the monotonic clock.

Two kinds, for two purposes:

- `run_bootrom` and `boot_from_network` give one board a wire of Ethernet frames (`lab.tap.Tap`, or
  `PacketPort` on any interface): everything is the board's own, its MAC, its ARP, its TCP.
- `run_light_boards` drives many boards (1,024 and more) from one thread over ordinary UDP sockets, without
  any rights: the file order, request bytes, probes, block sizes and timeouts are the firmware's, the network
  below is this machine's. Content that the firmware does not look into is counted and dropped, so a board
  costs a few KiB and about ten microseconds of CPU for each block. Boot storms are measured with it.
"""

from __future__ import annotations

import contextlib
import secrets
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from types import TracebackType
from typing import Final, Protocol, Self

from fleet.boards import BootMode
from lab.bootloader.client import FIRST_PORT, NetworkBoot, NetworkOutcome, make_boot
from lab.bootloader.files import (
    BoardResetError,
    BoardStuckError,
    Boot,
    BootFiles,
    FoundFile,
    Loader,
    ModeFailedError,
)
from lab.bootloader.loader import load
from lab.bootloader.machine import Bootrom
from lab.bootloader.profile import AnyBoard, EepromProfile
from lab.bootloader.tftp import TFTP_PORT, Download, Outcome, PayloadCarrier
from lab.errors import LabError
from lab.events import Notice
from lab.tap import Tap

_PORT_SPREAD: Final = 8192
_ETH_P_ALL: Final = 0x0003
_SOL_PACKET: Final = 263
_PACKET_ADD_MEMBERSHIP: Final = 1
_PACKET_MR_PROMISC: Final = 1
_MAX_FRAME_BYTES: Final = 65536

SWEEP_S: Final = 0.25
"""How often the timers of light boards are looked at; the firmware's shortest one is half a second."""
_MAX_DATAGRAM_BYTES: Final = 2048
_DATA_OPCODE: Final = b"\0\x03"


class FramePort(Protocol):
    """A wire: Ethernet frames, non-blocking."""

    fd: int

    def read(self) -> bytes | None:
        """The next frame; None where none is waiting."""

    def write(self, frame: bytes) -> None:
        """Send a frame; a wire may lose it."""


class PacketPort:
    """Frames on an interface of this machine, which becomes promiscuous: the board has a MAC of its own.

    Needs CAP_NET_RAW. A context manager.

    Raises:
        LabError: No such interface, or no permission.
    """

    def __init__(self, interface: str) -> None:
        try:
            self._socket = socket.socket(
                socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(_ETH_P_ALL)
            )
        except PermissionError as exc:
            raise LabError(
                f"raw frames on {interface} are not allowed",
                "Run it as root, or give CAP_NET_RAW; '--server ADDRESS' needs no rights, but does no DHCP.",
            ) from exc
        try:
            self._socket.bind((interface, 0))
            membership = struct.pack("iHH8s", socket.if_nametoindex(interface), _PACKET_MR_PROMISC, 0, b"")
            self._socket.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, membership)
        except OSError as exc:
            self._socket.close()
            raise LabError(
                f"{interface} can not be used: {exc.strerror}",
                "'ip link' shows the interfaces that there are.",
            ) from exc
        self.fd = self._socket.fileno()

    def read(self) -> bytes | None:
        """The next frame of somebody else; None where none is waiting."""
        while True:
            try:
                frame, address = self._socket.recvfrom(_MAX_FRAME_BYTES)
            except BlockingIOError:
                return None
            if address[2] != socket.PACKET_OUTGOING:
                return frame

    def write(self, frame: bytes) -> None:
        """Send a frame; one that the kernel does not take is lost."""
        with contextlib.suppress(OSError):
            self._socket.send(frame)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Machine(Protocol):
    """What both pure machines have."""

    console: list[str]

    @property
    def outcome(self) -> object: ...

    def receive_frame(self, frame: bytes, now: float) -> None: ...

    def handle_timeout(self, now: float) -> None: ...

    def next_timeout(self) -> float | None: ...

    def frames_to_send(self) -> Sequence[bytes]: ...

    def next_notice(self) -> Notice | None: ...


def boot_from_network(
    tap: Tap,
    board: AnyBoard,
    profile: EepromProfile,
    *,
    wake_fd: int,
    on_notice: Callable[[Notice], None],
) -> BootFiles | None:
    """Run the network mode alone to its end.

    Returns:
        The files; None where `wake_fd` became readable, that is, the plug was pulled.

    Raises:
        ModeFailedError: The next boot mode's turn.
        BoardStuckError: The board needs a power cycle.
        BoardResetError: The board has written itself a new EEPROM image.
    """
    boot = NetworkBoot(
        board,
        profile,
        xid=secrets.randbits(32),
        first_port=FIRST_PORT + secrets.randbelow(_PORT_SPREAD),
        now=time.monotonic(),
    )
    if not _drive(boot, tap, wake_fd=wake_fd, on_notice=on_notice):
        return None
    outcome: NetworkOutcome | None = boot.outcome
    if isinstance(outcome, BootFiles):
        return outcome
    if outcome is None:
        raise RuntimeError("the network mode ended without an outcome")
    raise outcome


def run_bootrom(
    port: FramePort | None,
    rom: Bootrom,
    *,
    wake_fd: int | None = None,
    on_notice: Callable[[Notice], None],
    on_console: Callable[[str], None] = lambda line: None,
    until: float | None = None,
) -> bool:
    """Run a board's firmware until it has an outcome.

    Args:
        port: Its wire; None for a board without a cable.
        rom: Made with `now=time.monotonic()`.
        wake_fd: Becomes readable when the plug is pulled.
        on_notice: Gets what happens.
        on_console: Gets the lines of the firmware's text.
        until: `time.monotonic()` at which it is switched off; None for no end.

    Returns:
        Whether there is an outcome; False where the plug was pulled or the time is over.
    """
    return _drive(rom, port, wake_fd=wake_fd, on_notice=on_notice, on_console=on_console, until=until)


def _drive(
    machine: _Machine,
    port: FramePort | None,
    *,
    wake_fd: int | None,
    on_notice: Callable[[Notice], None],
    on_console: Callable[[str], None] = lambda line: None,
    until: float | None = None,
) -> bool:
    poller = select.epoll(2)
    try:
        for fd in (port.fd if port else None, wake_fd):
            if fd is not None:
                poller.register(fd, select.EPOLLIN)
        while True:
            for frame in machine.frames_to_send():
                if port is not None:
                    port.write(frame)
            while (notice := machine.next_notice()) is not None:
                on_notice(notice)
            for line in machine.console:
                on_console(line)
            machine.console.clear()
            if machine.outcome is not None:
                return True
            now = time.monotonic()
            if until is not None and now >= until:
                return False
            deadline = machine.next_timeout()
            due = [moment for moment in (deadline, until) if moment is not None]
            ready = poller.poll(max(0.0, min(due) - now) if due else None)
            if any(fd == wake_fd for fd, _ in ready):
                return False
            now = time.monotonic()
            received = port.read() if ready and port is not None else None
            if received is not None:
                machine.receive_frame(received, now)
            # A flood of other people's frames must not keep our own timers from running.
            if deadline is not None and now >= deadline:
                machine.handle_timeout(now)
    finally:
        poller.close()


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
