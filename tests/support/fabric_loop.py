"""An event loop whose connections begin inside a fabric: the product's own clients meet its hosts.

Only connecting is different: the socket that asyncio made is replaced by the one that the fabric dialled,
under the same number. Everything above, TLS and the check of names included, is as ever.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Coroutine
from typing import Any, TypeVar

from fabric import PREFIX, Fabric

Result = TypeVar("Result")


class FabricLoop(asyncio.SelectorEventLoop):
    """Dials `PREFIX` addresses inside; everybody else is reached as always."""

    def __init__(self, fabric: Fabric) -> None:
        super().__init__()
        self._fabric = fabric

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect an unconnected socket."""
        host, port = address[0], address[1]
        if not str(host).startswith(f"{PREFIX}."):
            await super().sock_connect(sock, address)
            return
        with await asyncio.to_thread(self._fabric.dial, str(host), int(port)) as dialled:
            dialled.setblocking(False)
            os.dup2(dialled.fileno(), sock.fileno(), inheritable=False)


def run_inside(fabric: Fabric, story: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine on such a loop, and close the loop."""
    with asyncio.Runner(loop_factory=lambda: FabricLoop(fabric)) as runner:
        return runner.run(story)
