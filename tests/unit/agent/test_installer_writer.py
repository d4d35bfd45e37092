"""The writer against a disk in memory: every power-cut prefix, media that lie."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Generator, Sequence

import pytest
from agent_images import make_table
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import AgentError
from agent.installer.index import Chunk, ImageIndex
from agent.installer.layout import MIB, Overlay, parse_partitions
from agent.installer.occupant import MARKER_OFFSET, encode_marker, inspect_head
from agent.installer.writer import ImageWriter
from agent.protocol import Occupant

IMAGE_BYTES = 5 * MIB
DISK_BYTES = 7 * MIB + 512
BOOT = 2 * MIB
SPANS = ((0, 4096), (BOOT, 8192), (BOOT + 65536, 4096), (4 * MIB, 16384))


def make_raw() -> bytes:
    raw = bytearray(IMAGE_BYTES)
    for number, (offset, length) in enumerate(SPANS):
        raw[offset : offset + length] = bytes([number + 1]) * length
    raw[:512] = make_table(BOOT // 512, 4096, 4 * MIB // 512, 2048)
    return bytes(raw)


RAW = make_raw()
INDEX = ImageIndex(
    image_id="i",
    size_bytes=IMAGE_BYTES,
    chunks=tuple(
        Chunk(
            offset=offset,
            length=length,
            sha256=hashlib.sha256(RAW[offset : offset + length]).hexdigest(),
            position=offset,
            compressed_bytes=length,
        )
        for offset, length in SPANS
    ),
)


OCCUPANT = Occupant(cluster="attic", node="pi-1", image_id="i", installation="1a" * 16)
MARKER = encode_marker(OCCUPANT)
OLD_MARKER = encode_marker(Occupant(cluster="attic", node="pi-1", image_id="old", installation="2b" * 16))


class PowerCut(Exception):
    pass


class MemoryDisk:
    """A disk that counts its writes; power may fail after any of them, and a byte may refuse to change."""

    def __init__(self, content: bytearray | None = None, *, cut_after: int | None = None) -> None:
        self.content = content if content is not None else bytearray(b"\x5a" * DISK_BYTES)
        self.size_bytes = len(self.content)
        self.writes: list[tuple[int, int]] = []
        self.flushed = 0
        self.cut_after = cut_after
        self.bad: dict[int, int] = {}
        """Offset of a byte that reads back wrong, and how many times."""

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        if self.cut_after is not None and len(self.writes) >= self.cut_after:
            # Half of the last write arrives.
            half = bytes(data)[: len(data) // 2]
            self.content[offset : offset + len(half)] = half
            raise PowerCut
        self.content[offset : offset + len(data)] = data
        self.writes.append((offset, len(data)))

    def flush(self) -> None:
        self.flushed = len(self.writes)

    def read_back(self, offset: int, length: int) -> memoryview:
        assert self.flushed == len(self.writes), "read back before it was flushed"
        data = bytearray(self.content[offset : offset + length])
        for position, times in self.bad.items():
            if times and offset <= position < offset + length:
                data[position - offset] ^= 0xFF
                self.bad[position] -= 1
        return memoryview(data)


class Source:
    def __init__(self, *, breaks_at: int | None = None) -> None:
        self.fetched: list[int] = []
        self.is_open = False
        self._breaks_at = breaks_at

    def __call__(self, chunks: Sequence[Chunk], /) -> Generator[tuple[Chunk, memoryview], None, None]:
        self.is_open = True
        try:
            for chunk in chunks:
                if chunk.offset == self._breaks_at:
                    raise AgentError("the image can not be read")
                self.fetched.append(chunk.offset)
                yield chunk, memoryview(bytearray(RAW[chunk.offset : chunk.end]))
        finally:
            self.is_open = False


def run(disk: MemoryDisk, delta: Sequence[Overlay] = (), source: Source | None = None) -> ImageWriter:
    writer = ImageWriter(disk, INDEX, delta, source or Source(), marker=MARKER)
    writer.invalidate()
    writer.write(lambda done, total: None)
    writer.verify(lambda done, total: None)
    writer.commit()
    return writer


@st.composite
def deltas(draw: st.DrawFn) -> list[Overlay]:
    """Small patches anywhere but on the partition table and signature, far enough apart not to overlap."""
    starts = draw(st.lists(st.integers(0, IMAGE_BYTES // 64 - 1), unique=True, max_size=6))
    near = draw(
        st.lists(st.sampled_from([0, BOOT // 64, 128, (BOOT + 8192) // 64 - 1]), unique=True, max_size=3)
    )
    length = draw(st.integers(1, 60))
    places = sorted({*starts, *near} - {448 // 64})  # the partition table is at 446–509
    return [Overlay(place * 64, bytes([place % 251]) * length) for place in places]


@given(deltas())
@settings(deadline=None, max_examples=15)
def test_disk_ends_as_image_with_delta(delta: list[Overlay]) -> None:
    disk = MemoryDisk()
    writer = run(disk, delta)
    expected = bytearray(RAW)
    for overlay in delta:
        expected[overlay.offset : overlay.range.end] = overlay.data
    expected[MARKER_OFFSET : MARKER_OFFSET + 512] = MARKER
    spans = [(0, MIB), *SPANS, *((overlay.offset, len(overlay.data)) for overlay in delta)]
    for offset, length in spans:
        for start, end in ((offset, min(474, offset + length)), (max(offset, 478), offset + length)):
            assert disk.content[start:end] == expected[start:end]
    assert parse_partitions(bytes(disk.content[:512]))[1].sectors == 7 * 2048 - 4 * 2048
    assert not any(disk.content[-MIB:])
    assert inspect_head(bytes(disk.content[:MIB])).occupant == OCCUPANT
    assert writer.bytes_written == writer.bytes_verified


def test_no_prefix_of_the_writes_boots_and_every_one_can_be_repeated() -> None:
    delta = [Overlay(BOOT + 100, b"x" * 1000), Overlay(3 * MIB, b"loose"), Overlay(440, b"sign")]
    whole = MemoryDisk()
    run(whole, delta)
    total = len(whole.writes)
    assert whole.writes[-1] == (0, 512)
    old = bytearray(b"\x5a" * DISK_BYTES)
    old[:512] = make_table(2048, 4096, 8192, 2048)
    old[MARKER_OFFSET:MIB] = OLD_MARKER
    assert inspect_head(bytes(old[:MIB])).occupant is not None
    # From the second write on: the first is the one that makes the old system unbootable.
    for cut in range(1, total):
        disk = MemoryDisk(bytearray(old), cut_after=cut)
        with pytest.raises(PowerCut):
            run(disk, delta)
        assert parse_partitions(bytes(disk.content[:512])) == (), f"after {cut} writes"
        assert inspect_head(bytes(disk.content[:MIB])).occupant is None, f"after {cut} writes"
        again = MemoryDisk(disk.content)
        run(again, delta)
        for offset, length in (*SPANS, (0, MIB), (3 * MIB, 5)):
            assert again.content[offset : offset + length] == whole.content[offset : offset + length]


def test_invalidate_takes_the_marker_away() -> None:
    disk = MemoryDisk()
    run(disk)
    ImageWriter(disk, INDEX, (), Source(), marker=MARKER).invalidate()
    assert not any(disk.content[MARKER_OFFSET:MIB])
    assert inspect_head(bytes(disk.content[:MIB])).text == "no partition table"


def test_marker_that_can_not_be_proven_is_never_made_bootable() -> None:
    disk = MemoryDisk()
    writer = ImageWriter(disk, INDEX, (), Source(), marker=MARKER)
    writer.invalidate()
    writer.write(lambda done, total: None)
    writer.verify(lambda done, total: None)
    disk.bad = {MARKER_OFFSET + 3: 1}
    with pytest.raises(AgentError, match="boot blocks at 512"):
        writer.commit()
    assert parse_partitions(bytes(disk.content[:512])) == ()


def test_range_that_reads_back_wrong_once_is_fetched_and_written_again() -> None:
    disk, source = MemoryDisk(), Source()
    disk.bad = {4 * MIB + 5: 1}
    run(disk, source=source)
    assert source.fetched == [*(offset for offset, _ in SPANS), 4 * MIB]


def test_loose_patch_that_reads_back_wrong_is_written_again() -> None:
    disk, source = MemoryDisk(), Source()
    disk.bad = {3 * MIB + 1: 2}
    run(disk, [Overlay(3 * MIB, b"loose")], source)
    assert disk.writes.count((3 * MIB, 5)) == 3
    assert source.fetched == [offset for offset, _ in SPANS]


def test_medium_that_keeps_lying_is_named_and_never_committed() -> None:
    disk = MemoryDisk()
    disk.bad = {BOOT + 4096: 99}
    with pytest.raises(AgentError, match=f"{BOOT + 512}–{BOOT + 8191}"):
        run(disk)
    assert parse_partitions(bytes(disk.content[:512])) == ()


def test_partition_table_that_can_not_be_proven_is_taken_back() -> None:
    disk = MemoryDisk()
    writer = ImageWriter(disk, INDEX, (), Source(), marker=MARKER)
    writer.invalidate()
    writer.write(lambda done, total: None)
    writer.verify(lambda done, total: None)
    disk.bad = {446: 1}
    with pytest.raises(AgentError, match="boot blocks at 0"):
        writer.commit()
    assert parse_partitions(bytes(disk.content[:512])) == ()


def test_write_protected_disk_is_noticed_before_anything_else() -> None:
    disk = MemoryDisk()
    disk.bad = {3: 1}
    with pytest.raises(AgentError, match="first sector still holds data"):
        run(disk)


def test_image_whose_first_chunk_is_not_the_table_is_refused() -> None:
    index = ImageIndex(image_id="i", size_bytes=IMAGE_BYTES, chunks=INDEX.chunks[1:])
    writer = ImageWriter(MemoryDisk(), index, (), Source(), marker=MARKER)
    with pytest.raises(AgentError, match="partition table"):
        writer.write(lambda done, total: None)


class FailingDisk(MemoryDisk):
    """One that refuses what is written to one place, or the flush of it."""

    def __init__(self, place: int, *, at_flush: bool = False) -> None:
        super().__init__()
        self.place, self.at_flush = place, at_flush

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        if offset == self.place and not self.at_flush:
            raise AgentError("writing failed: No space left on device")
        super().write_at(offset, data)

    def flush(self) -> None:
        if self.at_flush and self.place in [offset for offset, _length in self.writes]:
            raise AgentError("flushing failed: Input/output error")
        super().flush()


@pytest.mark.parametrize("at_flush", [False, True], ids=["write", "flush"])
@pytest.mark.parametrize("place", [BOOT + 512, BOOT + 65536, 4 * MIB])
def test_disk_that_refuses_ends_the_source_and_boots_nothing(place: int, *, at_flush: bool) -> None:
    disk, source = FailingDisk(place, at_flush=at_flush), Source()
    with pytest.raises(AgentError, match="failed"):
        run(disk, source=source)
    assert not source.is_open
    assert parse_partitions(bytes(disk.content[:512])) == ()


@pytest.mark.parametrize("place", [offset for offset, _length in SPANS])
def test_source_that_breaks_boots_nothing(place: int) -> None:
    disk, source = MemoryDisk(), Source(breaks_at=place)
    with pytest.raises(AgentError, match="can not be read"):
        run(disk, source=source)
    assert not source.is_open
    assert parse_partitions(bytes(disk.content[:512])) == ()


def test_install_that_is_called_off_ends_the_source() -> None:
    disk, source = MemoryDisk(), Source()
    writer = ImageWriter(disk, INDEX, (), source, marker=MARKER)
    writer.invalidate()

    def stop(done: int, total: int) -> None:
        if done > 4096:
            raise AgentError("the intent is closed")

    with pytest.raises(AgentError, match="closed"):
        writer.write(stop)
    assert not source.is_open
    assert source.fetched == [0, BOOT]
    assert parse_partitions(bytes(disk.content[:512])) == ()


def test_install_that_is_called_off_while_it_reads_back_is_not_committed() -> None:
    disk = MemoryDisk()
    writer = ImageWriter(disk, INDEX, (), Source(), marker=MARKER)
    writer.invalidate()
    writer.write(lambda done, total: None)

    def stop(done: int, total: int) -> None:
        raise AgentError("the intent is closed")

    with pytest.raises(AgentError, match="closed"):
        writer.verify(stop)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("disk-")]
    assert parse_partitions(bytes(disk.content[:512])) == ()
