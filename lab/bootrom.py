"""One board's firmware against any server: what `bramble lab bootrom` runs.

On a wire (`play_on_wire`) everything is the board's own; over sockets (`play_over_sockets`) the network mode
alone is played, from the first file on, without any rights.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from fleet.boards import BootMode
from lab.bootloader.client import make_boot
from lab.bootloader.faults import Fault, FaultyWire
from lab.bootloader.files import BoardResetError, BoardStuckError, BootFiles, FileRequest, ModeFailedError
from lab.bootloader.loader import load
from lab.bootloader.machine import Bootrom, Hardware
from lab.bootloader.profile import AnyBoard, EepromProfile
from lab.bootloader.tftp import TFTP_PORT, Download, Outcome, PayloadCarrier
from lab.events import EventKind, Notice
from lab.netclient import FramePort, run_bootrom

_MAX_DATAGRAM_BYTES: Final = 65535

Tell = Callable[[float, str, str], None]
"""Called with seconds since power-on, a kind, and a line."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a power-on ended.

    Attributes:
        files: What the kernel would be started with; None where there is nothing.
        reason: Why there is nothing.
        seconds: How long it took.
    """

    files: BootFiles | None
    reason: str
    seconds: float


class FaultyPort:
    """A wire with faults."""

    def __init__(self, port: FramePort, wire: FaultyWire) -> None:
        self.fd = port.fd
        self.wire = wire
        self._port = port
        self._doubled: list[bytes] = []

    def read(self) -> bytes | None:
        if self._doubled:
            return self._doubled.pop()
        while (frame := self._port.read()) is not None:
            passed = self.wire.pass_frame(frame)
            if passed:
                self._doubled += passed[1:]
                return passed[0]
        return None

    def write(self, frame: bytes) -> None:
        for passed in self.wire.pass_frame(frame):
            self._port.write(passed)


def play_on_wire(
    port: FramePort | None,
    hardware: Hardware,
    *,
    random_bits: Callable[[int], int],
    faults: Sequence[Fault] = (),
    timeout_s: float,
    tell: Tell,
) -> Ending:
    """Power a board on and follow it until it has something to start, or time is over."""
    started = time.monotonic()
    wire = FaultyWire(tuple(faults))
    faulty = FaultyPort(port, wire) if port is not None else None
    rom = Bootrom(hardware, random_bits=random_bits, now=started)

    def on_notice(notice: Notice) -> None:
        tell(time.monotonic() - started, notice.kind.value, notice.text)

    def on_console(line: str) -> None:
        tell(time.monotonic() - started, "console", line)

    # A pulled plug is a fault of the wire: looked for after each short run.
    until = started + timeout_s
    while True:
        step = min(until, time.monotonic() + 0.05) if faults else until
        if run_bootrom(faulty, rom, on_notice=on_notice, on_console=on_console, until=step):
            break
        if wire.is_cut:
            return Ending(None, "the plug was pulled", time.monotonic() - started)
        if time.monotonic() >= until:
            return Ending(None, f"nothing was booted within {timeout_s:g} s", time.monotonic() - started)
    seconds = time.monotonic() - started
    if isinstance(rom.outcome, BootFiles):
        return Ending(rom.outcome, "", seconds)
    return Ending(None, str(rom.outcome), seconds)


def play_over_sockets(
    board: AnyBoard,
    profile: EepromProfile,
    *,
    server: IPv4Address,
    tftp_port: int = TFTP_PORT,
    faults: Sequence[Fault] = (),
    tell: Tell,
) -> Ending:
    """Play the TFTP part of one network boot over this machine's UDP sockets."""
    started = time.monotonic()
    wire = FaultyWire(tuple(faults))
    loader = load(make_boot(board, profile, BootMode.NETWORK))

    def say(kind: EventKind, text: str) -> None:
        tell(time.monotonic() - started, kind.value, text)

    try:
        request = next(loader)
        while True:
            download = _fetch(request, profile, (str(server), tftp_port), wire)
            if wire.is_cut:
                return Ending(None, "the plug was pulled", time.monotonic() - started)
            match download.outcome:
                case Outcome.FOUND:
                    what = f"{download.found.size_bytes:,} bytes" + (" (probe)" if request.probe else "")
                    say(EventKind.FILE_FETCHED, f"{request.name}: {what}")
                    request = loader.send(download.found)
                case Outcome.REFUSED:
                    say(EventKind.FILE_MISSING, f"{request.name}: {download.reason}")
                    request = loader.send(None)
                case _:
                    silent_s = profile.settings.tftp_file_timeout_s
                    reason = f"{request.name}: no answer within {silent_s:g} s"
                    say(EventKind.STUCK if request.stuck_on_timeout else EventKind.MODE_FAILED, reason)
                    return Ending(None, reason, time.monotonic() - started)
    except StopIteration as stop:
        files: BootFiles = stop.value
        return Ending(files, "", time.monotonic() - started)
    except (ModeFailedError, BoardStuckError, BoardResetError) as error:
        kind = EventKind.MODE_FAILED if isinstance(error, ModeFailedError) else EventKind.STUCK
        say(kind, str(error))
        return Ending(None, str(error), time.monotonic() - started)


def _fetch(
    request: FileRequest, profile: EepromProfile, server: tuple[str, int], wire: FaultyWire
) -> Download:
    """One download over a fresh socket, like the firmware's fresh port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind(("", 0))
        download = Download(
            request, PayloadCarrier(), profile, port=sock.getsockname()[1], now=time.monotonic()
        )
        while True:
            for payload in download.to_send:
                target = (server[0], download.server_port) if download.server_port else server
                for passed in wire.pass_payload(payload):
                    with contextlib.suppress(OSError):
                        sock.sendto(passed, target)
            download.to_send.clear()
            if download.outcome is not None or wire.is_cut:
                return download
            wait_s = max(0.0, download.next_timeout() - time.monotonic())
            ready, _, _ = select.select([sock], [], [], wait_s)
            now = time.monotonic()
            if not ready:
                download.handle_timeout(now)
                continue
            try:
                data, (_host, port) = sock.recvfrom(_MAX_DATAGRAM_BYTES)
            except (BlockingIOError, ConnectionError):
                continue
            for passed in wire.pass_payload(data):
                download.receive(passed, port, now)
