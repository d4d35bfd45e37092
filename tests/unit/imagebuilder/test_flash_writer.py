"""One image onto one medium, on media that lie, wrap, flip bits and go away."""

from __future__ import annotations

import errno
import hashlib
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imagebuilder.disk.mbr import Mbr, Partition, parse_mbr, raspios_layout
from imagebuilder.flash.errors import FlashError, TargetRefused
from imagebuilder.flash.head import grown_head
from imagebuilder.flash.source import Patch, Piece, RawImage, open_raw
from imagebuilder.flash.writer import HEAD_BYTES, NOTE_OFFSET, FlashJob, Phase

MIB = 2**20
SIZE = 8 * MIB
MAPPED = ((0, MIB), (2 * MIB, MIB // 2), (3 * MIB, 2 * MIB + MIB // 2), (7 * MIB, 4096))


TABLE = Mbr(
    signature=0x1A2B3C4D,
    entries=(
        Partition(start_lba=4096, sectors=2048, type=0x0C),
        Partition(start_lba=6144, sectors=8192, type=0x83),
        None,
        None,
    ),
)


class Medium:
    """A medium in memory. ``spoil`` changes what is stored; ``dies_after`` bytes it is taken out."""

    def __init__(
        self,
        size: int = SIZE,
        *,
        old: int = 0xA5,
        spoil: Callable[[int, bytes], bytes] = lambda offset, data: data,
        wraps_at: int | None = None,
        dies_after: int | None = None,
    ) -> None:
        self.size_bytes = size
        self.data = bytearray([old]) * size
        self.written = 0
        self._spoil = spoil
        self._wraps_at = wraps_at
        self._dies_after = dies_after

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        self.written += len(data)
        if self._dies_after is not None and self.written > self._dies_after:
            keep = len(data) - (self.written - self._dies_after)
            self.data[offset : offset + keep] = bytes(data)[:keep]
            raise FlashError("gone", "")
        place = offset % self._wraps_at if self._wraps_at else offset
        self.data[place : place + len(data)] = self._spoil(offset, bytes(data))

    def flush(self) -> None:
        """Memory is as durable as it gets."""

    def read_back(self, offset: int, length: int) -> memoryview:
        place = offset % self._wraps_at if self._wraps_at else offset
        return memoryview(bytes(self.data[place : place + length]))

    @property
    def boots(self) -> bool:
        return self.data[510:512] == b"\x55\xaa"


@pytest.fixture(scope="module")
def image_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flash") / "disk.img"
    noise = random.Random(1)
    with path.open("wb") as file:
        file.truncate(SIZE)
        for offset, length in MAPPED:
            file.seek(offset)
            file.write(noise.randbytes(length))
        file.seek(0)
        file.write(TABLE.encode())
    return path


def pieces(path: Path) -> list[Piece]:
    data = path.read_bytes()
    found = []
    for offset, length in MAPPED:
        for start in range(offset, offset + length, MIB):
            size = min(MIB, offset + length - start)
            found.append(Piece(start, size, hashlib.sha256(data[start : start + size]).hexdigest()))
    return found


@pytest.fixture
def image(image_file: Path) -> Iterator[RawImage]:
    with open_raw(image_file, "image-1", pieces(image_file)) as opened:
        yield opened


PATCHES = (Patch(440, b"\x01\x02\x03\x04"), Patch(2 * MIB + 4096, b"node"), Patch(6 * MIB, b"loose"))


def expected(path: Path, patches: tuple[Patch, ...] = ()) -> bytes:
    data = bytearray(path.read_bytes())
    for patch in patches:
        data[patch.offset : patch.end] = patch.data
    return bytes(data)


def assert_holds(medium: Medium, image_file: Path, patches: tuple[Patch, ...] = ()) -> None:
    want = expected(image_file, patches)
    for offset, length in MAPPED[1:]:
        assert medium.data[offset : offset + length] == want[offset : offset + length]
    for patch in patches:
        assert medium.data[patch.offset : patch.end] == patch.data
    assert medium.boots


def test_mapped_bytes_and_the_delta_are_on_the_medium_and_nothing_else(
    image: RawImage, image_file: Path
) -> None:
    medium = Medium()
    phases: list[Phase] = []
    outcome = FlashJob(
        image, medium, PATCHES, on_progress=lambda phase, done, total: phases.append(phase)
    ).run()
    assert_holds(medium, image_file, PATCHES)
    assert set(medium.data[MIB : 2 * MIB]) == {0xA5}  # free space keeps what it held
    assert outcome.rewritten == ()
    assert outcome.verified_bytes == sum(length for _, length in MAPPED) + len(b"loose")
    assert list(dict.fromkeys(phases)) == list(Phase)


def test_table_is_the_last_write_and_the_root_reaches_the_end(image: RawImage) -> None:
    medium = Medium(16 * MIB)
    FlashJob(image, medium).run()
    mbr = parse_mbr(bytes(medium.data[:512]), disk_bytes=16 * MIB)
    assert mbr.partition(2).end_lba * 512 == 16 * MIB


def test_marker_stands_at_the_end_of_the_first_mib(image: RawImage) -> None:
    medium = Medium()
    FlashJob(image, medium, marker=b"BRAMBLE marker").run()
    assert bytes(medium.data[NOTE_OFFSET : NOTE_OFFSET + 14]) == b"BRAMBLE marker"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 7 * MIB))
