"""The service: its units, and what putting it in place does."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from bramble.cli import bramble
from bramble.service import install as installing
from bramble.service.install import Plan, find_program, plan_installation, problems, status, uninstall
from bramble.service.unit import BUILD_UNIT, NODE, UNIT, ServiceSpec, quoted, render_build_unit, render_unit
from fleet.errors import FleetError, InputError
from imagebuilder.errors import CommandFailed, MissingTool
from imagebuilder.runner import Completed

SPEC = ServiceSpec(
    program=Path("/opt/pipx/venvs/bramble/bin/bramble"), cluster=Path("/etc/bramble/cluster.yaml")
)
TESTS_OWN = "the words of a unit"


@pytest.fixture
def booted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What systemd makes where it runs the machine."""
    place = tmp_path / "run-systemd-system"
    place.mkdir()
    monkeypatch.setattr(installing, "BOOTED", place)
    return place


def settings(text: str) -> dict[str, list[str]]:
    """Key → values; comments and sections left out."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("/usr/bin/bramble", "/usr/bin/bramble"),
        ("/srv/my cluster.yaml", '"/srv/my cluster.yaml"'),
        ("100%", '"100%%"'),
        ("$HOME", '"$$HOME"'),
        ('a"b', '"a\\"b"'),
        ("", '""'),
    ],
)
def test_words_of_a_command_line_are_quoted_as_systemd_reads_them(word: str, written: str) -> None:
    assert quoted(word) == written


def test_the_server_has_a_user_of_its_own_and_two_capabilities() -> None:
    found = settings(render_unit(SPEC))
    assert found["User"] == ["bramble"]
    assert (
        found["AmbientCapabilities"] == found["CapabilityBoundingSet"] == ["CAP_NET_BIND_SERVICE CAP_NET_RAW"]
    )
    assert found["Type"] == ["notify"]
    assert found["ProtectHome"] == ["yes"]
    assert found["StateDirectoryMode"] == ["0700"]


def test_a_faulty_file_is_not_tried_again_and_again() -> None:
    assert settings(render_unit(SPEC))["RestartPreventExitStatus"] == ["2"]


@pytest.mark.parametrize(
    "spec",
    [
        ServiceSpec(program=Path("/home/me/venv/bin/bramble"), cluster=SPEC.cluster),
        ServiceSpec(program=SPEC.program, cluster=Path("/home/me/cluster.yaml")),
    ],
    ids=["program", "cluster.yaml"],
)
def test_what_lies_below_a_home_can_be_read_there_and_not_written(spec: ServiceSpec) -> None:
    assert settings(render_unit(spec))["ProtectHome"] == ["read-only"]


def test_both_units_use_the_same_state_and_cache() -> None:
    one, other = settings(render_unit(SPEC)), settings(render_build_unit(SPEC))
    for key in ("User", "Environment", "StateDirectory", "CacheDirectory", "EnvironmentFile"):
        assert one[key] == other[key]
    assert "AmbientCapabilities" not in other


def test_the_plan_makes_the_user_only_where_it_is_missing() -> None:
    new = plan_installation(SPEC, start=True, user_exists=False)
    assert [argv[0] for argv in new.commands] == ["useradd", "systemctl", "systemctl", "systemctl"]
    # 'enable --now' would leave a service that runs already with the units of before.
    assert new.commands[-2:] == (("systemctl", "enable", UNIT), ("systemctl", "restart", UNIT))
    again = plan_installation(SPEC, start=False, user_exists=True)
    assert again.commands == (("systemctl", "daemon-reload"), ("systemctl", "enable", UNIT))


def test_everything_that_is_in_the_way_is_told_at_once(booted: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    program = closed / "bramble"
    program.write_text("")
    tmp_path.chmod(0o755)
    spec = ServiceSpec(program=program, cluster=tmp_path / "absent.yaml")
    found = problems(spec, is_root=False)
    assert "root is needed" in found[0]
    assert "does not exist" in found[1]
    assert any("closed to others" in problem for problem in found[2:])


def test_a_node_is_no_place_for_the_server(booted: Path) -> None:
    assert settings(render_unit(SPEC))["ConditionPathExists"] == [
        str(SPEC.cluster),
        "!/etc/bramble/node.json",
    ]
    spec = ServiceSpec(program=Path("/usr/bin/env"), cluster=Path("/etc/hostname"))
    found = problems(spec, is_root=True, exists=lambda path: path == NODE or path.exists())
    assert ["is a node" in problem for problem in found] == [True]


def test_a_file_that_the_services_user_cannot_read_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("version: 1\n")
    spec = ServiceSpec(program=Path("/usr/bin/env"), cluster=cluster)
    cluster.chmod(0o600)  # as a root with 'umask 077' writes it
    assert any(f"chmod a+r {cluster}" in problem for problem in problems(spec, is_root=True))
    cluster.chmod(0o644)
    assert not any("chmod" in problem for problem in problems(spec, is_root=True))


class Commands:
    """Writes down what would be run; fails where it is told to."""

    def __init__(self, output: str = "", fails: Exception | None = None) -> None:
        self.run: list[tuple[str, ...]] = []
        self._output = output
        self._fails = fails

    def __call__(self, argv: Sequence[str]) -> Completed:
        self.run.append(tuple(argv))
        if self._fails is not None:
            raise self._fails
        return Completed(self._output.encode(), b"", 0)


def test_below_another_root_files_are_written_and_nothing_is_run(tmp_path: Path) -> None:
    plan, commands = plan_installation(SPEC, start=True, user_exists=False), Commands()
    installing.install(plan, root=tmp_path, execute=commands)
    assert commands.run == []
    directory = tmp_path / "etc/systemd/system"
    assert sorted(path.name for path in directory.iterdir()) == [BUILD_UNIT, UNIT]
    assert (directory / UNIT).read_text() == render_unit(SPEC)
    assert (directory / UNIT).stat().st_mode & 0o777 == 0o644


def test_a_second_installation_replaces_the_units(tmp_path: Path) -> None:
    for cluster in ("/a.yaml", "/b.yaml"):
        spec = ServiceSpec(program=SPEC.program, cluster=Path(cluster))
        installing.install(plan_installation(spec, start=True, user_exists=True), root=tmp_path)
    assert "/b.yaml" in (tmp_path / "etc/systemd/system" / UNIT).read_text()


def test_without_systemd_the_error_says_what_to_do_instead(booted: Path, tmp_path: Path) -> None:
    booted.rmdir()
    asked = Commands(RUNNING)
    with pytest.raises(FleetError, match=r"not run by systemd.* Run 'bramble serve' as"):
        status(asked)
    assert asked.run == []
    spec = ServiceSpec(program=Path("/usr/bin/env"), cluster=Path("/etc/hostname"))
    (found,) = problems(spec, is_root=True)
    assert "not run by systemd" in found


def test_what_a_command_lacks_is_told(booted: Path) -> None:
    plan = Plan(files={}, commands=(("systemctl", "daemon-reload"),))
    failing = Commands(fails=CommandFailed(["systemctl"], 1, "Access denied"))
    with pytest.raises(FleetError, match="Access denied"):
        installing.install(plan, execute=failing)
    with pytest.raises(FleetError, match="apt install systemd"):
        status(Commands(fails=MissingTool({"systemctl": "systemd"})))


def test_uninstalling_removes_the_units_and_nothing_else(tmp_path: Path) -> None:
    installing.install(plan_installation(SPEC, start=True, user_exists=True), root=tmp_path)
    other = tmp_path / "etc/systemd/system/other.service"
    other.write_text(TESTS_OWN)
    assert {path.name for path in uninstall(root=tmp_path)} == {UNIT, BUILD_UNIT}
    assert [path.name for path in other.parent.iterdir()] == ["other.service"]
    assert uninstall(root=tmp_path) == []


def test_the_packages_service_is_left_to_dpkg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = tmp_path / UNIT
    packaged.write_text(TESTS_OWN)
    monkeypatch.setattr(installing, "PACKAGED", packaged)
    with pytest.raises(InputError, match="apt remove bramble"):
        uninstall(root=tmp_path / "elsewhere")


RUNNING = """LoadState=loaded
ActiveState=active
SubState=running
UnitFileState=enabled
MainPID=812
NRestarts=1
StatusText=serving 8 nodes of attic
Result=success
ActiveEnterTimestamp=Thu 2026-11-26 03:00:00 UTC
MemoryCurrent=115343360
"""
ABSENT = "LoadState=not-found\nActiveState=inactive\nSubState=dead\nMainPID=0\nMemoryCurrent=[not set]\n"


def test_what_systemd_says_is_read(booted: Path) -> None:
    said = status(Commands(RUNNING))
    assert (said["running"], said["enabled"], said["restarts"], said["pid"]) == (True, True, 1, 812)
    assert said["says"] == "serving 8 nodes of attic"
    absent = status(Commands(ABSENT))
    assert (absent["installed"], absent["running"], absent["memory_bytes"]) == (False, False, 0)


@pytest.mark.parametrize(
    ("output", "code", "words"),
    [(RUNNING, 0, "active (running)"), (ABSENT, 1, "not installed: 'sudo bramble service install'")],
    ids=["runs", "absent"],
)
def test_the_status_command(
    output: str, code: int, words: str, booted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = status(Commands(output))
    monkeypatch.setattr(installing, "status", lambda: answer)
    result = CliRunner().invoke(bramble, ["service", "status"])
    assert result.exit_code == code
    assert words in result.output
    assert json.loads(CliRunner().invoke(bramble, ["service", "status", "--json"]).output) == answer


def test_a_dry_run_prints_the_units_and_commands_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installing, "install", lambda *_args, **_values: pytest.fail("it was installed"))
    file = tmp_path / "cluster.yaml"
    result = CliRunner().invoke(bramble, ["service", "install", str(file), "--dry-run"])
    assert result.exit_code == 0
    assert f"serve {file}" in result.stdout
    assert f"$ {shlex.join(('systemctl', 'restart', UNIT))}" in result.stdout
    assert "does not exist" in result.stderr


def test_an_installation_that_cannot_work_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    result = CliRunner().invoke(bramble, ["service", "install", str(tmp_path / "absent.yaml")])
    assert isinstance(result.exception, InputError)
    assert "root is needed" in str(result.exception)
    assert "does not exist" in str(result.exception)


def test_the_program_is_the_one_beside_this_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bramble").write_text("")
    assert find_program(str(tmp_path / "python3")) == tmp_path / "bramble"
    monkeypatch.setattr("shutil.which", lambda _name: None)
    with pytest.raises(FleetError, match="pipx install --global bramble"):
        find_program(str(tmp_path / "elsewhere" / "python3"))
