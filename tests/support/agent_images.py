"""Small images for the installer, and a content server that can fail in every way."""

from __future__ import annotations

import hashlib
import http.server
import json
import random
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import zstandard
from quiet_server import QuietServer

from agent.protocol import (
    Hardware,
)

MIB = 1024 * 1024
SECTOR = 512
HARDWARE = Hardware(
    serial="10000000abcdef01",
    model="Raspberry Pi 5 Model B Rev 1.0",
    macs=("2c:cf:67:00:00:01",),
    memory_bytes=4 * 1024 * MIB,
    revision=0xD04171,
)


@dataclass(frozen=True)
class FakeImage:
    """A raw image of a boot and a root partition, sealed the way the image factory does it."""

    raw: bytes
    compressed: bytes
    index: bytes
    chunks: tuple[tuple[int, int], ...]
    """(offset, length) of what is mapped."""
    boot_sector: int

    @property
    def source_fields(self) -> dict[str, Any]:
        return {
            "image_id": "cafe0123",
            "index_sha256": hashlib.sha256(self.index).hexdigest(),
            "size_bytes": len(self.raw),
        }


def make_table(boot_start: int, boot_sectors: int, root_start: int, root_sectors: int) -> bytes:
    """Sector 0 with two partitions."""
    sector = bytearray(SECTOR)
    struct.pack_into("<I", sector, 440, 0x11223344)
    struct.pack_into("<B3xB3xII", sector, 446, 0, 0x0C, boot_start, boot_sectors)
    struct.pack_into("<B3xB3xII", sector, 462, 0, 0x83, root_start, root_sectors)
    sector[510:512] = b"\x55\xaa"
    return bytes(sector)


def make_image(seed: int = 1, *, size_mib: int = 24, chunk_bytes: int = MIB) -> FakeImage:
    """Boot partition at 2 MiB, root at 8 MiB; mapped ranges with holes of zeros between them."""
    rng = random.Random(seed)
    size = size_mib * MIB
    raw = bytearray(size)
    raw[:SECTOR] = make_table(4096, 6 * 2048, 8 * 2048, (size - 8 * MIB) // SECTOR)
    raw[SECTOR:4096] = rng.randbytes(4096 - SECTOR)
    spans = [
        (0, MIB),
        (2 * MIB, 4 * MIB - 12288),
        (8 * MIB, 3 * MIB),
        (12 * MIB + 4096, 6 * MIB),
        (size - MIB, MIB),
    ]
    for offset, length in spans[1:]:
        raw[offset : offset + length] = rng.randbytes(length // 2) + bytes(length - length // 2)
    return seal(bytes(raw), spans, chunk_bytes, boot_sector=2 * MIB)


def seal(raw: bytes, spans: list[tuple[int, int]], chunk_bytes: int, *, boot_sector: int) -> FakeImage:
    """Frames per chunk, frames of zeros in between, index."""
    compressor = zstandard.ZstdCompressor(level=1)
    compressed = bytearray()
    entries = []
    chunks = []
    position = 0
    for offset, length in [*spans, (len(raw), 0)]:
        if offset > position:
            compressed += compressor.compress(raw[position:offset])
        for start in range(offset, offset + length, chunk_bytes):
            data = raw[start : min(start + chunk_bytes, offset + length)]
            frame = compressor.compress(data)
            entries.append(
                {
                    "offset": start,
                    "length": len(data),
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "position": len(compressed),
                    "compressed_bytes": len(frame),
                }
            )
            chunks.append((start, len(data)))
            compressed += frame
        position = offset + length
    index = json.dumps({"version": 1, "image_id": "cafe0123", "size_bytes": len(raw), "chunks": entries})
    return FakeImage(raw, bytes(compressed), index.encode(), tuple(chunks), boot_sector)


DELTA = (
    (440, b"\xaa\xbb\xcc\xdd"),
    (2 * MIB + 510, b"PATCH-OVER-BOOT-SECTOR-END"),
    (9 * MIB - 100, b"x" * 300),
    (11 * MIB + 50_000, b"in an unmapped place"),
    (600, b"in the gap behind the table"),
)


@dataclass
class Faults:
    """What goes wrong with the image, each a number of times; the counter is what the test asserts on."""

    truncate_after: int | None = None
    truncations: int = 0
    flip_at: int | None = None
    flips: int = 0
    fail_status: int = 503
    failures: int = 0
    ignore_range: bool = False
    requests: int = 0
    on_bytes: Callable[[int], None] = field(default=lambda _: None)


class ContentServer:
    """`/image.zst` with Range and `/index.json` over plain HTTP."""

    def __init__(self, image: FakeImage) -> None:
        self.image = image
        self.faults = Faults()
        self._lock = threading.Lock()
        self._server: QuietServer | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._answer(self)

            def log_message(self, format: str, *args: object) -> None:
                return

        self._server = QuietServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        with self._lock:
            self.faults.requests += 1
            if self.faults.failures > 0:
                self.faults.failures -= 1
                request.send_error(self.faults.fail_status)
                return
        body = self.image.index if request.path == "/index.json" else self.image.compressed
        start, end = 0, len(body)
        ranged = request.headers.get("Range")
        if ranged and not self.faults.ignore_range:
            first, last = ranged.removeprefix("bytes=").split("-")
            start, end = int(first), int(last) + 1
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(body)}")
        else:
            request.send_response(200)
        request.send_header("Content-Length", str(end - start))
        request.end_headers()
        data = bytearray(body[start:end])
        cut = None
        if request.path == "/image.zst":
            with self._lock:
                flip = self.faults.flip_at
                if flip is not None and self.faults.flips > 0 and start <= flip < end:
                    self.faults.flips -= 1
                    data[flip - start] ^= 0x10
                truncate = self.faults.truncate_after
                if truncate is not None and self.faults.truncations > 0 and len(data) > truncate:
                    self.faults.truncations -= 1
                    cut = truncate
        for position in range(0, len(data) if cut is None else cut, 65536):
            request.wfile.write(data[position : min(position + 65536, cut or len(data))])
            self.faults.on_bytes(start + position)
        if cut is not None:
            request.close_connection = True