@example(5_247_494)  # in the middle of the commit
def test_medium_taken_out_at_any_byte_does_not_boot_and_is_gone_on_with(
    image_file: Path, dies_after: int
) -> None:
    with open_raw(image_file, "image-1", pieces(image_file)) as image:
        medium = Medium(dies_after=dies_after)
        try:
            FlashJob(image, medium, PATCHES).run()
        except FlashError:
            assert not medium.boots or medium.written <= 512
        medium._dies_after = None
        FlashJob(image, medium, PATCHES).run()
    assert_holds(medium, image_file, PATCHES)


def test_resumed_flash_skips_what_is_there_but_reads_it(
    image_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagebuilder.flash.writer.FLUSH_EVERY_BYTES", MIB)
    with open_raw(image_file, "image-1", pieces(image_file)) as image:
        medium = Medium(dies_after=4 * MIB)
        with pytest.raises(FlashError):
            FlashJob(image, medium).run()
        medium._dies_after = None
        medium.data[2 * MIB + 5] ^= 1  # one byte was lost on the way
        outcome = FlashJob(image, medium).run()
    assert 0 < outcome.skipped_bytes < sum(length for _, length in MAPPED)
    assert_holds(medium, image_file)


def test_other_image_does_not_go_on_where_the_first_stopped(
    image_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagebuilder.flash.writer.FLUSH_EVERY_BYTES", MIB)
    medium = Medium(dies_after=4 * MIB)
    with open_raw(image_file, "image-1", pieces(image_file)) as image, pytest.raises(FlashError):
        FlashJob(image, medium).run()
    medium._dies_after = None
    with open_raw(image_file, "image-2", pieces(image_file)) as image:
        assert FlashJob(image, medium).run().skipped_bytes == 0


def test_bit_that_flips_once_is_written_again_and_recorded(image: RawImage, image_file: Path) -> None:
    spoilt = [True]

    def flip_once(offset: int, data: bytes) -> bytes:
        if offset <= 4 * MIB < offset + len(data) and spoilt.pop():
            spoilt.append(False)
            return data[:-1] + bytes([data[-1] ^ 1])
        return data

    medium = Medium(spoil=flip_once)
    outcome = FlashJob(image, medium).run()
    assert len(outcome.rewritten) == 1
    assert_holds(medium, image_file)


def test_range_that_never_comes_back_right_is_named_and_nothing_boots(image: RawImage) -> None:
    medium = Medium(spoil=lambda offset, data: data[:-1] + b"\0" if offset == 7 * MIB else data)
    with pytest.raises(FlashError, match=f"1 ranges .*bytes {7 * MIB}–{7 * MIB + 4095}"):
        FlashJob(image, medium).run()
    assert not medium.boots


@pytest.mark.parametrize("wraps_at", [3 * MIB, 7 * MIB], ids=["onto-data", "onto-the-table"])
def test_card_that_is_smaller_than_it_says_is_found_out(image: RawImage, wraps_at: int) -> None:
    medium = Medium(wraps_at=wraps_at)
    with pytest.raises(FlashError, match="larger than it is"):
        FlashJob(image, medium).run()
    assert not medium.boots


def test_write_protected_card_that_takes_writes_is_found_out(image: RawImage) -> None:
    medium = Medium(spoil=lambda offset, data: b"\xa5" * len(data))
    with pytest.raises(FlashError, match="write-protected"):
        FlashJob(image, medium).run()


def test_boot_blocks_that_do_not_hold_leave_nothing_that_boots(image: RawImage) -> None:
    def lose_table(offset: int, data: bytes) -> bytes:
        return data[:100] + b"?" + data[101:] if offset == 0 and any(data) else data

    medium = Medium(spoil=lose_table)
    with pytest.raises(FlashError, match="boot blocks at byte 0"):
        FlashJob(image, medium).run()
    assert not medium.boots


def test_too_small_a_medium_is_not_touched(image: RawImage) -> None:
    medium = Medium(SIZE - 512)
    with pytest.raises(TargetRefused, match=f"has {SIZE - 512} bytes, the image needs {SIZE}"):
        FlashJob(image, medium).run()
    assert medium.written == 0


def test_delta_of_another_image_is_not_written(image: RawImage) -> None:
    medium = Medium()
    with pytest.raises(TargetRefused, match="past the image"):
        FlashJob(image, medium, (Patch(SIZE, b"x"),)).run()
    assert medium.written == 0


def test_without_verification_nothing_but_the_boot_blocks_is_read_back(image: RawImage) -> None:
    medium = Medium(spoil=lambda offset, data: data[:-1] + b"\0" if offset == 7 * MIB else data)
    assert FlashJob(image, medium, verify=False).run().verified_bytes == 0


def test_image_without_an_index_is_what_is_not_a_hole(image_file: Path) -> None:
    medium = Medium()
    with open_raw(image_file, "file") as image:
        assert image.mapped_bytes >= sum(length for _, length in MAPPED)
        FlashJob(image, medium).run()
    assert_holds(medium, image_file)


@pytest.mark.parametrize(("size", "reason"), [(0, "0 bytes"), (1000, "whole number of sectors")])
def test_file_that_is_no_image_is_refused(tmp_path: Path, size: int, reason: str) -> None:
    path = tmp_path / "x.img"
    path.write_bytes(bytes(size))
    with pytest.raises(FlashError, match=reason), open_raw(path, "x"):
        pass


def test_image_that_shrinks_while_it_is_written_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.img"
    path.write_bytes(random.Random(2).randbytes(4 * MIB))
    with open_raw(path, "x") as image:
        os.truncate(path, 2 * MIB)
        with pytest.raises(FlashError, match="ends at byte"):
            FlashJob(image, Medium()).run()


def test_image_on_a_failing_disk_is_an_error(image: RawImage, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int, _buffers: object, _offset: int) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(FlashError, match="cannot be read at byte 512: Input/output error"):
        image.read_into(memoryview(bytearray(512)), 512)


def test_tables_that_are_not_ours_are_left_as_they_are() -> None:
    nothing = bytes(512)
    assert grown_head(nothing, 64 * MIB) == nothing
    table = raspios_layout(1, 64 * MIB)
    assert grown_head(table.encode(), 32 * MIB) == table.encode()  # never smaller
    huge = parse_mbr(grown_head(table.encode(), 4 * 2**40))
    assert huge.partition(2).end_lba <= 2**32


def test_head_is_one_mib() -> None:
    assert HEAD_BYTES == MIB
    assert NOTE_OFFSET % 512 == 0
