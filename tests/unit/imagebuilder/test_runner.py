from __future__ import annotations

from pathlib import Path

import pytest

from imagebuilder.errors import CommandFailed, ImageBuilderError, MissingTool, NoSpace
from imagebuilder.runner import find_tool, require_tools, search_path


def _program(directory: Path, name: str) -> None:
    path = directory / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)


def test_system_directories_follow_path() -> None:
    assert search_path("/opt/bin:/usr/sbin") == "/opt/bin:/usr/sbin:/usr/local/sbin:/sbin"


def test_system_directories_are_searched_without_path() -> None:
    assert search_path("") == "/usr/local/sbin:/usr/sbin:/sbin"


def test_tools_come_from_path_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _program(tmp_path, "mke2fs")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_tool("mke2fs") == tmp_path / "mke2fs"
    assert find_tool("no-such-tool-anywhere") is None


def test_all_missing_tools_are_named_at_once_with_their_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagebuilder.runner.SBIN", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    _program(tmp_path, "zstd")
    with pytest.raises(MissingTool) as caught:
        require_tools("mcopy", "zstd", "mke2fs", "debugfs", "some-tool")
    assert caught.value.tools == {
        "mcopy": "mtools",
        "mke2fs": "e2fsprogs",
        "debugfs": "e2fsprogs",
        "some-tool": "some-tool",
    }
    assert caught.value.hint == "Install with: apt install e2fsprogs mtools some-tool"
    assert "'mcopy', 'mke2fs', 'debugfs', 'some-tool' are not installed" in str(caught.value)


def test_error_text_is_message_then_hint() -> None:
    error = ImageBuilderError("it broke", "mend it")
    assert (error.message, error.hint, str(error)) == ("it broke", "mend it", "it broke\nmend it")


def test_failed_command_is_shown_as_one_could_type_it_with_its_last_words() -> None:
    output = "\n".join(f"line {number}" for number in range(30))
    error = CommandFailed(["mcopy", "a b", "::/"], 3, output)
    assert "ended with exit code 3: mcopy 'a b' ::/" in error.message
    assert error.last_lines == tuple(f"line {number}" for number in range(10, 30))
    assert "line 9\n" not in error.message


def test_signals_and_timeouts_are_told_apart_from_exit_codes() -> None:
    killed = CommandFailed(["x"], -9, "")
    assert "was ended by SIGKILL" in killed.message
    assert "memory" in killed.hint
    assert "signal 77" in CommandFailed(["x"], -77, "").message
    assert "did not end within 5 s and was killed" in CommandFailed(["x"], None, "", timeout_s=5).message


def test_no_space_says_both_numbers() -> None:
    error = NoSpace(Path("/data"), 3 * 2**20, 2**20)
    assert "/data: 1 MiB are free, 3 MiB are needed" in error.message
