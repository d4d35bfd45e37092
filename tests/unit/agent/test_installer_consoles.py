"""Lines reach every console of the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.installer.consoles import Consoles


def test_a_line_goes_to_the_screen_and_to_the_serial_line(tmp_path: Path) -> None:
    active = tmp_path / "active"
    active.write_text("tty0 ttyAMA0\n")
    for name in ("tty0", "ttyAMA0"):
        (tmp_path / name).touch()
    Consoles(active, tmp_path).say("fingerprint 1a2b3c4d")
    for name in ("tty0", "ttyAMA0"):
        assert (tmp_path / name).read_bytes() == b"bramble: fingerprint 1a2b3c4d\r\n"


def test_a_console_that_is_gone_does_not_silence_the_others(tmp_path: Path) -> None:
    active = tmp_path / "active"
    active.write_text("tty9 ttyS0\n")
    (tmp_path / "tty9").mkdir()
    (tmp_path / "ttyS0").touch()
    Consoles(active, tmp_path).say("hello")
    assert b"hello" in (tmp_path / "ttyS0").read_bytes()


def test_without_consoles_standard_output_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Consoles(tmp_path / "none", tmp_path).say("hello")
    assert capsys.readouterr().out == "bramble: hello\n"
