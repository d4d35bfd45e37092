"""cpio archives and ELF needs, byte by byte."""

from __future__ import annotations

import stat
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.cpio import CpioEntry, encode_archive, pad, regular, symlink
from imagebuilder.elf import Needs, is_elf, parse_needs
from imagebuilder.errors import NotUnderstood


def read_archive(data: bytes) -> list[tuple[str, int, bytes]]:
    """A second reading of the format, written from its description: (name, mode, content)."""
    found: list[tuple[str, int, bytes]] = []
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + i * 8 : at + 14 + i * 8], 16) for i in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = data[at + 110 : at + 110 + name_size - 1].decode()
        at = (at + 110 + name_size + 3) // 4 * 4
        content = data[at : at + size]
        at = (at + size + 3) // 4 * 4
        if name == "TRAILER!!!":
            assert not data[at:].strip(b"\0")
            return found
        found.append((name, mode, content))


def test_parents_come_before_their_children_and_once() -> None:
    archive = encode_archive(
        [regular("usr/bin/python3", b"#!"), symlink("usr/lib/x", "y"), regular("init", b"i", 0o755)], 7
    )
    assert len(archive) % 512 == 0
    assert read_archive(archive) == [
        ("init", stat.S_IFREG | 0o755, b"i"),
        ("usr", stat.S_IFDIR | 0o755, b""),
        ("usr/bin", stat.S_IFDIR | 0o755, b""),
        ("usr/bin/python3", stat.S_IFREG | 0o644, b"#!"),
        ("usr/lib", stat.S_IFDIR | 0o755, b""),
        ("usr/lib/x", stat.S_IFLNK | 0o777, b"y"),
    ]


def test_the_order_of_entries_does_not_matter() -> None:
    entries = [regular("b", b"1"), regular("a/c", b"2"), CpioEntry("a", stat.S_IFDIR | 0o700)]
    assert encode_archive(entries, 0) == encode_archive(reversed(entries), 0)


@given(
    st.dictionaries(
        st.text("abc/", min_size=1).map(lambda t: t.strip("/").replace("//", "/x")).filter(bool),
        st.binary(max_size=50),
    )
)
def test_every_content_comes_back(files: dict[str, bytes]) -> None:
    names = {
        name
        for name in files
        if not any(other.startswith(f"{name}/") for other in files) and "//" not in name
    }
    found = {
        name: content
        for name, mode, content in read_archive(encode_archive([regular(n, files[n]) for n in names], 0))
        if stat.S_ISREG(mode)
    }
    assert found == {name: files[name] for name in names}


def test_padding_ends_on_512_bytes() -> None:
    assert [len(pad(bytes(n))) for n in (0, 1, 512, 513)] == [0, 512, 512, 1024]


def elf(needed: tuple[str, ...], interpreter: str | None, machine: int = 183) -> bytes:
    """A library or program with a string table mapped at another address than its offset."""
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in needed)
    base, header_bytes = 0x10000, 64 + 3 * 56
    interp = (interpreter or "").encode() + b"\0"
    strings_at = header_bytes + len(interp)
    dynamic_at = strings_at + len(strings)
    positions = [strings.index(name.encode() + b"\0") for name in needed]
    entries = [(1, position) for position in positions] + [(5, base + strings_at), (0, 0)]
    dynamic = b"".join(struct.pack("<qQ", *entry) for entry in entries)
    total = dynamic_at + len(dynamic)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, machine, 1, 0, 64, 0, 0, 64, 56, 3, 0, 0, 0
    )
    programs = [
        (1, 0, base, total),
        (2, dynamic_at, base + dynamic_at, len(dynamic)),
        (3 if interpreter else 4, header_bytes, base + header_bytes, len(interp)),
    ]
    table = b"".join(
        struct.pack("<IIQQQQQQ", kind, 0, at, address, 0, size, size, 8)
        for kind, at, address, size in programs
    )
    return header + table + interp + strings + dynamic


def test_needs_of_a_program_and_of_a_library() -> None:
    program = elf(("libc.so.6", "libz.so.1"), "/lib/ld-linux-aarch64.so.1")
    assert is_elf(program)
    assert parse_needs(program) == Needs("/lib/ld-linux-aarch64.so.1", ("libc.so.6", "libz.so.1"))
    assert parse_needs(elf((), None)) == Needs(None, ())


@pytest.mark.parametrize(
    "data", [b"\x7fELF", elf(("a",), None, machine=62), elf(("a",), None)[:200]], ids=["cut", "amd64", "half"]
)
def test_what_is_no_arm64_elf_is_refused(data: bytes) -> None:
    with pytest.raises(NotUnderstood):
        parse_needs(data)
