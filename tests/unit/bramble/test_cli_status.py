"""The one screen of `bramble status`, and its exit codes."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from bramble import cli_status
from bramble.cli import bramble
from bramble.cli_status import render
from fleet.admin_client import FleetReader
from fleet.errors import FleetError
from fleet.overview import Overview

EXAMPLE = str(Path(__file__).parents[3] / "examples" / "eight-mixed-ha.yaml")
LOST = {
    "code": "lost",
    "subject": "pi4-worker-1",
    "urgency": "now",
    "text": "pi4-worker-1 does not report any more",
    "hint": "Is it on?",
    "command": "bramble show pi4-worker-1",
    "since": 940.0,
}
EVENT = {"at": 980.0, "node": "pi4-worker-1", "board": None, "kind": "state", "text": "lost: no status"}


def seen(**changes: Any) -> dict[str, Any]:
    return {
        "live": True,
        "nodes": 8,
        "ready": 8,
        "states": {"ready": 8},
        "findings": [],
        "quorum": {"members": 3, "ready": 3, "needed": 2},
        "snapshots": {"newest_at": 400.0, "count": 3, "total_bytes": 9, "problem": ""},
        "under_way": [],
        "awaited": [],
        "events": [],
        **changes,
    }


def shown(value: dict[str, Any]) -> str:
    out = io.StringIO()
    Console(file=out, width=100).print(render({"error": "", "hint": "", **value}, 1000.0))
    return out.getvalue()


def typed(monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any] | FleetError, *arguments: str) -> Result:
    def overview(_reader: FleetReader) -> dict[str, Any]:
        if isinstance(answer, FleetError):
            raise answer
        return answer

    monkeypatch.setattr(FleetReader, "overview", overview)
    return CliRunner().invoke(bramble, ["status", EXAMPLE, *arguments])


def test_all_right_is_said_in_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    result = typed(monkeypatch, seen())
    assert result.exit_code == 0
    assert result.output.splitlines()[0] == "everything is all right"
    assert "8 of 8 Ready" in result.output
    assert "3 of 3 Ready, 2 needed: 1 more may fail" in result.output


def test_what_needs_a_person_comes_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    result = typed(monkeypatch, seen(ready=7, states={"ready": 7, "lost": 1}, findings=[LOST]))
    assert result.exit_code == 1
    assert "1 thing needs a person" in result.output
    assert "$ bramble show pi4-worker-1" in result.output
    assert "1 lost" in result.output


def test_without_a_server_nobody_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    result = typed(monkeypatch, seen(live=False))
    assert result.exit_code == 2
    assert "no server is running" in result.output
    assert "all right" not in result.output


def test_without_a_record_nobody_can_tell_and_json_stays_json(monkeypatch: pytest.MonkeyPatch) -> None:
    error = FleetError("there is no record of this cluster", "It is made by the first 'bramble serve'.")
    assert typed(monkeypatch, error).exit_code == 2
    result = typed(monkeypatch, error, "--json")
    assert result.exit_code == 2
    assert json.loads(result.output)["error"] == "there is no record of this cluster"


def test_json_has_the_same_keys_whatever_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keys = {"live", "error", "hint"} | {field.name for field in dataclasses.fields(Overview)}
    file = tmp_path / "cluster.yaml"
    file.write_text("version: 7\n")
    faulty = CliRunner().invoke(bramble, ["status", str(file), "--json"])
    missing = CliRunner().invoke(bramble, ["status", str(tmp_path / "none.yaml"), "--json"])
    answers = [
        faulty,
        missing,
        typed(monkeypatch, FleetError("there is no record"), "--json"),
        typed(monkeypatch, {"live": True, "findings": []}, "--json"),  # of an older server
        typed(monkeypatch, seen(), "--json"),
    ]
    for result in answers:
        assert json.loads(result.output).keys() == keys
    assert [result.exit_code for result in answers] == [2, 2, 2, 0, 0]
    assert "name cannot be read" in json.loads(faulty.output)["hint"]
    assert "does not exist" in json.loads(missing.output)["error"]


def test_a_faulty_file_ends_with_2_too(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("version: 7\n")
    result = CliRunner().invoke(bramble, ["status", str(file)])
    assert getattr(result.exception, "exit_code", None) == cli_status.CANNOT_TELL


def test_events_stand_with_their_age_and_whose_they_are() -> None:
    text = shown(seen(events=[EVENT]))
    assert "20 s ago  pi4-worker-1    lost: no status" in text


@pytest.mark.parametrize(
    ("ready", "words"), [(3, "1 more may fail"), (2, "no more may fail"), (1, "lost")], ids=str
)
def test_the_reserve_of_the_servers(ready: int, words: str) -> None:
    assert shown(seen(quorum={"members": 3, "ready": ready, "needed": 2})).splitlines()[2].endswith(words)


def test_degraded_servers_are_not_called_lost() -> None:
    quorum = {"members": 1, "ready": 0, "needed": 1, "degraded": 1}
    assert "1 degraded, which may be up" in shown(seen(quorum=quorum))


def test_the_age_of_the_newest_snapshot_is_shown() -> None:
    assert "snapshots of etcd: 3 kept, the newest 10 min old" in shown(seen())
    assert "snapshots" not in shown(seen(snapshots=None))


def test_a_hostile_text_is_no_markup() -> None:
    assert "[bold]x[/bold]" in shown(seen(findings=[{**LOST, "text": "[bold]x[/bold]"}]))


def test_a_fresh_cluster_is_told_what_comes_next(monkeypatch: pytest.MonkeyPatch) -> None:
    none = {"members": 0, "ready": 0, "needed": 0}
    fresh = seen(nodes=2, ready=0, states={"declared": 2}, quorum=none, awaited=["pi5-1", "pi4-1"])
    result = typed(monkeypatch, fresh)
    assert result.exit_code == 0
    assert "all right" not in result.output
    assert result.output.splitlines()[0] == "nothing needs a person; not every node is Ready yet"
    assert "awaited  pi5-1, pi4-1: switch them on" in result.output
    assert "awaited  pi5-1: switch it on" in typed(monkeypatch, {**fresh, "awaited": ["pi5-1"]}).output


def test_who_is_at_work_is_named_with_how_far_it_is() -> None:
    node = {"name": "pi4-worker-1", "state": "imaging", "detail": "write 34 %", "since": 940.0}
    text = shown(seen(ready=7, states={"ready": 7, "imaging": 1}, under_way=[node]))
    assert "at work  pi4-worker-1  imaging write 34 %  (60 s)" in text


def test_hundreds_of_nodes_fit_on_one_screen() -> None:
    names = [f"pi4-worker-{number}" for number in range(200)]
    lost = [{**LOST, "subject": name, "text": f"{name} is gone"} for name in names]
    busy = [{"name": name, "state": "imaging", "detail": "", "since": 0.0} for name in names]
    text = shown(seen(findings=lost, under_way=busy, awaited=names))
    assert len(text.splitlines()) <= 24
    assert "200 things need a person" in text
    assert "the same of pi4-worker-1, " in text
    assert "and 193 more" in " ".join(text.split())  # of the findings
    assert " ".join(text.split()).count("and 194 more") == 2  # of those at work, and of the awaited


def test_an_older_servers_answer_is_shown_too() -> None:
    before = {key: value for key, value in seen().items() if key not in ("under_way", "awaited")}
    assert shown(before).splitlines()[0] == "everything is all right"
