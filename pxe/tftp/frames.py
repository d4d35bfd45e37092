"""Packets of a file as they go over the wire: header and data side by side, read once for all who read along.

A chunk holds DATA packets of one file with one block size, as many as the kernel takes in one piece: a power
of two, so that windows of a power of two lie in it whole. In a boot storm many boards read one kernel at
about the same time: their chunks are the same bytes, so they are read and framed once and shared. What is
kept is bounded.

Layout of a chunk, for packet i of block number n: i·stride+0–1 opcode 3, +2–3 n mod 65536, then the data;
stride is the block size + 4, and only the file's last packet is shorter.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cache
from typing import Final

from pxe.boot.content import Content
from pxe.tftp.wire import DATA_HEADER, Opcode

CHUNK_BLOCKS: Final = 64  # UDP_MAX_SEGMENTS of kernels before 6.9
CHUNK_BYTES: Final = 65_507  # the largest payload of UDP over IPv4: a chunk can be sent as one piece
KEPT_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Chunk:
    """Packets of the blocks `first` to `end` (exclusive), side by side."""

    first: int
    end: int
    stride: int
    packets: memoryview

    def part(self, first: int, end: int) -> memoryview:
        """The packets of some of its blocks."""
        return self.packets[(first - self.first) * self.stride : (end - self.first) * self.stride]


class FrameStore:
    """Chunks of files that were read lately, the longest unused forgotten first.

    Args:
        kept_bytes: how much is kept at most.
    """

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept_bytes = kept_bytes
        self._chunks: OrderedDict[tuple[Hashable, int, int], Chunk] = OrderedDict()
        self._bytes = 0

    def chunk(self, content: Content, blksize: int, block: int) -> Chunk:
        """The chunk in which a block is. Blocks count from 1 without an end.

        Raises:
            OSError: the content can not be read, or has become shorter.
        """
        blocks = _blocks_in_chunk(blksize)
        index = (block - 1) // blocks
        identity = content.identity
        if identity is None:
            return _read(content, blksize, index * blocks + 1, blocks)
        key = (identity, blksize, index)
        chunk = self._chunks.get(key)
        if chunk is None:
            chunk = self._chunks[key] = _read(content, blksize, index * blocks + 1, blocks)
            self._bytes += len(chunk.packets)
            while self._bytes > self._kept_bytes and len(self._chunks) > 1:
                _key, oldest = self._chunks.popitem(last=False)
                self._bytes -= len(oldest.packets)
        else:
            self._chunks.move_to_end(key)
        return chunk


@cache
def _blocks_in_chunk(blksize: int) -> int:
    most = min(CHUNK_BLOCKS, CHUNK_BYTES // (DATA_HEADER.size + blksize))
    return 1 << max(most.bit_length() - 1, 0)


def _read(content: Content, blksize: int, first: int, blocks: int) -> Chunk:
    stride = DATA_HEADER.size + blksize
    end = min(first + blocks, content.size // blksize + 2)  # one behind the file's last block
    start = (first - 1) * blksize
    count = end - first
    data_bytes = min(count * blksize, content.size - start)
    buffer = bytearray(DATA_HEADER.size * count + data_bytes)
    numbers = range(first, end)
    buffer[1::stride] = bytes((Opcode.DATA,)) * count
    buffer[2::stride] = bytes([number >> 8 & 0xFF for number in numbers])
    buffer[3::stride] = bytes([number & 0xFF for number in numbers])
    view = memoryview(buffer)
    holes = [
        view[position + DATA_HEADER.size : position + stride]
        for position in range(0, len(buffer), stride)
        if position + DATA_HEADER.size < len(buffer)
    ]
    if holes:
        content.read_into(holes, start)
    return Chunk(first, end, stride, view.toreadonly())
