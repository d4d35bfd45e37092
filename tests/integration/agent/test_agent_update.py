"""The agent replaces itself: staged, on trial, kept or given up; wrong orders, full disks, kill -9."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from agent_archives import VERSION, make_release
from agent_nodes import FakeSystem, Really
from agent_services import make_service, serving
from fakes_agent import ControlServer, make_authority

import agent
from agent.commands import Completed
from agent.errors import AgentError
from agent.orders import AgentOrder
from agent.releases import MAX_STARTS
from agent.state import StateStore
from agent.update import TRIAL_TIMER, Releases, launch

pytestmark = pytest.mark.integration

CHECKOUT = Path(agent.__file__).parents[1]


class Machine(FakeSystem):
    """Python is the real one: a release has to start here."""

    def instead(self, argv: list[str], really: Really) -> Completed | None:
        return really(argv) if argv[0] == sys.executable else None


RELEASE = make_release()
SHA256 = hashlib.sha256(RELEASE).hexdigest()


def order(number: int = 1, content: bytes = RELEASE, version: str = VERSION, **more: bool) -> AgentOrder:
    return AgentOrder(number, version, hashlib.sha256(content).hexdigest(), len(content), **more)


@pytest.fixture
def control(control: ControlServer) -> ControlServer:
    control.archive = RELEASE
    return control


def releases_of(root: Path) -> Releases:
    return Releases(root / "var/lib/bramble")


def notes(control: ControlServer) -> list[str]:
    return [problem.code for status in control.statuses for problem in status.problems]


def start(root: Path, system: FakeSystem) -> str | None:
    """What the unit's start does: the digest of the release that it hands over to; None: the image's own."""
    started: list[str] = []
    launch(root / "var/lib/bramble", system, lambda _path, sha256: started.append(sha256), lambda _text: None)
    return started[0] if started else None


def take_order(control: ControlServer, root: Path, system: FakeSystem, wanted: AgentOrder) -> None:
    """Run the agent of the image until it ended for the order's sake."""
    control.update = wanted
    with serving(make_service(root, system)) as thread:
        thread.join(60)
        assert not thread.is_alive()


