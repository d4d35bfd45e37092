"""A unified kernel image: sections where the stub's headers say, for any sizes; and stubs that are none."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from fakes_efi import COFF, HEADERS, OPTIONAL, TABLE, make_stub
from hypothesis import example, given
from hypothesis import strategies as st

from imagebuilder.errors import NotUnderstood
from imagebuilder.uki import SECTION, Payload, Piece, is_efi_program, link_uki


def joined(pieces: tuple[Piece, ...]) -> bytes:
    return b"".join(piece.read_bytes() if isinstance(piece, Path) else piece for piece in pieces)


def sections(image: bytes) -> dict[str, tuple[int, int, int, int]]:
    """Name → virtual address, virtual size, raw offset, raw size."""
    (count,) = struct.unpack_from("<H", image, COFF + 2)
    found = {}
    for number in range(count):
        name, size, address, raw, offset, *_rest = SECTION.unpack_from(image, TABLE + number * SECTION.size)
        found[name.rstrip(b"\0").decode()] = (address, size, offset, raw)
    return found


@given(st.lists(st.binary(max_size=9000), min_size=1, max_size=8))
def test_every_section_is_found_where_the_headers_say(contents: list[bytes]) -> None:
    payloads = [
        Payload(name=f".s{number}", size_bytes=len(data), contents=data)
        for number, data in enumerate(contents)
    ]
    image = joined(link_uki(make_stub(), payloads))
    found = sections(image)
    assert next(iter(found)) == ".text"
    end = 0
    for number, data in enumerate(contents):
        address, size, offset, raw = found[f".s{number}"]
        assert image[offset : offset + size] == data
        assert offset % 512 == raw % 512 == address % 4096 == 0
        assert address >= end
        assert offset + raw <= len(image)
        end = address + size
    assert struct.unpack_from("<I", image, OPTIONAL + 56)[0] >= end
    assert struct.unpack_from("<I", image, OPTIONAL + 64)[0] == 0
    assert image[HEADERS : HEADERS + 512] == b"c" * 512


def test_files_are_pieces_and_are_not_read(tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    payload = Payload(name=".linux", size_bytes=1000, contents=kernel)
    assert kernel in link_uki(make_stub(), [payload])


@pytest.mark.parametrize(
    "stub",
    [
        b"",
        b"MZ",
        make_stub()[:0x90],
        make_stub()[:-1],
        make_stub(machine=0x8664),
        make_stub().replace(b"PE\0\0", b"NE\0\0"),
        b"\x7fELF" + bytes(2000),
        make_stub() + bytes(5 << 20),
    ],
    ids=["empty", "mz", "headers", "cut", "x86", "ne", "elf", "huge"],
)
def test_what_is_no_stub_is_named(stub: bytes) -> None:
    with pytest.raises(NotUnderstood, match="stub"):
        link_uki(stub, [Payload(name=".linux", size_bytes=1, contents=b"x")])


@example(b"\x00\x00\x00\n\x00\x00\x00\xf6", 400)  # a section that ends beyond 4 GiB
@given(st.binary(max_size=300), st.integers(0, 700))
def test_a_damaged_stub_is_linked_or_named(noise: bytes, at: int) -> None:
    stub = bytearray(make_stub())
    stub[at : at + len(noise)] = noise
    try:
        link_uki(bytes(stub), [Payload(name=".linux", size_bytes=1, contents=b"x")])
    except NotUnderstood:
        return


def test_a_stub_without_room_for_more_headers_is_named() -> None:
    payloads = [Payload(name=f".s{number}", size_bytes=1, contents=b"x") for number in range(17)]
    with pytest.raises(NotUnderstood, match="no room"):
        link_uki(make_stub(), payloads)


def test_a_program_is_told_from_other_files() -> None:
    assert is_efi_program(make_stub())
    assert not is_efi_program(make_stub(machine=0x8664))
    assert not is_efi_program(b"\x1f\x8b" + bytes(100))
    assert not is_efi_program(b"MZ")
    assert not is_efi_program(b"MZ" + b"\xff" * 100)
