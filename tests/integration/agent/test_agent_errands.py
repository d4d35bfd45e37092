"""Log lines and commands through a real agent, HTTPS server and processes; systemd-run is a stand-in."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from agent_nodes import SYSTEMD_RUN, FakeSystem, make_node_root
from agent_services import make_service, serving
from fakes_agent import TICKET, ControlServer

from agent.commands import CommandError, run_bounded
from agent.errands import LOGS, MAX_OUTPUT_BYTES, RUN, Errand, LogUpload, RunResult

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def systemd_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin/systemd-run"
    program.parent.mkdir()
    program.write_text(SYSTEMD_RUN)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")


def make_root(tmp_path: Path, control: ControlServer, **node: object) -> Path:
    return make_node_root(
        tmp_path / "root", control_urls=[control.url], ca_pem=control.authority.pem, ticket=TICKET, **node
    )


def answer_to(control: ControlServer, root: Path, errand: Errand) -> LogUpload | RunResult:
    control.errand = errand
    seen = len(control.answers)
    with serving(make_service(root, FakeSystem())):
        control.wait_for(lambda: len(control.answers) > seen)
        reports = len(control.statuses)
        control.wait_for(lambda: len(control.statuses) > reports + 2)
    assert len(control.answers) == seen + 1
    return control.answers[-1]


def run(control: ControlServer, root: Path, number: int, *argv: str, timeout_s: float = 20.0) -> RunResult:
    result = answer_to(control, root, Errand(number, RUN, argv=argv, timeout_s=timeout_s))
    assert isinstance(result, RunResult)
    return result


def test_log_lines_are_sent_when_asked_for(control: ControlServer, tmp_path: Path) -> None:
    upload = answer_to(control, make_root(tmp_path, control), Errand(1, LOGS))
    assert isinstance(upload, LogUpload)
    assert upload.number == 1


def test_command_runs_without_a_shell_and_says_how_it_ended(control: ControlServer, tmp_path: Path) -> None:
    root = make_root(tmp_path, control, remote_run=True)
    result = run(control, root, 1, "printf", "%s|", "$HOME", "a b", ";reboot", "token=hunter2")
    assert (result.returncode, result.stdout, result.refused) == (0, "$HOME|a b|;reboot|token=[hidden]", "")
    priced = run(control, root, 2, "printf", "%s|", "${HOME}", "5$", "$$", "a$HOME.b")
    assert (priced.returncode, priced.stdout) == (0, "${HOME}|5$|$$|a$HOME.b|")
    failed = run(control, root, 3, "sh", "-c", "echo why >&2; exit 3")
    assert (failed.returncode, failed.stderr) == (3, "why\n")


def test_command_is_refused_where_the_node_does_not_permit_it(control: ControlServer, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    result = run(control, make_root(tmp_path, control), 1, "touch", str(marker))
    assert result.refused == "the image of this node says remote_run: off"
    assert not marker.exists()


@pytest.mark.parametrize("word", ["on", "true", 1, None, {"on": True}])
def test_only_the_exact_word_permits_it(control: ControlServer, tmp_path: Path, word: object) -> None:
    assert run(control, make_root(tmp_path, control, remote_run=word), 1, "true").refused


def test_command_is_not_run_twice_whatever_becomes_of_the_agent(
    control: ControlServer, tmp_path: Path
) -> None:
    root, marker = make_root(tmp_path, control, remote_run=True), tmp_path / "ran"
    run(control, root, 5, "sh", "-c", f"echo x >> {marker}")
    control.statuses.clear()
    with serving(make_service(root, FakeSystem())):  # the server still shows the same number
        control.wait_for(lambda: len(control.statuses) > 3)
    assert marker.read_text() == "x\n"


def test_output_without_end_is_cut_and_time_ends_it(control: ControlServer, tmp_path: Path) -> None:
    root = make_root(tmp_path, control, remote_run=True)
    started = time.monotonic()
    result = run(control, root, 1, "sh", "-c", "yes | head -c 5000000; exit 7")
    assert result.returncode == 7
    assert len(result.stdout) == MAX_OUTPUT_BYTES
    assert result.dropped_bytes > 0
    assert time.monotonic() - started < 60


def test_bounded_run_keeps_what_was_written_before_the_time_was_over() -> None:
    done = run_bounded(["sh", "-c", "echo first; exec sleep 60"], timeout_s=2.0, limit_bytes=100)
    assert (done.stdout, done.timed_out) == (b"first\n", True)
    assert done.returncode < 0


def test_bounded_run_ends_with_its_time_though_a_child_holds_the_pipe() -> None:
    started = time.monotonic()
    done = run_bounded(["sh", "-c", "sleep 60 & echo here"], timeout_s=2.0, limit_bytes=100)
    assert done.stdout == b"here\n"
    assert time.monotonic() - started < 30


def test_bounded_run_of_nothing_is_an_error() -> None:
    with pytest.raises(CommandError, match="could not start"):
        run_bounded(["no-such-program"], timeout_s=1.0, limit_bytes=1)
