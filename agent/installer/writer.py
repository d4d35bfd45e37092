"""Put an image and a node delta onto a disk: invalidate, write, verify, commit.

The order is the safety: sector 0 is zero from INVALIDATE on, and gets its partition table as the very last
write of COMMIT. A disk that lost power in between starts nothing; the next attempt begins anew.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from agent.errors import AgentError
from agent.installer.device import VIEWS_KEPT
from agent.installer.index import Chunk, ImageIndex
from agent.installer.kept import RECORD_OFFSET, Kept, add_entries, encode_record, rest_of
from agent.installer.layout import (
    MIB,
    SECTOR_BYTES,
    ChunkWrite,
    Overlay,
    Range,
    WritePlan,
    grow_root,
    held_ranges,
    parse_partitions,
    plan_writes,
    subtract,
)
from agent.installer.occupant import MARKER_OFFSET

WIPE_BYTES = MIB
"""Zeroed at both ends: MBR and primary GPT at the start, the backup GPT at the end."""
FLUSH_EVERY_BYTES = 32 * MIB
"""Bounds the dirty pages on a board with little memory, and keeps the progress honest."""
MAX_ROUNDS = 3
"""Times that a range may come back wrong before the medium counts as broken."""

OnProgress = Callable[[int, int], None]
"""Called with bytes done and bytes in total."""


class Target(Protocol):
    """A disk, as `agent.installer.device.TargetDisk` offers it."""

    size_bytes: int

    def write_at(self, offset: int, data: bytes | memoryview) -> None: ...

    def flush(self) -> None: ...

    def read_back(self, offset: int, length: int) -> memoryview:
        """What the medium has; valid for `VIEWS_KEPT` further calls."""
        ...


class ChunkSource(Protocol):
    """Verified chunks; the bytes may be changed in place and are valid until the next step."""

    def __call__(self, chunks: Sequence[Chunk], /) -> Generator[tuple[Chunk, memoryview], None, None]: ...


@dataclass(frozen=True, slots=True)
class _Written:
    """A range on the disk and the digest that it must have. `origin` writes it again."""

    span: Range
    sha256: str
    origin: ChunkWrite | Overlay


class ImageWriter:
    """One install onto one disk. Call `invalidate`, `write`, `verify` and `commit` in this order.

    Args:
        marker: the sector of `agent.installer.occupant` by which the finished installation is known.
        kept: partitions behind the image that stay as they are (`agent.installer.kept`).
        root_bytes: what the root partition grows to at most; 0: as far as there is room. The rest becomes a
            partition that nobody formats, where nothing is kept there.
    """

    def __init__(
        self,
        target: Target,
        index: ImageIndex,
        delta: Sequence[Overlay],
        source: ChunkSource,
        *,
        marker: bytes,
        kept: Sequence[Kept] = (),
        root_bytes: int = 0,
    ) -> None:
        self._target = target
        self._index = index
        self._delta = tuple(delta)
        self._source = source
        self._marker = marker
        self._kept = tuple(kept)
        self._root_bytes = root_bytes
        self._numbers = {chunk.offset: number for number, chunk in enumerate(index.chunks)}
        self._plan: WritePlan | None = None
        self._held: dict[Range, bytearray] = {}
        self._written: dict[Range, _Written] = {}
        self._unflushed = 0
        self.bytes_written = 0
        self.bytes_verified = 0

    def invalidate(self) -> None:
        """Zero the first and the last MiB. From here until COMMIT nothing boots from this disk.

        What is kept is written down before, and is not touched.
        """
        size = self._target.size_bytes
        wiped = min(WIPE_BYTES, size)
        record = Range(RECORD_OFFSET, RECORD_OFFSET + SECTOR_BYTES)
        if self._kept:
            self._commit_bytes(record.offset, encode_record(self._kept))
        # By itself, before what it leads to: a GPT of which power left half must not count as a damaged one.
        self._zero(Range(0, SECTOR_BYTES), sparing=())
        self._zero(Range(0, wiped), sparing=(record,) if self._kept else ())
        self._zero(Range(size - wiped, size), sparing=[one.range for one in self._kept])
        if any(self._target.read_back(0, SECTOR_BYTES)):
            raise AgentError(
                "the disk's first sector still holds data after it was overwritten with zeros",
                "The medium is write-protected or worn out; replace it.",
            )

    def _zero(self, whole: Range, *, sparing: Sequence[Range]) -> None:
        for part in subtract(whole, sparing):
            self._target.write_at(part.offset, bytes(part.length))
        self._target.flush()

    def write(self, on_progress: OnProgress) -> None:
        """Stream the image onto the disk, all but the held ranges."""
        done = 0
        with contextlib.closing(self._source(self._index.chunks)) as chunks:
            for chunk, data in chunks:
                plan = self._plan or self._make_plan(chunk, data)
                done += chunk.length
                self._write_chunk(plan.chunks[self._numbers[chunk.offset]], data)
                on_progress(done, self._index.mapped_bytes)
        if self._plan is None:
            raise AgentError("the image has no chunks", "Run 'bramble build' again.")
        for overlay in self._plan.loose:
            self._write_loose(overlay)
        for overlay in self._plan.loose_held:
            self._hold(overlay.range, memoryview(overlay.data))
        self._target.flush()

    def verify(self, on_progress: OnProgress) -> None:
        """Read everything back from the medium; write again what differs, at most `MAX_ROUNDS` times.

        Raises:
            AgentError: a range keeps coming back wrong.
        """
        pending = list(self._written.values())
        for attempt in range(1, MAX_ROUNDS + 1):
            total = sum(entry.span.length for entry in pending)
            done = 0
            wrong = []
            for entry, digest in self._read_back(pending):
                if digest != entry.sha256:
                    wrong.append(entry)
                done += entry.span.length
                on_progress(done, total)
            if not wrong:
                self.bytes_verified = sum(entry.span.length for entry in self._written.values())
                return
            if attempt == MAX_ROUNDS:
                break
            pending = self._write_again(wrong)
        places = ", ".join(f"{entry.span.offset}–{entry.span.end - 1}" for entry in wrong[:5])
        raise AgentError(
            f"{len(wrong)} ranges read back other bytes than were written, {MAX_ROUNDS} times: {places}",
            "The medium is worn out or counterfeit, or its supply is too weak; replace it.",
        )

    def commit(self) -> None:
        """Write the held ranges with the marker among them, the partition table last, with the root
        partition grown to the disk's end."""
        head = self._head()
        head[MARKER_OFFSET : MARKER_OFFSET + SECTOR_BYTES] = self._marker
        if self._kept:  # until the table names them they are known from here
            head[RECORD_OFFSET : RECORD_OFFSET + SECTOR_BYTES] = encode_record(self._kept)
        first_sector = grow_root(bytes(head[:SECTOR_BYTES]), self._root_end())
        # The system would grow into free space when it first boots: what is left gets an entry of its own.
        rest = rest_of(first_sector, self._target.size_bytes) if self._root_bytes else ()
        first_sector = add_entries(first_sector, self._kept or rest)
        for span, data in self._held.items():
            skip = SECTOR_BYTES if span.offset == 0 else 0
            self._commit_bytes(span.offset + skip, bytes(data[skip:]))
        self._commit_bytes(0, first_sector)

    def _root_end(self) -> int:
        """Up to where the root partition may grow: the disk's end, what is kept, or what was declared."""
        end = min([self._target.size_bytes, *(one.range.offset for one in self._kept)])
        if not self._root_bytes:
            return end
        root = parse_partitions(bytes(self._head()[:SECTOR_BYTES]))[1]
        return min(end, root.start_sector * SECTOR_BYTES + self._root_bytes)

    def _commit_bytes(self, offset: int, data: bytes) -> None:
        self._target.write_at(offset, data)
        self._target.flush()
        self.bytes_written += len(data)
        if self._target.read_back(offset, len(data)) != data:
            if offset == 0:
                self._target.write_at(0, bytes(SECTOR_BYTES))  # what can not be proven must not boot
                self._target.flush()
            raise AgentError(
                f"the boot blocks at {offset} read back other bytes than were written",
                "The medium is failing; replace it.",
            )
        self.bytes_verified += len(data)

    def _make_plan(self, first: Chunk, data: memoryview) -> WritePlan:
        """The held ranges depend on the partition table, which is in the first chunk."""
        if first.offset != 0 or first.length < SECTOR_BYTES:
            raise AgentError(
                f"the image's first chunk starts at {first.offset} and not with the partition table",
                "The image is from another release; run 'bramble build' again.",
            )
        held = held_ranges(bytes(data[:SECTOR_BYTES]))
        self._held = {span: bytearray(span.length) for span in held}
        self._plan = plan_writes(self._index.chunks, self._delta, held, self._index.size_bytes)
        return self._plan

    def _head(self) -> bytearray:
        return next(data for span, data in self._held.items() if span.offset == 0)

    def _write_chunk(self, write: ChunkWrite, data: memoryview) -> None:
        write.apply(data)
        for span in write.held:
            self._hold(span, write.cut(data, span))
        for span in write.now:
            view = write.cut(data, span)
            digest = write.chunk.sha256 if write.is_pristine else hashlib.sha256(view).hexdigest()
            self._put(_Written(span, digest, write), view)

    def _write_loose(self, overlay: Overlay) -> None:
        digest = hashlib.sha256(overlay.data).hexdigest()
        self._put(_Written(overlay.range, digest, overlay), memoryview(overlay.data))

    def _put(self, entry: _Written, view: memoryview) -> None:
        self._target.write_at(entry.span.offset, view)
        self._written[entry.span] = entry
        self.bytes_written += len(view)
        self._unflushed += len(view)
        if self._unflushed >= FLUSH_EVERY_BYTES:
            self._target.flush()
            self._unflushed = 0

    def _hold(self, part: Range, view: memoryview) -> None:
        for span, data in self._held.items():
            if span.intersection(part) == part:
                data[part.offset - span.offset : part.end - span.offset] = view

    def _write_again(self, wrong: Sequence[_Written]) -> list[_Written]:
        """Fetch and write the chunks that hold wrong ranges; returns what is to be read back."""
        writes = {
            entry.origin.chunk.offset: entry.origin for entry in wrong if isinstance(entry.origin, ChunkWrite)
        }
        with contextlib.closing(self._source([writes[offset].chunk for offset in sorted(writes)])) as chunks:
            for chunk, data in chunks:
                self._write_chunk(writes[chunk.offset], data)
        for entry in wrong:
            if isinstance(entry.origin, Overlay):
                self._write_loose(entry.origin)
        self._target.flush()
        offsets = set(writes)
        return [
            entry
            for entry in self._written.values()
            if (isinstance(entry.origin, ChunkWrite) and entry.origin.chunk.offset in offsets)
            or any(entry.span == other.span for other in wrong)
        ]

    def _read_back(self, entries: Iterable[_Written]) -> Iterator[tuple[_Written, str]]:
        """Each range with the digest of what the medium has there; one is read while others are hashed."""
        waiting: deque[tuple[_Written, Future[str]]] = deque()
        with ThreadPoolExecutor(VIEWS_KEPT, thread_name_prefix="disk-hasher") as hashers:
            for entry in entries:
                data = self._target.read_back(entry.span.offset, entry.span.length)
                waiting.append((entry, hashers.submit(_hash, data)))
                if len(waiting) > VIEWS_KEPT:
                    written, digest = waiting.popleft()
                    yield written, digest.result()
            for written, digest in waiting:
                yield written, digest.result()


def _hash(data: memoryview) -> str:
    return hashlib.sha256(data).hexdigest()
