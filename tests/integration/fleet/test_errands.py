"""Two people ask one node, or two servers: neither takes the other's answer away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from fakes_fleet import Fleet, cluster_spec, hardware_of, open_fleet, status_report
from fleet_story import SERVER, enrol, install

from agent.errands import LogUpload, RunResult
from agent.protocol import K3sState
from fleet.controller import Controller
from fleet.errands import ANSWER_TIMEOUT_S, EXPIRES_S, UNFETCHED_S, ErrandDesk
from fleet.installs import ControlInfo
from fleet.k3s.material import open_k3s
from fleet.refusal import RefusedError
from fleet.reports_to import PREFIX
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


class Elsewhere:
    """A second control server on the same record."""

    def __init__(self, fleet: Fleet, address: str, state: Path) -> None:
        spec = fleet.controller.spec
        network = replace(spec.network, server_address=IPv4Address(address))
        self.controller = Controller(
            fleet.store,
            replace(spec, network=network),
            fleet.pki,
            open_k3s(state / "k3s", spec.name, fleet.clock()),
            fleet.images,
            ControlInfo((), ""),
            clock=fleet.clock,
        )
        self._certificate = certificate_of(fleet)

    def hear(self, sequence: int) -> int:
        """The node's report; the number of the errand that it is told."""
        status = status_report(hardware_of(SERVER), sequence, k3s=K3sState.STARTING)
        return self.controller.joins.status(self._certificate, status).errand


def certificate_of(fleet: Fleet) -> str:
    with fleet.store.read() as reader:
        found = reader.require_node(NAME).certificate
    assert found is not None
    return found


def test_server_whom_the_node_does_not_report_to_names_the_one_that_can_ask_it(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(fleet.store), "is_shared", property(lambda _store: True))
    one, two = (Elsewhere(fleet, f"10.77.0.{number}", tmp_path) for number in (1, 2))
    one.controller.errands.ask_logs(NAME)  # nobody has heard it yet
    for sequence, (here, there, url) in enumerate(
        [(one, two, "https://10.77.0.1:7443"), (two, one, "https://10.77.0.2:7443")] * 2, 1
    ):
        here.hear(sequence)
        for ask in (ask_logs, ask_run):
            with pytest.raises(RefusedError) as refused:
                ask(there.controller.errands)
            assert (refused.value.status, refused.value.code) == (409, "reports-elsewhere")
            assert url in refused.value.message
        fleet.clock.advance(EXPIRES_S + 1)
        number = here.controller.errands.ask_logs(NAME)
        assert here.hear(sequence) == number


def test_server_that_has_the_record_to_itself_notes_nothing_of_that(fleet: Fleet, tmp_path: Path) -> None:
    Elsewhere(fleet, "10.77.0.1", tmp_path).hear(1)
    with fleet.store.read() as reader:
        assert reader.values(PREFIX) == {}


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
