"""A boot server as a process of its own, for the cases that measure servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pxe.server import PxeServer  # its worker processes load none of it


async def serve_until_signal(server: PxeServer, listens_on: Callable[[], Mapping[str, int]]) -> None:
    """Serve until SIGTERM or SIGINT; once it listens, `listens_on` is printed as one line of JSON."""
    server.bind()
    running = asyncio.create_task(server.run())
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    ready = asyncio.create_task(server.ready.wait())
    await asyncio.wait({running, ready}, return_when=asyncio.FIRST_COMPLETED)
    if ready.done():
        print(json.dumps(listens_on()), flush=True)
    ready.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