def test_update_is_staged_tried_and_kept(control: ControlServer, root: Path) -> None:
    system = Machine()
    take_order(control, root, system, order())
    assert releases_of(root).current() == SHA256
    assert start(root, system) == SHA256
    assert ("systemctl", "restart", "--no-block", TRIAL_TIMER) in system.calls
    with serving(make_service(root, system, release=SHA256)):
        control.wait_for(lambda: "agent_updated" in notes(control))
    assert control.statuses[-1].agent_release == SHA256
    assert releases_of(root).trial() is None
    assert start(root, system) == SHA256
    assert system.units().count(("systemctl", "restart", "--no-block", TRIAL_TIMER)) == 1
    said = subprocess.run(
        [sys.executable, "-I", str(releases_of(root).path(SHA256)), "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == f"bramble-agent {VERSION}\n"


def test_confirmed_release_is_not_reported_again_and_the_order_not_repeated(
    control: ControlServer, root: Path
) -> None:
    system = Machine()
    take_order(control, root, system, order())
    start(root, system)

    def has_reported(often: int) -> Callable[[], bool]:
        return lambda: len(control.statuses) >= often

    for reports in (5, 10):
        with serving(make_service(root, system, release=SHA256)):
            control.wait_for(has_reported(reports))
    assert notes(control).count("agent_updated") == 1
    assert control.requests.count(f"GET /v1/node/agent/{SHA256}") == 1


def test_release_that_never_is_heard_is_given_up_and_told_of(control: ControlServer, root: Path) -> None:
    system = Machine()
    take_order(control, root, system, order(3))
    assert [start(root, system) for _ in range(MAX_STARTS)] == [SHA256] * MAX_STARTS
    assert start(root, system) is None
    assert releases_of(root).current() is None
    with serving(make_service(root, system)):
        control.wait_for(lambda: "agent_rolled_back" in notes(control))
        seen = len(control.statuses)
        control.wait_for(lambda: len(control.statuses) > seen + 3)
    assert releases_of(root).current() is None
    told = [problem for status in control.statuses for problem in status.problems]
    assert told[0].message.startswith(f"order 3: agent {VERSION} was given up, it ended 3 times")
    assert len(told) == 1


def test_release_whose_time_is_over_is_given_up_at_the_next_start(control: ControlServer, root: Path) -> None:
    system = Machine()
    take_order(control, root, system, order())
    assert start(root, system) == SHA256
    assert releases_of(root).expire()
    assert start(root, system) is None
    outcome = releases_of(root).outcome()
    assert outcome is not None
    assert "not heard" in outcome.reason
    assert not releases_of(root).expire()


def test_release_on_trial_whose_timer_can_not_be_started_is_not_run(
    control: ControlServer, root: Path
) -> None:
    class NoTimer(Machine):
        def instead(self, argv: list[str], really: Really) -> Completed | None:
            if TRIAL_TIMER in argv:
                return really(["false"])
            return super().instead(argv, really)

    take_order(control, root, Machine(), order())
    assert start(root, NoTimer()) is None
    assert releases_of(root).current() is None
    assert releases_of(root).outcome() is not None


BROKEN = make_release().replace(b"PK\x03\x04", b"XX\x03\x04")


@pytest.mark.parametrize(
    ("wanted", "archive", "words"),
    [
        (order(), RELEASE[:-1] + b"x", "sha256"),
        (order(), RELEASE + b"x", "sha256"),
        (order(content=b"no zip"), b"no zip", "does not start"),
        (order(version="9.9.1"), RELEASE, "calls itself"),
        (order(version="0.0.1"), RELEASE, "downgrade"),
        (order(version="newest"), RELEASE, "three numbers"),
        (AgentOrder(1, VERSION, "../../../etc/x", len(RELEASE)), RELEASE, "no SHA-256"),
        (AgentOrder(1, VERSION, SHA256, 1 << 40), RELEASE, "the limit is"),
    ],
    ids=["flipped", "longer", "no-program", "other-version", "downgrade", "no-version", "path", "huge"],
)
def test_unsound_release_changes_nothing_and_is_refused_once(
    control: ControlServer, root: Path, wanted: AgentOrder, archive: bytes, words: str
) -> None:
    control.update, control.archive = wanted, archive
    with serving(make_service(root, Machine())):
        control.wait_for(lambda: "agent_update_refused" in notes(control))
        seen = len(control.statuses)
        control.wait_for(lambda: len(control.statuses) > seen + 3)
    assert releases_of(root).current() is None
    told = [problem for status in control.statuses for problem in status.problems]
    assert len(told) == 1
    assert words in told[0].message


def test_order_of_another_ca_or_for_another_node_is_not_carried_out(
    control: ControlServer, root: Path
) -> None:
    control.update, control.signer = order(), make_authority("control CA of elsewhere")
    with serving(make_service(root, Machine())):
        control.wait_for(lambda: "agent_update" in notes(control))
        control.signer, control.signs_for = None, "pi-2"
        seen = len(control.statuses)
        control.wait_for(lambda: len(control.statuses) > seen + 3)
    assert releases_of(root).current() is None
    assert control.requests.count(f"GET /v1/node/agent/{SHA256}") == 0


def test_desired_state_of_another_ca_is_not_taken(control: ControlServer, root: Path) -> None:
    control.signer = make_authority("control CA of elsewhere")
    with serving(make_service(root, Machine())):
        control.wait_for(lambda: "desired" in notes(control))
    store = StateStore(root / "var/lib/bramble")
    store.load()
    assert store.state.desired is None
    refused = next(problem for status in control.statuses for problem in status.problems)
    assert "the control CA did not sign it for this node" in refused.message


def test_full_disk_leaves_the_old_release(
    control: ControlServer, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    releases = releases_of(root)

    def refuse(*_arguments: object) -> None:
        raise AgentError("/var/lib/bramble can not be written: No space left on device")

    monkeypatch.setattr("agent.update.write_atomically", refuse)
    with pytest.raises(AgentError, match="No space left"):
        releases.stage(order(), RELEASE, Machine())
    monkeypatch.undo()
    releases.stage(order(), RELEASE, Machine())
    monkeypatch.setattr("agent.update.write_atomically", refuse)
    with pytest.raises(AgentError, match="No space left"):
        releases.switch(order())
    assert releases.current() is None


def test_state_of_a_newer_agent_keeps_its_numbers_after_going_back(root: Path) -> None:
    directory = root / "var/lib/bramble"
    directory.mkdir(parents=True)
    newer = {"sequence_reserved": 5000, "generation": 41, "update": 3, "from_the_future": {"a": [1]}}
    (directory / "state.json").write_text(json.dumps(newer, separators=(",", ":")))
    store = StateStore(directory)
    store.load()
    assert not store.damaged
    assert (store.state.generation, store.state.update) == (41, 3)
    assert store.next_sequence() > 5000


WORKER = """
import hashlib, sys
from pathlib import Path
from agent.commands import Completed
from agent.orders import AgentOrder
from agent.update import Releases
directory = Path(sys.argv[1])
contents = [b"release %d" % number * 2000 for number in range(5)]
number = 0
print("ready", flush=True)
while True:
    for content in contents:
        number += 1
        digest = hashlib.sha256(content).hexdigest()
        releases = Releases(directory)
        order = AgentOrder(number, "1.0.0", digest, len(content))
        answer = Completed((), 0, b"bramble-agent 1.0.0", "")
        releases.stage(order, content, lambda argv, **_: answer)
        releases.switch(order)
        releases.carry_out(releases.decide())
        if number % 2:
            releases.confirm(digest)
"""


def test_killed_at_any_moment_a_whole_release_is_started(tmp_path: Path) -> None:
    chance = random.Random(20261126)
    for _ in range(25):
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path)], stdout=subprocess.PIPE, cwd=CHECKOUT
        )
        try:
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"ready\n"
            time.sleep(chance.uniform(0.0, 0.06))  # the moment of the cut, not a wait for something
        finally:
            worker.send_signal(signal.SIGKILL)
            worker.communicate()
        releases = Releases(tmp_path)
        decision = releases.decide()
        assert decision.release is None or releases.is_intact(decision.release)
        assert decision.outcome is None or "damaged" not in decision.outcome.reason
    assert releases.current() is not None
