"""The reporter's thread: coalescing, failures of the server, a closed intent, delivery at the end."""

from __future__ import annotations

import threading

import pytest

from agent.client import Refused, Unreachable
from agent.installer.report import Reporter
from agent.protocol import InstallProgress, InstallStep

DEADLINE_S = 10.0


def make_progress(step: InstallStep, percent: float = 0.0, *, failed: bool = False) -> InstallProgress:
    return InstallProgress(intent=1, step=step, percent=percent, failed=failed)


class Server:
    """Takes reports; blocks while `gate` is closed."""

    def __init__(self) -> None:
        self.seen: list[InstallProgress] = []
        self.arrived = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    def __call__(self, progress: InstallProgress) -> None:
        self.seen.append(progress)
        self.arrived.release()
        assert self.gate.wait(DEADLINE_S)
        if self.error is not None:
            raise self.error


def test_slow_server_gets_the_newest_number_of_each_step_and_never_blocks() -> None:
    server = Server()
    server.gate.clear()
    with Reporter(server, interval_s=0.0) as reporter:
        reporter.put(make_progress(InstallStep.FIND_DISK))
        assert server.arrived.acquire(timeout=DEADLINE_S)
        for percent in range(1000):
            reporter.put(make_progress(InstallStep.WRITE, percent / 10))
        reporter.put(make_progress(InstallStep.VERIFY))
        server.gate.set()
    assert [(progress.step, progress.percent) for progress in server.seen] == [
        (InstallStep.FIND_DISK, 0.0),
        (InstallStep.WRITE, 99.9),
        (InstallStep.VERIFY, 0.0),
    ]


def test_reports_of_a_step_are_rate_limited_but_steps_and_failures_are_not() -> None:
    server = Server()
    with Reporter(server, interval_s=3600.0) as reporter:
        reporter.put(make_progress(InstallStep.WRITE, 1))
        assert server.arrived.acquire(timeout=DEADLINE_S)
        reporter.put(make_progress(InstallStep.WRITE, 2))
        reporter.put(make_progress(InstallStep.WRITE, 3, failed=True))
        assert server.arrived.acquire(timeout=DEADLINE_S)
    assert [progress.percent for progress in server.seen] == [1, 3]


def test_absent_server_does_not_end_the_install() -> None:
    server = Server()
    server.error = Unreachable("no route")
    with Reporter(server, interval_s=0.0) as reporter:
        for step in InstallStep:
            reporter.put(make_progress(step))
            reporter.check()
    assert len(server.seen) == len(InstallStep)


@pytest.mark.parametrize(
    ("status", "ends"), [(401, True), (409, True), (410, True), (404, False), (429, False)]
)
def test_only_a_closed_intent_ends_the_install(status: int, ends: bool) -> None:
    server = Server()
    server.error = Refused(status, "e", "over", "")
    reporter = Reporter(server, interval_s=0.0)
    with reporter:
        reporter.put(make_progress(InstallStep.WRITE))
        assert server.arrived.acquire(timeout=DEADLINE_S)
    if ends:
        with pytest.raises(Refused, match="over"):
            reporter.check()
    else:
        reporter.check()
