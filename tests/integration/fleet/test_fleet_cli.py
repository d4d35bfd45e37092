"""`bramble nodes`, `show` and `approve` as a person types them, with a running server and without one."""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path

import pytest
from fakes_fleet import hardware_of, installer_hello, open_fleet
from typed_cluster import HEAD, node_line, serving, state_of, typed, write_cluster

from agent.proofs import fingerprint as fingerprint_of
from agent.protocol import Proof, ProofKind
from bramble.cli_status import status
from fleet.cli.nodes import nodes, show
from fleet.cli.people import approve
from fleet.controller import Controller
from fleet.spec import load_cluster
from fleet.spec.model import ClusterSpec

pytestmark = pytest.mark.integration

CLUSTER = HEAD + node_line("pi5-1", 1, role="server")
KEY = b"k" * 32


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return write_cluster(tmp_path, CLUSTER, monkeypatch)


@pytest.fixture
def spec(file: Path) -> ClusterSpec:
    return load_cluster(file)


def knock(controller: Controller, spec: ClusterSpec) -> None:
    """The server's installer asks and waits for approval."""
    hello = installer_hello(hardware_of(spec.nodes[0]), KEY)
    welcome = controller.admission.hello(hello)
    controller.admission.prove(Proof(welcome.session, ProofKind.NONE, installer_key=KEY.hex()), None)


def test_live_server_is_asked_and_approval_reaches_it(file: Path, spec: ClusterSpec) -> None:
    with serving(file) as server:
        server.in_loop(lambda: knock(server.fleet.controller, spec))
        listing = json.loads(typed(nodes, file, "--json").output)
        assert listing["live"] is True
        assert [(node["name"], node["state"]) for node in listing["nodes"]] == [("pi5-1", "pending")]
        assert "pi5-1 is approved" in typed(approve, "pi5-1", file, "--yes").output
        timeline = json.loads(typed(show, "pi5-1", file, "--json").output)
        assert "approved by a person" in timeline["events"][-1]["text"]
        refused = typed(approve, "pi5-1", file, "--yes")
        assert refused.exit_code == 1
        assert "nothing of pi5-1 waits" in str(refused.exception)


def test_without_a_server_the_file_is_read_and_approval_needs_one(file: Path, spec: ClusterSpec) -> None:
    fleet = open_fleet(state_of(file), spec)
    knock(fleet.controller, spec)
    fleet.store.close()
    table = typed(nodes, file)
    assert table.exit_code == 0, table.exception
    assert "pending" in table.output
    assert "No server is running" in table.output
    story = typed(show, "pi5-1", file).output
    assert "serial: 10000000abcd0001" in story
    assert "waits for approval" in story
    assert "bramble approve pi5-1" in story
    assert "no server of this cluster is running" in str(typed(approve, "pi5-1", file, "--yes").exception)


def test_approval_is_for_the_key_that_was_compared(
    file: Path, spec: ClusterSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprint = fingerprint_of(hashlib.sha256(KEY).hexdigest())
    with serving(file) as server:
        server.in_loop(lambda: knock(server.fleet.controller, spec))
        refused = typed(approve, "pi5-1", file, "--key", "0123-4567-89ab-cdef-0123")
        assert f"waits now is {fingerprint}, not 0123-4567-89ab-cdef-0123" in str(refused.exception)
        assert "--key FINGERPRINT" in typed(approve, "pi5-1", file).output
        monkeypatch.setattr("fleet.cli.questions.is_terminal", lambda: True)
        declined = typed(approve, "pi5-1", file, answer="n\n")
        assert f"show {fingerprint}?" in declined.output
        assert declined.exit_code == 1
        agreed = typed(approve, "pi5-1", file, answer="y\n")
        assert f"approved (key {fingerprint})" in agreed.output


def test_fingerprint_that_is_none_is_a_usage_error(file: Path) -> None:
    assert typed(approve, "pi5-1", file, "--key", "12").exit_code == 2


def test_socket_of_a_killed_server_is_not_mistaken_for_one(file: Path, spec: ClusterSpec) -> None:
    state = state_of(file)
    open_fleet(state, spec).store.close()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(state / "control.sock"))
    listener.close()
    assert json.loads(typed(nodes, file, "--json").output)["live"] is False


def test_before_the_first_serve_the_error_says_so(file: Path) -> None:
    result = typed(nodes, file)
    assert result.exit_code == 1
    assert "no record of this cluster" in str(result.exception)


def test_a_broken_file_takes_nobodys_sight_away(file: Path, spec: ClusterSpec) -> None:
    sound = file.read_text()
    with serving(file) as server:
        file.write_text(sound + "  - {name: [\n")
        for command, words in ((nodes, ["--json"]), (show, ["pi5-1"]), (status, [])):
            name = words if command is show else []
            seen = typed(command, *name, file, *([] if command is show else words))
            assert "pi5-1" in seen.stdout or "1 declared" in seen.stdout
            assert f"{file} has 1 error\n{file}:" in seen.stderr
            assert seen.exit_code == (2 if command is status else 0), seen.output
        server.in_loop(lambda: knock(server.fleet.controller, spec))
        told = typed(status, file, "--json")
        known = json.loads(told.stdout)
        assert (told.exit_code, known["live"], known["nodes"], len(known["findings"])) == (2, True, 1, 1)
        assert "has 1 error" in known["error"]
        refused = typed(approve, "pi5-1", file, "--yes")
        assert "has 1 error" in str(refused.exception), "who changes something wants a sound file"
    assert "pending" in typed(nodes, file).stdout, "of the record"
    file.write_text(sound.replace("attic", "cellar", 1).replace("version: 1", "version: 7"))
    other = typed(nodes, file)
    assert (other.stdout, getattr(other.exception, "exit_code", None)) == ("", 2)
    assert "No record of cluster 'cellar' is here" in str(other.exception)


@pytest.mark.parametrize("name", ["nobody", "../../etc/passwd", "a b?c#d"])
def test_name_of_nothing_is_explained(file: Path, name: str) -> None:
    with serving(file):
        assert "there is no node or board" in str(typed(show, name, file).exception)
    assert "there is no node or board" in str(typed(show, name, file).exception)


def test_status_is_that_of_the_server_and_without_one_of_the_record(file: Path, spec: ClusterSpec) -> None:
    with serving(file) as server:
        calm = typed(status, file)
        assert calm.exit_code == 0, calm.output
        server.in_loop(lambda: knock(server.fleet.controller, spec))
        waiting = typed(status, file, "--json")
        assert waiting.exit_code == 1
        seen = json.loads(waiting.output)
        assert seen["live"] is True
        assert [one["command"] for one in seen["findings"]] == ["bramble approve pi5-1"]
        assert seen["snapshots"] is not None
        assert "pending" in typed(status, file).output
    stale = typed(status, file)
    assert stale.exit_code == 2
    assert "no server is running" in stale.output
    assert "bramble approve pi5-1" in stale.output
