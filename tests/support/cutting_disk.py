"""A disk whose power goes at a chosen write: what was not flushed may be there, in part, or not at all.

Model of a disk with a write-back cache: a sector is written whole or not; between two flushes the sectors
reach the medium in any order. The worst that a real disk does.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

SECTOR = 512


class PowerCut(BaseException):
    """Not an Exception: nothing of the installer may catch it, as nothing of it survives one."""


@dataclass
class Medium:
    """What outlives a power cut.

    Attributes:
        cut_at: The write, counted from 1, in the middle of which the power goes; None: it stays on.
        writes: Offset and length of each write since the power came on.
    """

    data: bytearray
    rng: random.Random
    cut_at: int | None = None
    writes: list[tuple[int, int]] = field(default_factory=list)
    pending: list[tuple[int, bytes]] = field(default_factory=list)

    def power_on(self, *, cut_at: int | None) -> None:
        self.cut_at = cut_at
        self.writes.clear()
        self.pending.clear()

    def write(self, offset: int, data: bytes) -> None:
        self.writes.append((offset, len(data)))
        self.pending.append((offset, bytes(self.data[offset : offset + len(data)])))
        self.data[offset : offset + len(data)] = data
        if len(self.writes) == self.cut_at:
            self._lose_power()
            raise PowerCut

    def flush(self) -> None:
        self.pending.clear()

    def _lose_power(self) -> None:
        """Of each write since the last flush some sectors, a row of them, never reached the medium."""
        for offset, before in reversed(self.pending):
            sectors = len(before) // SECTOR
            first, last = sorted((self.rng.randint(0, sectors), self.rng.randint(0, sectors)))
            if self.rng.random() < 0.5:
                first, last = 0, sectors
            start, end = first * SECTOR, last * SECTOR
            self.data[offset + start : offset + end] = before[start:end]
        self.pending.clear()

    @property
    def boots(self) -> bool:
        """Whether a board's firmware sees a partition table."""
        return self.data[510:512] == b"\x55\xaa"

    def opened(self) -> Callable[[Path], CuttingDisk]:
        """In the place of `agent.installer.device.TargetDisk`."""
        return lambda path: CuttingDisk(self, path)


class CuttingDisk:
    """The disk as the installer opens it."""

    def __init__(self, medium: Medium, path: Path) -> None:
        self._medium = medium
        self.path = path
        self.size_bytes = len(medium.data)

    def __enter__(self) -> CuttingDisk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        self._medium.write(offset, bytes(data))

    def flush(self) -> None:
        self._medium.flush()

    def read_back(self, offset: int, length: int) -> memoryview:
        return memoryview(self._medium.data)[offset : offset + length].toreadonly()
