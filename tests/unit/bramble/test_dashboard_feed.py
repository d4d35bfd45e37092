"""The tasks beside the dashboard's pages: a mistake in one round ends none of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from bramble.dashboard import feed as feeds
from bramble.dashboard import vitals as curves
from bramble.dashboard.alerts import ClusterGlances
from bramble.dashboard.feed import Feed
from bramble.dashboard.vitals import Vitals
from fleet.store.database import Store

WAIT_S = 30.0


class Rounds:
    """The first one fails in a way that nobody thought of."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> bool:
        self.made += 1
        if self.made == 1:
            raise ZeroDivisionError
        return False


def run_twice(run: Callable[[], Coroutine[Any, Any, None]], rounds: Rounds) -> None:
    """Run until the second round."""

    async def watch() -> None:
        task = asyncio.create_task(run())
        try:
            async with asyncio.timeout(WAIT_S):
                while rounds.made < 2:
                    assert not task.done()
                    await asyncio.sleep(0)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(watch())


def test_a_mistake_in_one_look_ends_no_feed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(feeds, "LOOK_EVERY_S", 0.0)
    clusters = ClusterGlances(str, tuple, float)
    feed = Feed(Store.__new__(Store), lambda: None, lambda size: "ab" * size, clusters, float)
    feed.listeners, rounds = 1, Rounds()
    monkeypatch.setattr(feed, "look", rounds)
    run_twice(feed.run, rounds)
    assert "ZeroDivisionError" in caplog.text


def test_a_mistake_in_one_report_ends_no_curves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(curves, "EVERY_S", 0.0)
    vitals, rounds = Vitals(Store.__new__(Store)), Rounds()
    monkeypatch.setattr(vitals, "read", rounds)
    run_twice(vitals.run, rounds)
    assert "ZeroDivisionError" in caplog.text
