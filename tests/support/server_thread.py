"""A server in a thread with a loop of its own, ended and joined afterwards. Shared by tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Made = TypeVar("Made")
Serve = Callable[[Callable[[Made], None], asyncio.Event], Coroutine[Any, Any, None]]
"""Calls its first argument when it serves, with what tests are to have, and ends when the second is set."""


@contextmanager
def serving(serve: Serve[Made], timeout_s: float) -> Iterator[Made]:
    """Run it while the block runs.

    Args:
        timeout_s: For its start, and for its end.
    """
    is_ready, stop = threading.Event(), asyncio.Event()
    made: list[tuple[Made, asyncio.AbstractEventLoop]] = []
    failure: list[BaseException] = []

    def ready(value: Made) -> None:
        made.append((value, asyncio.get_running_loop()))
        is_ready.set()

    def run() -> None:
        try:
            asyncio.run(serve(ready, stop))
        except BaseException as error:
            failure.append(error)
            is_ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert is_ready.wait(timeout_s)
    if failure:
        raise failure[0]
    value, loop = made[0]
    try:
        yield value
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(timeout_s)
        assert not thread.is_alive()
    if failure:
        raise failure[0]
