"""What is wrong with what a person names is said before anything is done, with the exit code for that."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from bramble.cli import bramble
from imagebuilder.flash.devices import Inventory

EXAMPLE = str(Path(__file__).parents[3] / "examples" / "first-node.yaml")
NODE = "solo-1"


@pytest.fixture(autouse=True)
def _new_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is built, fetched or written yet, and no disk is plugged in."""
    for name in ("BRAMBLE_CACHE_DIR", "BRAMBLE_STATE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr(Inventory, "disks", lambda _self: [])


def typed(*words: object) -> tuple[int, str]:
    """The exit code, and what was said."""
    result = CliRunner().invoke(bramble, [str(word) for word in words])
    error = result.exception
    return getattr(error, "exit_code", result.exit_code), f"{result.output}{error or ''}"


def test_a_backup_that_is_not_there(tmp_path: Path) -> None:
    code, said = typed("restore", tmp_path / "none.bramble", "-c", EXAMPLE)
    assert (code, "none.bramble does not exist" in said) == (2, True)
    assert not (tmp_path / "BRAMBLE_STATE_DIR").exists()


def test_a_device_that_is_not_there_is_said_before_an_image_is_looked_for(tmp_path: Path) -> None:
    code, said = typed("flash", NODE, tmp_path / "sdz", "-c", EXAMPLE)
    assert code == 2
    assert "sdz" in said
    assert "base" not in said


def test_a_node_that_is_not_declared_is_a_value_that_cannot_be_used(tmp_path: Path) -> None:
    code, said = typed("flash", "solo-l", tmp_path / "sdz", "-c", EXAMPLE)
    assert (code, f"Did you mean {NODE!r}?" in said) == (2, True)


def test_an_empty_cache_is_called_so(tmp_path: Path) -> None:
    assert typed("store", "list") == (0, f"nothing is in {tmp_path / 'BRAMBLE_CACHE_DIR'} yet\n")
