"""Where a cluster's state is looked for, and whose what root writes there is."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import NoReturn

import pytest

from fleet.admin_client import FleetReader, NoServerError
from fleet.cli.names import default_file
from fleet.cli.places import STATE_VARIABLE, state_directory, state_places
from fleet.files import write_private
from fleet.store.errors import NoRecordError


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The user's own place, and the service's; neither is there yet."""
    own, service = tmp_path / "own", tmp_path / "service"
    monkeypatch.delenv(STATE_VARIABLE, raising=False)
    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setattr("platformdirs.user_state_path", lambda _name: own)
    monkeypatch.setattr("fleet.cli.places.SERVICE_STATE", service)
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


@pytest.fixture
def theirs(places: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Root by sudo; where the caller would have the state of the cluster `attic`. It is not there yet."""
    me = pwd.getpwuid(os.getuid())
    ada = pwd.struct_passwd((me.pw_name, "x", 1000, 1000, "", str(tmp_path / "ada"), "/bin/sh"))
    monkeypatch.setattr("pwd.getpwnam", {"ada": ada}.__getitem__)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("SUDO_USER", "ada")
    return tmp_path / "ada/.local/state/bramble/attic"


def test_with_sudo_the_callers_server_is_asked(theirs: Path, places: tuple[Path, Path]) -> None:
    assert state_directory("attic") == places[0] / "attic", "nobody has one"
    theirs.mkdir(parents=True)
    assert state_directory("attic") == theirs
    assert state_directory("shelf") == places[0] / "shelf", "they have no such cluster"


def test_roots_own_and_the_services_state_go_before_the_callers(
    theirs: Path, places: tuple[Path, Path]
) -> None:
    theirs.mkdir(parents=True)
    (places[1] / "attic").mkdir(parents=True)
    assert state_directory("attic") == places[1] / "attic"
    (places[0] / "attic").mkdir(parents=True)
    assert state_directory("attic") == places[0] / "attic"


@pytest.mark.parametrize("case", ["not root", "unknown user", "variable"])
def test_nobody_elses_state_is_looked_at_otherwise(
    case: str, theirs: Path, places: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs.mkdir(parents=True)
    match case:
        case "not root":
            monkeypatch.setattr("os.geteuid", lambda: 1000)
        case "unknown user":
            monkeypatch.setenv("SUDO_USER", "bob")
        case _:
            monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "named"))
    assert theirs not in state_places("attic")


def no_server(*_words: object) -> NoReturn:
    raise NoServerError("no server runs")


def test_who_finds_no_record_is_told_where_it_was_looked_for(
    theirs: Path, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = FleetReader(places[0] / "attic", None, state_places("attic"))
    monkeypatch.setattr(reader, "_ask", no_server)
    for ask in (reader.nodes, reader.overview, lambda: reader.timeline("pi5-1")):
        with pytest.raises(NoRecordError) as caught:
            ask()
        for place in (places[0] / "attic", places[1] / "attic", theirs):
            assert str(place) in caught.value.hint


def test_the_services_file_is_meant_where_there_is_none_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fleet.cli.names.SERVICE_FILE", tmp_path / "etc.yaml")
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
