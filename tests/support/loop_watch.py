"""Event loops that were closed while a connection of theirs was open.

Nobody closes such a connection any more: its socket stays until the garbage is collected, in whatever test
runs then, which fails with a warning about something that it does not know. Noted here where it happens.
"""

from __future__ import annotations

import os
from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def watched_loops() -> Iterator[list[str]]:
    """While the block runs, the list gets a line for each connection that a closing loop leaves behind."""
    left: list[str] = []
    close = BaseSelectorEventLoop.close

    def close_and_note(loop: Any) -> None:
        if not loop.is_closed():
            transports = list(loop._transports.values())  # by descriptor
            left.extend(_describe(transport) for transport in transports if transport._sock is not None)
        close(loop)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseSelectorEventLoop, "close", close_and_note)
        yield left


def _describe(transport: Any) -> str:
    protocol = transport.get_protocol()
    user = getattr(protocol, "_app_protocol", protocol)  # above TLS
    ends = " -> ".join(repr(transport.get_extra_info(end)) for end in ("sockname", "peername"))
    # Not the current test's own where a fixture's loop runs in a thread: then it is of the same module.
    return f"{transport!r} of {user!r}, {ends}, while {os.environ.get('PYTEST_CURRENT_TEST')} ran"
