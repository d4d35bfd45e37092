"""The TFTP service as the server sees it: worker processes, each with a socket and a pipe of its own.

A worker that ends by itself is started again on the socket that it had: requests wait in the socket
meanwhile, and the other workers go on. Only a worker that ends over and over ends the service.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Final

from pxe.boot.clients import ClientBook, Learn
from pxe.boot.table import BootTable
from pxe.errors import PxeError
from pxe.events import BoardEvent
from pxe.net.ports import widen_receive_buffer
from pxe.tftp.process import start_worker
from pxe.tftp.reports import TftpCounters
from pxe.tftp.settings import WorkerSettings
from pxe.tftp.worker import Order

log = logging.getLogger(__name__)

START_TIMEOUT_S: Final = 30.0  # a process that imports this package, on a busy Pi
EXIT_TIMEOUT_S: Final = 2.0
WAITING_BYTES: Final = 4 << 20  # a thousand boards that ask within half a second, with the kernel's overhead
MOST_ENDS: Final = 5
WITHIN_S: Final = 60.0


@dataclass(slots=True)
class _Worker:
    """One worker process, or the place for one."""

    sock: socket.socket
    process: subprocess.Popen[bytes] | None = None
    connection: Connection | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    ends: deque[float] = field(default_factory=deque)  # when it ended by itself, monotonic seconds
    counters: TftpCounters = field(default_factory=TftpCounters)  # of the process that runs
    before: TftpCounters = field(default_factory=TftpCounters)  # of those that ended


class TftpService:
    """Runs one worker process for each socket.

    Args:
        socks: bound to one port with SO_REUSEPORT; the service closes them.
        settings: bounds of each worker.
        on_event: gets what the workers report.

    Attributes:
        restarts: how often a worker was started again.
    """

    def __init__(
        self,
        socks: Sequence[socket.socket],
        settings: WorkerSettings,
        on_event: Callable[[BoardEvent], None],
    ) -> None:
        self._settings = settings
        self._on_event = on_event
        self._workers = [_Worker(sock) for sock in socks]
        for sock in socks:
            widen_receive_buffer(sock, WAITING_BYTES)
        self._table = BootTable()
        self._clients = ClientBook()  # what a new worker has to be told
        self.restarts = 0

    @property
    def counters(self) -> TftpCounters:
        """What all workers did since the service started, about a second ago."""
        total = TftpCounters()
        for worker in self._workers:
            total.add(worker.before)
            total.add(worker.counters)
        return total

    async def start(self, table: BootTable) -> None:
        """Start the workers; they serve when this returns.

        Raises:
            PxeError: a worker did not come up.
        """
        self._table = table
        # All are waited for: `stop` can only end those that are known to have come up.
        starts = (self._start(worker) for worker in self._workers)
        for outcome in await asyncio.gather(*starts, return_exceptions=True):
            if outcome is not None:
                raise outcome

    def send(self, order: Order) -> None:
        """Hand a snapshot or an address binding to all workers."""
        match order:
            case BootTable():
                self._table = order
            case Learn(address, board):
                self._clients.learn(address, board)
            case None:
                pass
        for worker in self._workers:
            self._send(worker, order)

    async def run(self) -> None:
        """Pass events on until cancelled, then stop the workers.

        Raises:
            PxeError: a worker has ended by itself again and again.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for worker in self._workers:
                    group.create_task(self._keep(worker))
        except* PxeError as errors:
            raise errors.exceptions[0] from None
        finally:
            await self.stop()

    async def stop(self) -> None:
        """End the workers: first asked, then told."""
        for worker in self._workers:
            worker.sock.close()
            self._forget(worker)
            self._send(worker, None)
        await asyncio.to_thread(self._reap, self._workers)

    async def _keep(self, worker: _Worker) -> None:
        """Have a worker run for as long as it makes sense."""
        loop = asyncio.get_running_loop()
        while True:
            if not worker.ended.is_set():
                self._listen(worker)
                await worker.ended.wait()
            process = worker.process
            pid = process.pid if process is not None else None
            await asyncio.to_thread(self._reap, [worker])
            now = loop.time()
            worker.ends.append(now)
            while worker.ends[0] < now - WITHIN_S:
                worker.ends.popleft()
            if len(worker.ends) >= MOST_ENDS:
                raise PxeError(
                    f"the TFTP worker process ended {len(worker.ends)} times within {WITHIN_S:.0f} s, "
                    f"the last was {pid}",
                    "Boards can not boot without it. The log says why it ended; start the server again.",
                )
            log.error("TFTP worker ended and is started again", extra={"pid": pid})
            self.restarts += 1
            try:
                await self._start(worker)
            except PxeError as error:
                log.error("TFTP worker did not start", extra={"error": error.message})
                worker.ended.set()
                continue
            for address, board in self._clients:
                self._send(worker, Learn(address, board))
            self._send(worker, self._table)  # an update may have come while it started

    async def _start(self, worker: _Worker) -> None:
        try:
            process, ours = await asyncio.to_thread(start_worker, worker.sock, self._settings, self._table)
            worker.process, worker.connection, worker.ended = process, ours, asyncio.Event()
            if not await asyncio.to_thread(ours.poll, START_TIMEOUT_S):
                raise EOFError
            ours.recv()
        except (EOFError, OSError) as error:
            raise PxeError(
                "the TFTP worker process did not start",
                "Its own error message stands above; without one, the machine is too busy.",
            ) from error

    def _send(self, worker: _Worker, order: Order) -> None:
        if worker.connection is None or worker.connection.closed:
            return
        try:
            worker.connection.send(order)
        except OSError as error:  # its end is noticed by `_keep`
            log.debug("TFTP worker is gone", extra={"error": error.strerror})

    def _listen(self, worker: _Worker) -> None:
        if worker.connection is not None:
            fd = worker.connection.fileno()
            asyncio.get_running_loop().add_reader(fd, self._read, worker, worker.connection)

    def _forget(self, worker: _Worker) -> None:
        if worker.connection is not None and not worker.connection.closed:
            with contextlib.suppress(RuntimeError):  # no loop runs any more
                asyncio.get_running_loop().remove_reader(worker.connection.fileno())

    def _reap(self, workers: Sequence[_Worker]) -> None:
        for worker in workers:
            process, connection = worker.process, worker.connection
            worker.process = worker.connection = None
            worker.before.add(worker.counters)
            worker.counters = TftpCounters()
            worker.before.active = worker.before.waiting = 0
            if process is not None:
                _end(process, self._settings.grace_s)
            if connection is not None:
                connection.close()

    def _read(self, worker: _Worker, connection: Connection) -> None:
        try:
            while connection.poll():
                said = connection.recv()
                if isinstance(said, TftpCounters):
                    worker.counters = said
                    continue
                for event in said:
                    self._on_event(event)
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(connection.fileno())
            worker.ended.set()


def _end(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """Wait for a worker that was told to stop, and insist if it does not."""
    for insist in (process.terminate, process.kill):
        try:
            process.wait(grace_s + EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            grace_s = 0.0
            insist()
        else:
            return
    process.wait()
