"""Extended attributes, read from made-up inodes and blocks."""

from __future__ import annotations

import struct

import pytest

from imagebuilder.disk.ext4_layout import Ext4Error
from imagebuilder.disk.xattr import MAGIC, parse_block_attributes, parse_inode_attributes

CAPABILITY = bytes.fromhex("0100000200200000") + bytes(12)


def entry(prefix: int, name: bytes, offset: int, size: int, *, inode: int = 0) -> bytes:
    head = struct.pack("<BBHIII", len(name), prefix, offset, inode, size, 0)
    return head + name.ljust(-(-len(name) // 4) * 4, b"\0")


def inode(entries: bytes, value: bytes) -> bytes:
    """256 bytes with 32 extra ones; the value stands at the end."""
    area = entries.ljust(256 - 160 - 4 - len(value), b"\0") + value
    return bytes(128) + struct.pack("<H", 32) + bytes(30) + struct.pack("<I", MAGIC) + area


def test_a_capability_in_the_inode_is_read() -> None:
    raw = inode(entry(6, b"capability", 92 - len(CAPABILITY), len(CAPABILITY)), CAPABILITY)
    assert parse_inode_attributes(raw) == {"security.capability": CAPABILITY}


def test_attributes_in_a_block_are_read() -> None:
    entries = entry(1, b"note", 4000, 2) + entry(2, b"", 4010, 3)
    block = (
        (struct.pack("<I", MAGIC) + bytes(28) + entries).ljust(4000, b"\0") + b"hi".ljust(10, b"\0") + b"acl"
    )
    assert parse_block_attributes(block.ljust(4096, b"\0")) == {
        "user.note": b"hi",
        "system.posix_acl_access": b"acl",
    }


@pytest.mark.parametrize("raw", [bytes(128), bytes(256), inode(b"", b"")], ids=["small", "no magic", "empty"])
def test_an_inode_without_attributes_has_none(raw: bytes) -> None:
    assert parse_inode_attributes(raw) == {}


@pytest.mark.parametrize(
    "damaged",
    [entry(6, b"x", 4000, 200), entry(99, b"x", 0, 1), entry(6, b"x", 0, 1, inode=12)],
    ids=["value outside", "unknown prefix", "value in an inode"],
)
def test_damaged_attributes_are_an_error(damaged: bytes) -> None:
    with pytest.raises(Ext4Error, match="extended attribute"):
        parse_block_attributes((struct.pack("<I", MAGIC) + bytes(28) + damaged).ljust(4096, b"\0"))
    with pytest.raises(Ext4Error, match="extended attribute"):
        parse_inode_attributes(inode(damaged, b""))


def test_a_block_of_something_else_is_an_error() -> None:
    with pytest.raises(Ext4Error, match="damaged"):
        parse_block_attributes(bytes(4096))
