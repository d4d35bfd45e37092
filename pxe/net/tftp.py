"""The TFTP service as the server sees it: worker processes, each with a socket and a pipe of its own."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import socket
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Final

from pxe.boot.table import BootTable
from pxe.errors import PxeError
from pxe.events import BoardEvent
from pxe.tftp.worker import Order, WorkerSettings, run_worker

log = logging.getLogger(__name__)

START_TIMEOUT_S: Final = 30.0  # a process that imports this package, on a busy Pi
EXIT_TIMEOUT_S: Final = 2.0


class TftpService:
    """Runs one worker process for each socket.

    Args:
        socks: bound to one port with SO_REUSEPORT; the service closes them.
        settings: bounds of each worker.
        on_event: gets what the workers report.
    """

    def __init__(
        self,
        socks: Sequence[socket.socket],
        settings: WorkerSettings,
        on_event: Callable[[BoardEvent], None],
    ) -> None:
        self._socks = list(socks)
        self._settings = settings
        self._on_event = on_event
        self._workers: list[tuple[SpawnProcess, Connection]] = []

    async def start(self, table: BootTable) -> None:
        """Start the workers; they serve when this returns.

        Raises:
            PxeError: a worker did not come up.
        """
        spawn = multiprocessing.get_context("spawn")
        for sock in self._socks:
            ours, theirs = spawn.Pipe()
            process = spawn.Process(
                target=run_worker,
                args=(sock, theirs, self._settings, table),
                name="bramble-tftp",
                daemon=True,
            )
            await asyncio.to_thread(process.start)
            theirs.close()
            sock.close()
            self._workers.append((process, ours))
        for process, connection in self._workers:
            try:
                if not await asyncio.to_thread(connection.poll, START_TIMEOUT_S):
                    raise EOFError
                connection.recv()
            except (EOFError, OSError) as error:
                raise PxeError(
                    f"the TFTP worker process {process.pid} did not start",
                    "Its own error message stands above; without one, the machine is too busy.",
                ) from error

    def send(self, order: Order) -> None:
        """Hand a snapshot or an address binding to all workers."""
        for process, connection in self._workers:
            try:
                connection.send(order)
            except OSError as error:  # its end is noticed by `run`
                log.debug("TFTP worker is gone", extra={"pid": process.pid, "error": error.strerror})

    async def run(self) -> None:
        """Pass events on until cancelled, then stop the workers.

        Raises:
            PxeError: a worker has ended by itself.
        """
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[int | None] = loop.create_future()
        for process, connection in self._workers:
            loop.add_reader(connection.fileno(), self._read, process, connection, ended)
        try:
            pid = await ended
            raise PxeError(
                f"the TFTP worker process {pid} has ended",
                "Boards can not boot without it. Start the server again; its log says why it ended.",
            )
        finally:
            for _process, connection in self._workers:
                loop.remove_reader(connection.fileno())
            await self.stop()

    async def stop(self) -> None:
        """End the workers: first asked, then told."""
        for sock in self._socks:
            sock.close()
        self.send(None)
        workers, self._workers = self._workers, []
        await asyncio.to_thread(self._reap, workers)

    def _reap(self, workers: list[tuple[SpawnProcess, Connection]]) -> None:
        for process, connection in workers:
            process.join(self._settings.grace_s + EXIT_TIMEOUT_S)
            if process.is_alive():
                process.terminate()
                process.join(EXIT_TIMEOUT_S)
            if process.is_alive():
                process.kill()
                process.join(EXIT_TIMEOUT_S)
            connection.close()
            process.close()

    def _read(self, process: SpawnProcess, connection: Connection, ended: asyncio.Future[int | None]) -> None:
        try:
            while connection.poll():
                for event in connection.recv():
                    self._on_event(event)
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(connection.fileno())
            if not ended.done():
                ended.set_result(process.pid)
