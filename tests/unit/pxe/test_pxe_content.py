"""Content by offset, and no way out of a boot tree."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxe.boot.content import BytesContent, Content, JoinedContent, open_content
from pxe.boot.routes import TreeFile


def read(content: Content, offset: int, size: int) -> bytes:
    buffer = bytearray(size)
    content.read_into([memoryview(buffer)], offset)
    return bytes(buffer)


def read_all(content: Content | None) -> bytes:
    assert content is not None
    try:
        return read(content, 0, content.size)
    finally:
        content.close()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "boot"
    (root / "overlays").mkdir(parents=True)
    (root / "overlays" / "x.dtbo").write_bytes(b"overlay")
    (root / "kernel8.img").write_bytes(b"kernel")
    (tmp_path / "secret").write_bytes(b"secret")
    return root


def test_files_of_the_tree_are_read(tree: Path) -> None:
    assert read_all(open_content(TreeFile(tree, ("kernel8.img",)))) == b"kernel"
    assert read_all(open_content(TreeFile(tree, ("overlays", "x.dtbo")))) == b"overlay"


def test_nothing_but_regular_files_inside_the_tree_is_opened(tree: Path) -> None:
    (tree / "link").symlink_to("../secret")
    (tree / "inner").symlink_to("kernel8.img")
    (tree / "folder").symlink_to("..")
    os.mkfifo(tree / "pipe")
    for parts in (
        ("link",),
        ("inner",),
        ("folder", "secret"),
        ("pipe",),
        ("overlays",),
        ("nope",),
        ("kernel8.img", "x"),
    ):
        assert open_content(TreeFile(tree, parts)) is None, parts
    assert open_content(TreeFile(tree, ("a\udc00\ud800",))) is None
    assert open_content(TreeFile(tree, ("n" * 300,))) is None
    assert open_content(TreeFile(tree / "nowhere", ("kernel8.img",))) is None


def test_pieces_are_one_file(tree: Path) -> None:
    assert (
        read_all(open_content((tree / "kernel8.img", b"+", tree / "overlays" / "x.dtbo")))
        == b"kernel+overlay"
    )


def test_a_missing_piece_makes_no_file(tree: Path) -> None:
    assert open_content((tree / "kernel8.img", tree / "nope")) is None


def test_a_file_that_shrinks_is_an_error_and_not_a_short_read(tree: Path) -> None:
    content = open_content(TreeFile(tree, ("kernel8.img",)))
    assert content is not None
    (tree / "kernel8.img").write_bytes(b"k")
    with pytest.raises(OSError, match="shorter"):
        read(content, 0, 6)
    content.close()


@given(
    st.lists(st.binary(max_size=9), max_size=5),
    st.integers(0, 50),
    st.lists(st.integers(0, 20), max_size=4),
    st.booleans(),
)
def test_joined_content_reads_like_its_bytes(
    parts: list[bytes], offset: int, sizes: list[int], nested: bool
) -> None:
    pieces: list[Content] = [BytesContent(part) for part in parts]
    joined = JoinedContent([JoinedContent(pieces)] if nested else pieces)
    whole = b"".join(parts)
    assert joined.size == len(whole)
    buffers = [bytearray(size) for size in sizes]
    views = [memoryview(buffer) for buffer in buffers]
    if any(sizes) and offset + sum(sizes) > len(whole):
        with pytest.raises(OSError, match="shorter"):
            joined.read_into(views, offset)
    else:
        joined.read_into(views, offset)
        assert b"".join(buffers) == whole[offset : offset + sum(sizes)]


def test_contents_are_the_same_only_for_the_same_bytes(tree: Path) -> None:
    path = tree / "kernel8.img"
    first, second = open_content(TreeFile(tree, ("kernel8.img",))), open_content((path,))
    assert first is not None
    assert second is not None
    assert first.identity == second.identity is not None
    path.write_bytes(b"KERNEL")
    os.utime(path, ns=(1, 1))
    changed = open_content((path, path))
    assert changed is not None
    assert changed.identity != (first.identity, first.identity)
    assert BytesContent(b"").identity is None
    assert JoinedContent([first, BytesContent(b"x")]).identity is None
    for content in (first, second, changed):
        content.close()
