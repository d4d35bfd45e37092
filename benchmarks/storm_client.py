"""Many Raspberry Pi 5 boards that are switched on at once, as their TFTP server sees them.

    python -m benchmarks.storm_client PORT BOARDS FIRST_SERIAL SPREAD_S DEADLINE_S

Each board has an address and a serial of its own and asks for what a Pi 5's bootloader asks for, in its
order: probes that end with "Early terminate", files that are not there, kernel and initramfs, in lock-step at
blksize 1468, each request from a new port. Like the firmware it asks again after a second without an answer,
gives a file up after 30 s, and then starts over from the beginning. Content is counted and thrown away.

`lab.bootloader` plays a board frame by frame, with DHCP and all; this plays only the part that loads a TFTP
server, so that one processor can play a thousand. Prints one JSON line.

Sources: the order of requests as third parties logged it on a Pi 5; TFTP_FILE_TIMEOUT of Raspberry Pi's
documentation. The repetition after one second is ours, nothing is published about it.
"""

from __future__ import annotations

import heapq
import json
import random
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address
from typing import Final

SERVER: Final = "127.0.0.1"
FIRST_ADDRESS: Final = IPv4Address("127.2.0.1")
BLKSIZE: Final = 1468
RESEND_S: Final = 1.0
FILE_TIMEOUT_S: Final = 30.0
RESTART_S: Final = 5.0
OPTIONS: Final = b"octet\0tsize\x000\0blksize\x001468\0"
TERMINATE: Final = b"\0\5\0\0Early terminate\0"
HEADER: Final = struct.Struct("!HH")
DATA, ACK, ERROR, OACK = 3, 4, 5, 6

READ, PROBE = "read", "probe"
STEPS: Final = (
    ("config.txt", PROBE),
    ("config.txt", READ),
    ("pieeprom.sig", READ),
    ("bcm2712-rpi-5-b.dtb", READ),
    ("kernel_2712.img", PROBE),
    ("kernel_2712.img", READ),
    ("initramfs_2712", READ),
    ("overlays/overlay_map.dtb", READ),
    ("overlays/bcm2712d0.dtbo", READ),
    ("overlays/vc4-kms-v3d-pi5.dtbo", READ),
    ("cmdline.txt", READ),
    ("armstub8-2712.bin", READ),
)
"""What a Pi 5 asks for, after its own serial was found as a directory."""
MISSING: Final = frozenset(("pieeprom.sig", "armstub8-2712.bin"))


class Board:
    """One board and the file that it reads now."""

    __slots__ = (
        "ack",
        "address",
        "block",
        "deadline",
        "done",
        "expected",
        "heard",
        "resend_at",
        "restarts",
        "serial",
        "size",
        "sock",
        "step",
    )

    def __init__(self, number: int, first_serial: int) -> None:
        self.serial = first_serial + number
        self.address = str(FIRST_ADDRESS + number)
        self.sock: socket.socket | None = None
        self.step = 0
        self.block = 0
        self.size = 0
        self.restarts = 0
        self.heard = False
        self.done = False
        self.expected = b""
        self.ack = b""
        self.deadline = self.resend_at = 0.0


@dataclass(slots=True, kw_only=True)
class Result:
    """What became of the boards. `finished_s`: when the last board had everything."""

    boards: int
    complete: int = 0
    finished_s: float = 0.0
    received_bytes: int = 0
    restarts: int = 0
    wrong: int = 0
    first_s: float = 0.0


