"""`--wait`: what is shown until an order has ended, and how the command ends then."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from fleet.cli.recover import recover
from fleet.cli.rollout import rollout
from fleet.errors import FleetError


class ScriptedReader:
    """A server that answers GET with one value after the other; the last one stays."""

    def __init__(self, begin: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> None:
        self._begin = begin
        self._answers = list(answers)

    def ask(self, method: str, path: str, value: Mapping[str, Any] | None = None) -> Any:
        if path.endswith("/plan"):
            return {"problems": [], "warnings": [], "founder": "s1", "servers": ["s1"], "agents": []} | {
                "snapshot": {"id": ID, "taken_at": 0.0, "size_bytes": 1 << 20}
            }
        if method == "POST":
            return self._begin
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    def look(self, path: str) -> Any:
        return self.ask("GET", path)


ID = "20261126T031500Z-0a1b2c"
PLAN = {
    "image": "1c" * 32,
    "k3s_version": "v1.33.5+k3s1",
    "order": "agents first",
    "nodes": [],
    "soak_s": 600,
}
BEGUN = {"plan": PLAN, "problems": [], "warnings": [], "message": "rollout 1 has begun"}


def step(node: str, state: str, node_state: str, reason: str = "") -> dict[str, Any]:
    return {"node": node, "state": state, "node_state": node_state, "reason": reason}


def going(phase: str, *steps: dict[str, Any], reason: str = "") -> dict[str, Any]:
    return {"rollout": {"number": 1, "phase": phase, "reason": reason, "steps": list(steps)}}


def typed(
    monkeypatch: pytest.MonkeyPatch, command: click.Command, reader: ScriptedReader, *arguments: str
) -> Result:
    module = command.callback.__module__
    monkeypatch.setattr(f"{module}.reader_of", lambda _file: reader)
    monkeypatch.setattr("time.sleep", lambda _s: None)
    return CliRunner().invoke(command, [*arguments, "--yes", "--wait"])


def test_a_rollout_is_followed_with_a_line_for_each_change(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = step("a2", "waiting", "ready")
    reader = ScriptedReader(
        BEGUN,
        [
            going("running", step("a1", "running", "draining"), waiting),
            going("running", step("a1", "running", "draining"), waiting),
            going("running", step("a1", "done", "ready"), step("a2", "running", "installing")),
            going("done", step("a1", "done", "ready"), step("a2", "done", "ready")),
        ],
    )
    result = typed(monkeypatch, rollout, reader)
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines() == [
        "a1: running, draining",
        "a1: done, ready",
        "a2: running, installing",
        "a2: done, ready",
    ]
    assert result.stdout.splitlines()[-1] == "rollout 1 has begun"


@pytest.mark.parametrize("phase", ["stopped", "paused", "aborted"])
def test_a_rollout_that_does_not_go_on_by_itself_ends_the_wait_with_1(
    phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = step("a1", "failed", "failed-installing", "its disk is gone")
    reader = ScriptedReader(BEGUN, [going(phase, failed, reason="a1 failed")])
    result = typed(monkeypatch, rollout, reader)
    assert isinstance(result.exception, FleetError)
    assert f"rollout 1 is {phase}: a1 failed" in str(result.exception)
    assert "a1: failed, failed-installing: its disk is gone" in result.stderr


def test_with_json_the_end_of_a_rollout_is_in_the_one_object(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = ScriptedReader(BEGUN, [going("done")])
    result = typed(monkeypatch, rollout, reader, "--json")
    assert result.stderr == ""
    assert json.loads(result.stdout)["rollout"]["phase"] == "done"


def recovery(phase: str, *waits_for: str) -> dict[str, Any]:
    return {"founder": "s1", "snapshot": ID, "phase": phase, "waits_for": list(waits_for)}


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_a_recovery_is_followed_until_the_servers_are_back(
    as_json: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    founding = recovery("founding", "s1 is declared: switch its board on, from the network")
    answers = [
        founding,
        recovery("founding", "s1 is installing"),
        recovery("joining", "s2"),
        recovery("done"),
    ]
    reader = ScriptedReader(founding, [{"recovery": each} for each in answers])
    result = typed(monkeypatch, recover, reader, "--snapshot", ID, *(["--json"] if as_json else []))
    assert result.exit_code == 0, result.output
    if as_json:
        assert json.loads(result.stdout)["phase"] == "done"
        return
    lines = result.stdout.splitlines()
    assert [line for line in lines if line.startswith("  s1")] == [
        "  s1 is declared: switch its board on, from the network",
        "  s1 is installing",
    ]
    assert lines[-1] == f"the cluster is back from snapshot {ID}"


def test_a_recovery_that_is_called_off_ends_the_wait_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = recovery("founding", "s1 is installing")
    reader = ScriptedReader(begun, [{"recovery": recovery("cancelled")}])
    result = typed(monkeypatch, recover, reader, "--snapshot", ID)
    assert isinstance(result.exception, FleetError)
    assert "was called off" in result.stdout
