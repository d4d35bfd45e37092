"""`sendfile` from a file to a client's connection, on a descriptor of its own.

`loop.sendfile` waits on the descriptor of the transport. When the transport is closed meanwhile, by a bound
of ours or at the end of the server, that descriptor goes while the loop still waits for it: the next
connection that gets its number is not heard (CPython 3.11 to 3.13, `_sock_sendfile_native_impl`). So we wait
on a duplicate, which nobody else closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Protocol


class Drains(Protocol):
    """The writer of a response."""

    async def drain(self) -> None:
        """Wait until the client has taken what was written, as far as the transport's limits say."""
        ...


class FileSender:
    """Sends pieces of files over one connection.

    Args:
        transport: of the connection; reading from it goes on, so that the end of the client is noticed.
        writer: of the response, whose head has been written.

    Raises:
        OSError: no descriptor is left.
    """

    def __init__(self, transport: asyncio.WriteTransport, writer: Drains) -> None:
        self._transport = transport
        self._writer = writer
        self._fd = os.dup(transport.get_extra_info("socket").fileno())

    def close(self) -> None:
        """Give the descriptor back; the connection stays the transport's."""
        os.close(self._fd)

    async def send(self, file: int, position: int, count: int) -> None:
        """Send ``count`` bytes of the open file ``file`` from ``position`` on.

        Raises:
            ConnectionError: the client or the transport has gone.
            OSError: the file ended before, or cannot be read.
        """
        await self._wait_for_head()
        while count:
            if self._transport.is_closing():
                raise ConnectionResetError("the connection was closed")
            with contextlib.suppress(BlockingIOError):
                sent = os.sendfile(self._fd, file, position, count)
                if sent == 0:
                    raise OSError("the file became shorter while it was served")
                position += sent
                count -= sent
            if count:
                await self._wait_until_writable()

    async def _wait_for_head(self) -> None:
        """What the transport itself still holds comes first."""
        if self._transport.get_write_buffer_size():
            self._transport.set_write_buffer_limits(high=0)
            await self._writer.drain()

    async def _wait_until_writable(self) -> None:
        loop = asyncio.get_running_loop()
        writable = asyncio.Event()
        loop.add_writer(self._fd, writable.set)
        try:
            await writable.wait()
        finally:
            loop.remove_writer(self._fd)
