"""The thin shell around the pure firmware: one board on a wire, with timers on the monotonic clock.

The wire carries Ethernet frames (`lab.tap.Tap`, or `PacketPort` on any interface): everything is the board's
own, its MAC, its ARP, its TCP. Many boards without any of that: `lab.light_boards`.
"""

from __future__ import annotations

import contextlib
import secrets
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Protocol, Self

from lab.bootloader.client import FIRST_PORT, NetworkBoot, NetworkOutcome
from lab.bootloader.files import (
    BootFiles,
)
from lab.bootloader.machine import Bootrom
from lab.bootloader.profile import AnyBoard, EepromProfile
from lab.errors import LabError
from lab.events import Notice
from lab.tap import Tap

_PORT_SPREAD: Final = 8192
_ETH_P_ALL: Final = 0x0003
_SOL_PACKET: Final = 263
_PACKET_ADD_MEMBERSHIP: Final = 1
_PACKET_MR_PROMISC: Final = 1
_MAX_FRAME_BYTES: Final = 65536


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
