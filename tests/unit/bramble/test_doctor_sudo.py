"""`sudo bramble doctor` asks the server of who called it."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from bramble.doctor.cli import callers_state

ME = pwd.getpwuid(0)


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Root by sudo; the caller's state of this cluster."""
    entry = pwd.struct_passwd((ME.pw_name, "x", 1000, 1000, "", str(tmp_path / "ada"), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwnam", lambda _name: entry)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("SUDO_USER", "ada")
    monkeypatch.delenv("BRAMBLE_STATE_DIR", raising=False)
    directory = tmp_path / "ada/.local/state/bramble/attic"
    directory.mkdir(parents=True)
    return directory


def test_with_sudo_the_callers_server_is_asked(theirs: Path, tmp_path: Path) -> None:
    assert callers_state(tmp_path / "root/attic") == theirs
    assert callers_state(tmp_path / "root/shelf") == tmp_path / "root/shelf", "no such cluster of theirs"


def test_what_root_has_itself_or_was_told_goes_first(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "root/attic"
    monkeypatch.setenv("BRAMBLE_STATE_DIR", str(own.parent))
    assert callers_state(own) == own
    monkeypatch.delenv("BRAMBLE_STATE_DIR")
    own.mkdir(parents=True)
    assert callers_state(own) == own
    assert theirs.exists()
