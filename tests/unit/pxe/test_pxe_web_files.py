"""Answers that carry a file: whatever becomes of them, the file is closed."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from pxe.boot.content import JoinedContent, open_content
from pxe.boot.routes import TreeFile
from pxe.web.files import FileResponse


def open_files() -> set[str]:
    """What this process has open, by name."""
    return {str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()}


def joined(path: Path) -> JoinedContent:
    """A program in pieces: it has no tag but that of its bytes."""
    path.write_bytes(bytes(1000))
    content = open_content((b"stub", path))
    assert isinstance(content, JoinedContent)
    assert str(path) in open_files()
    return content


def test_a_file_that_shrank_before_it_was_read_is_closed_and_asked_for_again(tmp_path: Path) -> None:
    path = tmp_path / "piece"
    content = joined(path)
    os.truncate(path, 10)
    with pytest.raises(web.HTTPServiceUnavailable) as caught:
        FileResponse(make_mocked_request("GET", "/"), content)
    assert caught.value.headers["Retry-After"] == "1"
    assert str(path) not in open_files()


def test_a_disk_that_can_not_be_read_keeps_no_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "piece"
    content = joined(path)

    def fail(_fd: int, _buffers: Sequence[memoryview], _offset: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(web.HTTPServiceUnavailable):
        FileResponse(make_mocked_request("GET", "/"), content)
    assert str(path) not in open_files()


def test_a_file_that_went_stale_while_it_was_opened_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kernel8.img"
    path.write_bytes(b"kernel")

    def fail(_fd: int) -> os.stat_result:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", fail)
        with pytest.raises(OSError, match="Stale"):
            open_content(TreeFile(tmp_path, ("kernel8.img",)))
        assert open_content((b"stub", path)) is None
    assert str(path) not in open_files()
