"""The guard that every integration test stands under: a loop that leaves a connection open is noticed."""

from __future__ import annotations

import asyncio
import socket

from loop_watch import watched_loops


def connect(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> asyncio.Transport:
    return loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=sock))[0]


def test_a_connection_that_outlives_its_loop_is_noted_with_the_test_that_left_it() -> None:
    ours, theirs = socket.socketpair()
    with theirs, watched_loops() as left:
        loop = asyncio.new_event_loop()
        transport = connect(loop, ours)
        loop.close()
        (line,) = left
        assert "asyncio.protocols.Protocol" in line
        assert "test_a_connection_that_outlives_its_loop" in line
        ours.close()
        transport._sock = None  # type: ignore[attr-defined]  # or its end would warn, as it should


def test_a_connection_that_was_closed_is_not() -> None:
    ours, theirs = socket.socketpair()
    with theirs, watched_loops() as left:
        loop = asyncio.new_event_loop()
        transport = connect(loop, ours)
        transport.abort()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    assert left == []
