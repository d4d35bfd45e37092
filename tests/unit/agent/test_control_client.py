"""The client between two threads: the reporter's last report and the installer's last word."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.client import ControlClient, PinnedTrust
from agent.protocol import InstallProgress, InstallStep

DEADLINE_S = 10.0
OVERLAP_S = 0.2
"""How long a call waits for another to come between; without the lock that takes microseconds."""


def test_calls_of_two_threads_follow_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    client = ControlClient(("https://control.invalid",), PinnedTrust("00" * 32))
    both_started = threading.Barrier(2)
    inside = threading.Semaphore(1)
    overlap = threading.Event()
    paths: list[str] = []

    def exchange(_connection: object, _method: str, path: str, _body: bytes | None, _limit: int) -> bytes:
        if not inside.acquire(blocking=False):
            overlap.set()
            return b"{}"
        paths.append(path)
        overlap.wait(OVERLAP_S)
        inside.release()
        return b"{}"

    monkeypatch.setattr(client, "_connect", lambda _endpoint: object())
    monkeypatch.setattr(client, "_exchange", exchange)

    def send(path: str) -> None:
        both_started.wait(DEADLINE_S)
        client.send(path, InstallProgress(intent=1, step=InstallStep.DONE, percent=100.0))

    with ThreadPoolExecutor(2) as pool:
        for call in [pool.submit(send, path) for path in ("/progress", "/complete")]:
            call.result(DEADLINE_S)
    assert not overlap.is_set()
    assert sorted(paths) == ["/complete", "/progress"]
