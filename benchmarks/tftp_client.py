"""A TFTP client that costs next to nothing, so that a figure shows the server and not the client.

    python -m benchmarks.tftp_client PORT NAME BLKSIZE WINDOWSIZE

One transfer from the loopback address: it acknowledges every window (RFC 7440), counts what comes, and throws
it away. Large receives (UDP_GRO) let the kernel hand over the packets of a window in one piece where the
sender made them in one piece, as a network card does with packets from a wire. Nothing is written and nothing
is hashed: what a client does with the bytes is not the server's doing. It is Python and not C because it is
never the limit: where packets come one by one it takes them three times as fast as any server sends them.

Prints one JSON line: bytes, seconds, and how many packets came that were not the expected ones. With
`--sha256` the content is put together and hashed; that is for the round that checks, not for the figures.
"""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import sys
import time
from dataclasses import asdict, dataclass
from typing import Final

from benchmarks.errors import BenchmarkError

LOOPBACK: Final = "127.0.0.1"
UDP_GRO: Final = 104  # linux/udp.h
BUFFER_BYTES: Final = 1 << 17
RECEIVE_BUFFER_BYTES: Final = 4 << 20
HEADER: Final = struct.Struct("!HH")
DATA, ACK, ERROR, OACK = 3, 4, 5, 6
BLOCKS: Final = 1 << 16
SILENCE_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What came. `repeated`: packets that were not the expected ones."""

    size_bytes: int
    seconds: float
    repeated: int
    sha256: str | None


def read_file(port: int, name: str, blksize: int, windowsize: int, *, hash_it: bool = False) -> Received:
    """Read a file from a server on the loopback address.

    Raises:
        BenchmarkError: the server refuses, or is silent.
    """
    started = time.perf_counter()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        sock.settimeout(SILENCE_S)
        words = [name, "octet", "blksize", str(blksize)]
        if windowsize > 1:
            words += ["windowsize", str(windowsize)]
        request = b"\0\1" + b"".join(word.encode() + b"\0" for word in words)
        sock.sendto(request, (LOOPBACK, port))
        try:
            answer, peer = sock.recvfrom(BUFFER_BYTES)
        except TimeoutError as exc:
            raise BenchmarkError(f"the server on port {port} does not answer") from exc
        opcode = int.from_bytes(answer[:2], "big")
        if opcode != OACK:
            raise BenchmarkError(f"the server answers {answer[:80]!r} to a request with options")
        texts = answer[2:].decode("ascii").split("\0")[:-1]
        granted = {key.lower(): value for key, value in zip(texts[::2], texts[1::2], strict=True)}
        sock.connect(peer)
        size, repeated, digest = _receive(
            sock, int(granted["blksize"]), int(granted.get("windowsize", "1")), hash_it
        )
    return Received(size_bytes=size, seconds=time.perf_counter() - started, repeated=repeated, sha256=digest)


def _receive(
    sock: socket.socket, blksize: int, windowsize: int, hash_it: bool
) -> tuple[int, int, str | None]:
    digest = hashlib.sha256() if hash_it else None
    buffer = bytearray(BUFFER_BYTES)
    view = memoryview(buffer)
    segment = blksize + HEADER.size
    block, in_window, size, repeated = 0, 0, 0, 0  # block: the last one that came in order
    gap_told = False
    sock.send(HEADER.pack(ACK, 0))
    while True:
        length = sock.recv_into(buffer)
        opcode, number = HEADER.unpack_from(buffer)
        if opcode != DATA:
            raise BenchmarkError(f"the server ended it: {bytes(view[:80])!r}")
        count = -(-length // segment)
        if number != (block + 1) % BLOCKS:
            repeated += count
            if not gap_told:
                gap_told, in_window = True, 0
                sock.send(HEADER.pack(ACK, block % BLOCKS))
            continue
        gap_told = False
        if digest is not None:
            for start in range(0, length, segment):
                digest.update(view[start + HEADER.size : min(start + segment, length)])
        block += count
        in_window += count
        size += length - HEADER.size * count
        if length % segment:
            sock.send(HEADER.pack(ACK, block % BLOCKS))
            return size, repeated, digest.hexdigest() if digest is not None else None
        if in_window >= windowsize:
            in_window = 0
            sock.send(HEADER.pack(ACK, block % BLOCKS))


if __name__ == "__main__":
    _port, _name, _blksize, _windowsize = sys.argv[1:5]
    _received = read_file(
        int(_port), _name, int(_blksize), int(_windowsize), hash_it="--sha256" in sys.argv[5:]
    )
    print(json.dumps(asdict(_received)))
