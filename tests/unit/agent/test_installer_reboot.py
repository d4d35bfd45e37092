"""The restart with a libc and a trigger of our own: nothing here may reach the kernel."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from agent.installer import reboot as module


class RefusingLibc:
    """The kernel refused (no capability, or a seccomp filter): reboot(2) returns."""

    def __init__(self) -> None:
        self.commands: list[int] = []

    def reboot(self, command: int) -> int:
        self.commands.append(command)
        return -1


@pytest.fixture
def trigger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "sysrq-trigger"
    monkeypatch.setattr(module, "SYSRQ", path)
    monkeypatch.setattr(os, "sync", lambda: None)
    return path


def test_refused_reboot_falls_through_to_the_trigger(trigger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    libc = RefusingLibc()
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: libc)
    module.reboot()
    assert libc.commands == [module.RB_AUTOBOOT]
    assert trigger.read_text() == "b"


@pytest.mark.parametrize("error", [OSError, MemoryError, AttributeError])
def test_python_without_a_libc_uses_the_trigger(
    trigger: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(_name: object) -> None:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", fail)
    module.reboot()
    assert trigger.read_text() == "b"
