"""The mend of a failed installation stands wherever a person looks, until one comes to its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes_fleet import Fleet, cluster_spec, open_fleet
from fleet_story import (
    AGENT,
    KEY,
    ask_to_install,
    complete,
    let_in,
    require_token,
    see,
    state_of,
)

from agent.protocol import InstallProgress, InstallStep
from fleet.attention import findings
from fleet.boots import BootStage
from fleet.lifecycle import MAX_ATTEMPTS, State
from fleet.overview import overview
from fleet.views import NodeView, fleet_view

pytestmark = pytest.mark.integration

MEND = "Reseat the disk and its flat cable."


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = open_fleet(tmp_path, cluster_spec(AGENT))
    yield fleet
    fleet.store.close()


def begin(fleet: Fleet) -> str:
    """Its board boots the installer, and is let in."""
    see(fleet, AGENT)
    see(fleet, AGENT, BootStage.KERNEL)
    return require_token(let_in(fleet, AGENT))


def fail(fleet: Fleet, message: str = "no NVMe disk found", hint: str = MEND) -> None:
    token = begin(fleet)
    failed = InstallProgress(1, InstallStep.FIND_DISK, 0.0, message=message, hint=hint, failed=True)
    fleet.controller.installs.progress(token, failed)


def shown(fleet: Fleet) -> NodeView:
    (node,) = fleet_view(fleet.store).nodes
    return node


def test_what_failed_is_said_with_its_mend_in_table_and_status(fleet: Fleet) -> None:
    fail(fleet)
    assert state_of(fleet, AGENT) is State.FAILED_IMAGING
    node = shown(fleet)
    assert node.complaint == "installation failed in find-disk: no NVMe disk found"
    assert node.mend == MEND
    (found,) = overview(fleet.store).findings
    assert found.hint == MEND


def test_it_is_still_said_while_the_board_tries_again_and_when_its_attempts_are_used_up(fleet: Fleet) -> None:
    fail(fleet)
    fleet.clock.advance(30.0)
    for number in range(60):  # what a board asks for in the meantime does not hide it
        see(fleet, AGENT, text=f"asked for file-{number}: not found")
    see(fleet, AGENT, BootStage.KERNEL)
    assert state_of(fleet, AGENT) is State.NETBOOTING
    assert shown(fleet).mend == MEND
    assert findings(fleet_view(fleet.store)) == ()  # nobody is called while it tries
    for _ in range(MAX_ATTEMPTS - 1):
        fleet.clock.advance(30.0)
        if state_of(fleet, AGENT) is not State.QUARANTINED:
            see(fleet, AGENT, BootStage.KERNEL)
    assert state_of(fleet, AGENT) is State.QUARANTINED
    (found,) = findings(fleet_view(fleet.store))
    assert "no NVMe disk found" in found.text
    assert found.hint.startswith(MEND)
    assert "bramble approve pi4-1" in found.hint


def test_the_newest_failure_is_the_one_that_is_told(fleet: Fleet) -> None:
    fail(fleet)
    fleet.clock.advance(30.0)
    fail(fleet, "sha256 of chunk 7 differs", "Switch it off and on.")
    assert shown(fleet).mend == "Switch it off and on."


def test_nothing_is_left_of_it_once_an_installation_came_to_its_end(fleet: Fleet) -> None:
    fail(fleet)
    fleet.clock.advance(30.0)
    token = begin(fleet)
    assert shown(fleet).mend == MEND
    plan = fleet.controller.installs.plan(token)
    fleet.controller.installs.complete(token, complete(plan))
    assert (shown(fleet).complaint, shown(fleet).mend) == ("", "")


def test_a_node_that_never_failed_complains_of_nothing(fleet: Fleet) -> None:
    assert shown(fleet).complaint == ""
    see(fleet, AGENT)
    see(fleet, AGENT, BootStage.KERNEL)
    require_token(ask_to_install(fleet, AGENT, KEY))
    assert (shown(fleet).state, shown(fleet).complaint) == ("imaging", "")


def test_a_step_that_timed_out_says_what_to_look_at(fleet: Fleet) -> None:
    begin(fleet)
    fleet.clock.advance(24 * 3600.0)
    fleet.controller.watch.tick()
    assert state_of(fleet, AGENT) is State.FAILED_IMAGING
    assert "made no progress" in shown(fleet).complaint
    assert "Switch the board off and on" in shown(fleet).mend