class Storm:
    """All boards, in one loop.

    Args:
        port: of the server.
        boards: how many.
        first_serial: of the first; the others count up.
        spread_s: within which they are switched on.
    """

    def __init__(self, port: int, boards: int, first_serial: int, spread_s: float) -> None:
        self._server = (SERVER, port)
        self._epoll = select.epoll()
        self._by_fd: dict[int, Board] = {}
        self._timers: list[tuple[float, int, Board]] = []
        self._buffer = bytearray(2048)
        self.result = Result(boards=boards)
        now = time.monotonic()
        self._started = now
        chance = random.Random(boards)
        for number in range(boards):
            board = Board(number, first_serial)
            heapq.heappush(self._timers, (now + chance.random() * spread_s, number, board))
        self._number = boards

    def run(self, deadline_s: float) -> Result:
        """Until every board has everything, or for so long."""
        ends_at = self._started + deadline_s
        while self.result.complete < self.result.boards:
            now = time.monotonic()
            if now >= ends_at:
                break
            while self._timers and self._timers[0][0] <= now:
                self._ring(heapq.heappop(self._timers)[2], now)
            wait_s = self._timers[0][0] - now if self._timers else 1.0
            ready = self._epoll.poll(min(max(wait_s, 0.0), 1.0), 64)
            now = time.monotonic()
            for fd, _mask in ready:
                board = self._by_fd.get(fd)
                if board is not None:
                    self._receive(board, now)
        return self.result

    def _ring(self, board: Board, now: float) -> None:
        """A timer: the board is switched on, asks again, or gives up."""
        if board.done:
            return
        if board.sock is None:
            if now < board.deadline:
                self._set_timer(board, board.deadline)
                return
            self._ask(board, now)
        elif now >= board.deadline:
            self._restart(board, now)
            self._set_timer(board, board.deadline)
            return
        elif now >= board.resend_at:
            self._send(board, board.ack if board.heard else self._request(board))
            board.resend_at = now + RESEND_S
        self._set_timer(board, min(board.resend_at, board.deadline))

    def _set_timer(self, board: Board, at: float) -> None:
        self._number += 1
        heapq.heappush(self._timers, (at, self._number, board))

    def _request(self, board: Board) -> bytes:
        name = STEPS[board.step][0]
        return f"\0\1{board.serial:08x}/{name}\0".encode() + OPTIONS

    def _ask(self, board: Board, now: float) -> None:
        """Begin the board's next file, from a port of its own."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        sock.bind((board.address, 0))
        board.sock, board.heard, board.block, board.size = sock, False, 0, 0
        board.expected = b"\0\3\0\1"
        board.deadline, board.resend_at = now + FILE_TIMEOUT_S, now + RESEND_S
        self._by_fd[sock.fileno()] = board
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        self._send(board, self._request(board))

    def _send(self, board: Board, packet: bytes) -> None:
        assert board.sock is not None
        try:
            if board.heard:
                board.sock.send(packet)
            else:
                board.sock.sendto(packet, self._server)
        except OSError:
            pass  # nobody listens: the board does not know that, and asks again

    def _close(self, board: Board) -> None:
        if board.sock is not None:
            self._epoll.unregister(board.sock.fileno())
            del self._by_fd[board.sock.fileno()]
            board.sock.close()
            board.sock = None

    def _restart(self, board: Board, now: float) -> None:
        self.result.restarts += 1
        board.restarts += 1
        board.step = 0
        self._close(board)
        board.deadline = now + RESTART_S  # until then it is busy with itself

    def _next(self, board: Board, now: float) -> None:
        self._close(board)
        board.step += 1
        if board.step == len(STEPS):
            board.done = True
            self.result.complete += 1
            self.result.finished_s = now - self._started
            self.result.first_s = self.result.first_s or self.result.finished_s
            return
        self._ask(board, now)

    def _receive(self, board: Board, now: float) -> None:
        sock, buffer = board.sock, self._buffer
        assert sock is not None
        try:
            if board.heard:
                length = sock.recv_into(buffer)
            else:
                length, peer = sock.recvfrom_into(buffer)
        except OSError:
            return
        if board.heard and buffer[:4] == board.expected:
            block = board.block = board.block + 1
            board.ack = ack = HEADER.pack(ACK, block & 0xFFFF)
            sock.send(ack)
            board.resend_at = now + RESEND_S
            board.expected = HEADER.pack(DATA, block + 1 & 0xFFFF)
            if length < BLKSIZE + 4:
                received = (block - 1) * BLKSIZE + length - 4
                self.result.received_bytes += received
                self.result.wrong += received != board.size
                self._next(board, now)
            return
        opcode = buffer[1]
        name, kind = STEPS[board.step]
        if opcode == ERROR:
            if name in MISSING:
                self._next(board, now)
            else:
                self._restart(board, now)
        elif opcode == OACK and not board.heard:
            texts = bytes(buffer[2:length]).split(b"\0")
            board.size = int(texts[texts.index(b"tsize") + 1])
            board.heard = True
            sock.connect(peer)
            if kind is PROBE:
                sock.send(TERMINATE)
                self._next(board, now)
                return
            board.ack = b"\0\4\0\0"
            sock.send(board.ack)
            board.resend_at = now + RESEND_S


def names() -> Iterator[str]:
    """The files that a server needs for this."""
    yield from dict.fromkeys(name for name, _kind in STEPS if name not in MISSING)


if __name__ == "__main__":
    _port, _boards, _serial, _spread, _deadline = sys.argv[1:6]
    _storm = Storm(int(_port), int(_boards), int(_serial, 16), float(_spread))
    print(json.dumps(asdict(_storm.run(float(_deadline)))))
