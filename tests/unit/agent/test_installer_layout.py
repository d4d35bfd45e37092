"""Which bytes go where: examples, and properties against a simple model of a disk."""

from __future__ import annotations

import struct

import pytest
from agent_images import make_table
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import AgentError
from agent.installer.index import Chunk
from agent.installer.layout import (
    MIB,
    Overlay,
    Range,
    grow_root,
    held_ranges,
    parse_partitions,
    plan_writes,
    subtract,
)

SIZE = 600


def make_chunk(offset: int, length: int) -> Chunk:
    return Chunk(offset=offset, length=length, sha256="0" * 64, position=offset, compressed_bytes=length)


@st.composite
def disjoint(draw: st.DrawFn, max_count: int) -> list[Range]:
    """Sorted ranges that do not overlap, inside SIZE."""
    points = sorted(draw(st.sets(st.integers(0, SIZE), max_size=2 * max_count)))
    return [Range(start, end) for start, end in zip(points[::2], points[1::2], strict=False)]


@given(disjoint(6), disjoint(6), disjoint(3), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=100)
def test_every_meant_byte_is_written_once_and_held_bytes_wait(
    mapped: list[Range], patched: list[Range], held: list[Range], rng: object
) -> None:
    image = bytes((number * 7 + 1) % 256 for number in range(SIZE))
    overlays = [Overlay(part.offset, bytes([200 + i % 50]) * part.length) for i, part in enumerate(patched)]
    chunks = [make_chunk(part.offset, part.length) for part in mapped]
    plan = plan_writes(chunks, overlays, held, SIZE)

    wanted = {position: image[position] for part in mapped for position in range(part.offset, part.end)}
    for overlay in overlays:
        wanted.update(enumerate(overlay.data, overlay.offset))

    def is_held(position: int) -> bool:
        return any(part.offset <= position < part.end for part in held)

    now: dict[int, int] = {}
    later: dict[int, int] = {}

    def put(target: dict[int, int], offset: int, data: bytes | memoryview) -> None:
        for position, value in enumerate(data, offset):
            assert position not in target
            target[position] = value

    for write in plan.chunks:
        data = memoryview(bytearray(image[write.chunk.offset : write.chunk.end]))
        write.apply(data)
        for part in write.now:
            put(now, part.offset, write.cut(data, part))
        for part in write.held:
            put(later, part.offset, write.cut(data, part))
        if write.is_pristine:
            assert bytes(data) == image[write.chunk.offset : write.chunk.end]
    for overlay in plan.loose:
        put(now, overlay.offset, overlay.data)
    for overlay in plan.loose_held:
        put(later, overlay.offset, overlay.data)

    assert now == {position: value for position, value in wanted.items() if not is_held(position)}
    assert later == {position: value for position, value in wanted.items() if is_held(position)}


@given(disjoint(4), disjoint(4))
def test_subtraction_leaves_what_is_in_no_hole(wholes: list[Range], holes: list[Range]) -> None:
    for whole in wholes:
        left = {position for part in subtract(whole, holes) for position in range(part.offset, part.end)}
        cut = {position for hole in holes for position in range(hole.offset, hole.end)}
        assert left == set(range(whole.offset, whole.end)) - cut


def test_overlapping_patches_are_refused() -> None:
    with pytest.raises(AgentError, match="twice"):
        plan_writes([make_chunk(0, 512)], [Overlay(10, b"abcd"), Overlay(13, b"x")], [], SIZE)


def test_patch_past_the_image_is_refused() -> None:
    with pytest.raises(AgentError, match="past the image"):
        plan_writes([make_chunk(0, 512)], [Overlay(SIZE - 1, b"ab")], [], SIZE)


def test_head_of_the_disk_and_boot_sector_are_held() -> None:
    assert held_ranges(make_table(16384, 1048576, 1064960, 4194304)) == (
        Range(0, MIB),
        Range(16384 * 512, 16384 * 512 + 512),
    )


def test_boot_sector_inside_the_head_makes_one_range() -> None:
    assert held_ranges(make_table(2047, 1000, 8192, 1000)) == (Range(0, MIB),)


@pytest.mark.parametrize(
    "sector",
    [
        bytes(512),
        make_table(1, 1, 1, 1)[:510] + b"\0\0",
        make_table(2048, 100, 8192, 0),
        make_table(2048, 100, 8192, 100).replace(b"\x0c", b"\xee"),
    ],
    ids=["zeros", "no-signature", "one-partition", "gpt"],
)
def test_image_without_the_two_partitions_is_refused(sector: bytes) -> None:
    with pytest.raises(AgentError, match="boot and a root partition"):
        held_ranges(sector)


def test_zeros_are_no_partition_table() -> None:
    assert parse_partitions(bytes(512)) == ()


@pytest.mark.parametrize(
    ("disk_bytes", "sectors"),
    [
        (64 * MIB, 64 * 2048 - 16384),
        (64 * MIB + 512, 64 * 2048 - 16384),
        (65 * MIB - 512, 64 * 2048 - 16384),
        (4 * MIB, 1000),
        (4 << 40, 0xFFFFFFFF),
    ],
    ids=["exact", "sector-more", "sector-less", "never-smaller", "past-2-tib"],
)
def test_root_grows_to_the_last_whole_mib(disk_bytes: int, sectors: int) -> None:
    table = make_table(2048, 8192, 16384, 1000)
    grown = grow_root(table, disk_bytes)
    boot, root = parse_partitions(grown)
    assert root.sectors == sectors
    assert boot == parse_partitions(table)[0]
    assert grown[:474] == table[:474]
    assert struct.unpack_from("<I", grown, 440) == (0x11223344,)
