"""The directory of releases: who was there before, and what two processes do at one time."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from agent_nodes import FakeSystem

from agent.orders import AgentOrder
from agent.releases import Start
from agent.update import Releases, launch

OLD, NEW = "0" * 64, "1" * 64


def make_releases(directory: Path, *releases: str) -> Releases:
    """The last one of them is in force and confirmed."""
    (directory / "agent/releases").mkdir(parents=True)
    made = Releases(directory)
    for number, sha256 in enumerate(releases, 1):
        made.switch(order(number, sha256))
        made.confirm(sha256)
    return made


def order(number: int, sha256: str = NEW) -> AgentOrder:
    return AgentOrder(number, "1.0.0", sha256, 1)


def previous_of(releases: Releases) -> str | None:
    trial = releases.trial()
    assert trial is not None
    return trial.previous


def test_repeated_order_keeps_the_release_to_go_back_to(tmp_path: Path) -> None:
    releases = make_releases(tmp_path, OLD)
    for _ in range(3):
        releases.switch(order(7))
        assert previous_of(releases) == OLD


def test_release_in_force_is_not_its_own_predecessor(tmp_path: Path) -> None:
    releases = make_releases(tmp_path, OLD, NEW)
    releases.switch(order(7))
    assert previous_of(releases) is None


def test_end_of_a_trial_between_decision_and_start_counts(tmp_path: Path) -> None:
    releases = make_releases(tmp_path, OLD)
    releases.switch(order(7))
    trial = releases.trial()
    assert releases.expire()
    releases.carry_out(Start(NEW, trial))
    found = releases.trial()
    assert found is not None
    assert found.expired


@pytest.mark.parametrize(
    "step",
    [
        lambda releases: releases.switch(order(8)),
        lambda releases: releases.confirm(NEW),
        lambda releases: releases.expire(),
        lambda releases: releases.carry_out(Start(NEW, releases.trial())),
    ],
    ids=["switch", "confirm", "expire", "carry-out"],
)
def test_step_waits_for_the_other_process(tmp_path: Path, step: Callable[[Releases], object]) -> None:
    releases = make_releases(tmp_path, OLD)
    releases.switch(order(7))
    before = releases.trial()
    other = os.open(tmp_path / "agent", os.O_RDONLY)
    thread = threading.Thread(target=step, args=(releases,))
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        assert releases.trial() == before
    finally:
        os.close(other)
        thread.join(30)
    assert not thread.is_alive()


def test_trial_that_can_not_be_removed_keeps_nobody_from_starting(tmp_path: Path) -> None:
    """The agent of the image runs, whatever the disk does: it can always be told to try again."""
    make_releases(tmp_path, NEW)  # its file is not there: it is given up
    (tmp_path / "agent/trial.json").mkdir()
    complaints: list[str] = []

    def execute(path: Path, sha256: str) -> None:
        raise AssertionError(f"{path} ({sha256}) was started")

    launch(tmp_path, FakeSystem(), execute, complaints.append)
    assert len(complaints) == 1
    assert "disk refuses" in complaints[0]
    launch(tmp_path, FakeSystem(), execute, complaints.append)
    assert len(complaints) == 1, "nothing is in force any more"


def test_without_a_directory_nothing_is_on_trial(tmp_path: Path) -> None:
    releases = Releases(tmp_path)
    assert not releases.confirm(NEW)
    assert not releases.expire()
