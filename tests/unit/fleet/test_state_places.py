"""Where a cluster's state is looked for, and whose what root writes there is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fleet import cli, cli_names
from fleet.cli import STATE_VARIABLE, state_directory
from fleet.cli_names import default_file
from fleet.files import write_private


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The user's own place, and the service's; neither is there yet."""
    own, service = tmp_path / "own", tmp_path / "service"
    monkeypatch.delenv(STATE_VARIABLE, raising=False)
    monkeypatch.setattr("platformdirs.user_state_path", lambda _name: own)
    monkeypatch.setattr(cli, "SERVICE_STATE", service)
    return own, service


def test_without_any_state_it_is_the_users_own(places: tuple[Path, Path]) -> None:
    assert state_directory("attic") == places[0] / "attic"


def test_the_services_state_is_found(places: tuple[Path, Path]) -> None:
    (places[1] / "attic").mkdir(parents=True)
    assert state_directory("attic") == places[1] / "attic"
    assert state_directory("other") == places[0] / "other"


def test_the_users_own_goes_before_the_services_and_the_variable_before_both(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for place in places:
        (place / "attic").mkdir(parents=True)
    assert state_directory("attic") == places[0] / "attic"
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "named"))
    assert state_directory("attic") == tmp_path / "named" / "attic"


def test_a_services_state_that_is_closed_to_the_user_is_taken_to_say_so(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    places[1].mkdir()
    monkeypatch.setattr("os.access", lambda path, _mode: path != places[1])
    assert state_directory("attic") == places[1] / "attic"


def test_the_services_file_is_meant_where_there_is_none_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli_names, "SERVICE_FILE", tmp_path / "etc.yaml")
    assert default_file() == Path("cluster.yaml")
    (tmp_path / "etc.yaml").touch()
    assert default_file() == tmp_path / "etc.yaml"
    (tmp_path / "cluster.yaml").touch()
    assert default_file() == Path("cluster.yaml")


@pytest.mark.parametrize(("user", "given"), [(0, True), (1000, False)], ids=["root", "anybody"])
def test_what_root_writes_is_the_directorys_owners(
    user: int, given: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    owner = os.stat_result((0o40700, 0, 0, 0, 812, 813, 0, 0, 0, 0))
    monkeypatch.setattr(Path, "stat", lambda _path: owner)
    monkeypatch.setattr("os.geteuid", lambda: user)
    monkeypatch.setattr("os.fchown", lambda _file, uid, gid: seen.append((uid, gid)))
    write_private(tmp_path / "key", b"secret")
    assert (tmp_path / "key").read_bytes() == b"secret"
    assert seen == ([(812, 813)] if given else [])
