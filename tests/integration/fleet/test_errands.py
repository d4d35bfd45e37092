"""Two people ask one node: neither takes the other's answer away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakes_fleet import Fleet, cluster_spec, open_fleet
from fleet_story import SERVER, enrol, install

from agent.errands import LogUpload, RunResult
from fleet.errands import ANSWER_TIMEOUT_S, EXPIRES_S, UNFETCHED_S, ErrandDesk
from fleet.refusal import RefusedError
from fleet.spec.model import RemoteRun

pytestmark = pytest.mark.integration

NAME = SERVER.name


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    spec = cluster_spec(SERVER)
    opened = open_fleet(tmp_path, replace(spec, policy=replace(spec.policy, remote_run=RemoteRun.ON)))
    install(opened, SERVER)
    opened.controller.joins.desired(enrol(opened, SERVER))
    yield opened
    opened.store.close()


def answer_logs(fleet: Fleet, number: int) -> None:
    with fleet.store.read() as reader:
        node = reader.require_node(NAME)
    fleet.controller.errands.take(node, LogUpload(number, ("a line",), "cursor"))


def answer_run(fleet: Fleet, number: int) -> None:
    with fleet.store.read() as reader:
        node = reader.require_node(NAME)
    fleet.controller.errands.take(node, RunResult(number, returncode=0, stdout="done"))


def ask_logs(desk: ErrandDesk) -> int:
    return desk.ask_logs(NAME)


def ask_run(desk: ErrandDesk) -> int:
    return desk.ask_run(NAME, ["id"], 5.0, "a test")


ASKS = pytest.mark.parametrize("ask", [ask_logs, ask_run])


def assert_busy(desk: ErrandDesk, ask: Callable[[ErrandDesk], int]) -> None:
    with pytest.raises(RefusedError) as refused:
        ask(desk)
    assert (refused.value.status, refused.value.code) == (409, "busy")


@ASKS
def test_question_for_log_lines_keeps_its_place_until_it_is_answered_and_fetched(
    fleet: Fleet, ask: Callable[[ErrandDesk], int]
) -> None:
    desk = fleet.controller.errands
    number = desk.ask_logs(NAME)
    assert_busy(desk, ask)
    answer_logs(fleet, number)
    assert_busy(desk, ask)
    assert desk.fetch(NAME, number)["lines"] == ("a line",)
    assert ask(desk) > number


@ASKS
def test_log_lines_that_nobody_waits_for_any_more_keep_no_place(
    fleet: Fleet, ask: Callable[[ErrandDesk], int]
) -> None:
    desk = fleet.controller.errands
    answer_logs(fleet, desk.ask_logs(NAME))
    fleet.clock.advance(UNFETCHED_S)
    unanswered = desk.ask_logs(NAME)
    fleet.clock.advance(ANSWER_TIMEOUT_S - 1)
    assert_busy(desk, ask)
    fleet.clock.advance(1)
    assert ask(desk) > unanswered


@ASKS
def test_output_of_a_command_waits_for_its_asker(fleet: Fleet, ask: Callable[[ErrandDesk], int]) -> None:
    desk = fleet.controller.errands
    number = desk.ask_run(NAME, ["id"], 5.0, "a test")
    assert_busy(desk, ask)
    answer_run(fleet, number)
    fleet.clock.advance(EXPIRES_S - 1)
    assert_busy(desk, ask)
    assert desk.fetch(NAME, number)["stdout"] == "done"
    assert desk.fetch(NAME, number)["done"]  # an answer that was lost is given again
    assert ask(desk) > number
