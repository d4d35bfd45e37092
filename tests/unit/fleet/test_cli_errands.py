"""The command line waits where somebody else asks the same node."""

from __future__ import annotations

from unittest.mock import create_autospec

import pytest
from click.testing import CliRunner

from fleet.admin_client import BusyError, FleetReader
from fleet.cli import errands
from fleet.cli.errands import ask
from fleet.errors import FleetError

BUSY = BusyError("somebody waits for log lines of pi4-1", "Ask again in seconds.")


def test_who_wants_log_lines_waits_for_who_asked_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errands, "POLL_S", 0.0)
    reader = create_autospec(FleetReader, instance=True)
    reader.ask.side_effect = [BUSY, BUSY, {"number": 7}, {"done": False}, {"done": True, "lines": ["x"]}]
    assert ask(reader, "pi4-1", "logs?lines=5") == {"lines": ["x"]}
    assert [call.args[1].rpartition("/")[2] for call in reader.ask.call_args_list] == [
        *["logs?lines=5"] * 3,
        *["7"] * 2,
    ]


def test_who_is_kept_waiting_for_too_long_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errands, "ANSWER_TIMEOUT_S", 0.0)
    reader = create_autospec(FleetReader, instance=True)
    reader.ask.side_effect = BUSY
    with pytest.raises(BusyError, match="somebody waits"):
        ask(reader, "pi4-1", "logs?lines=5")


ANSWER = {"done": True, "refused": "", "returncode": 1, "stdout": "", "stderr": "", "dropped_bytes": 0}


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ([FleetError("no server of this cluster is running")], 125),
        ([FleetError("there is no node 'pi4-1'")], 125),
        ([{"number": 7}, {**ANSWER, "refused": "remote_run is off"}], 125),
        ([{"number": 7}, ANSWER], 1),
        ([{"number": 7}, {**ANSWER, "returncode": -9}], 137),
    ],
    ids=["no server", "no node", "refused", "false", "killed"],
)
def test_what_a_command_said_is_told_from_that_it_was_not_run(
    answers: list[object], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = create_autospec(FleetReader, instance=True)
    reader.ask.side_effect = answers
    monkeypatch.setattr(errands, "reader_of", lambda _file: reader)
    result = CliRunner().invoke(errands.run, ["pi4-1", "false"])
    assert getattr(result.exception, "exit_code", result.exit_code) == code


def test_command_is_not_held_back_to_run_at_a_moment_that_nobody_expects() -> None:
    reader = create_autospec(FleetReader, instance=True)
    reader.ask.side_effect = BUSY
    with pytest.raises(BusyError):
        ask(reader, "pi4-1", "run", {"argv": ["id"]})
    assert reader.ask.call_count == 1
