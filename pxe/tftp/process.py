"""A TFTP worker in a process of its own: how the server starts it, and its main function.

No `multiprocessing.Process`: that loads the server's main module again in the worker, and keeps a helper
process beside it for as long as the server runs (12 MiB, for semaphores that nobody here uses).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Final

from pxe.boot.table import BootTable
from pxe.net.descriptors import raise_descriptor_limit
from pxe.tftp.settings import WorkerSettings
from pxe.tftp.worker import TftpWorker

PRIORITY: Final = -10  # nice value
OWN_DESCRIPTORS: Final = 64  # of the worker itself, and for contents of several files
DESCRIPTORS_PER_TRANSFER: Final = 2  # a socket and a file

# Arguments: descriptor of the socket · of the pipe · sys.path, so that it is this package that runs.
_LAUNCH: Final = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from pxe.tftp.process import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)


def start_worker(
    sock: socket.socket, settings: WorkerSettings, table: BootTable
) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start a worker; it sends an empty list up the pipe when it serves.

    Args:
        sock: bound, non-blocking, with IP_PKTINFO on. It stays open here.
        settings: bounds.
        table: the first snapshot.

    Returns:
        The process, and our end of its pipe: `pxe.tftp.worker.Order` goes down, events and counters come up.

    Raises:
        OSError: there is no room for another process.
    """
    ours, theirs = Pipe()
    with theirs:
        descriptors = (sock.fileno(), theirs.fileno())
        argv = [sys.executable, "-I", "-c", _LAUNCH, *map(str, descriptors), *sys.path]
        try:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, pass_fds=descriptors)
        except OSError:
            ours.close()
            raise
    with suppress(OSError):  # it has ended, which its pipe tells
        ours.send((settings, table))
    return process, ours


def main(listening: int, orders: int) -> None:
    """Main function of the worker process; the numbers are descriptors that it inherits."""
    pipe = Connection(orders)
    settings, table = pipe.recv()
    sock = socket.socket(fileno=listening)
    sock.setblocking(False)
    run_worker(sock, pipe, settings, table)


def run_worker(sock: socket.socket, orders: Connection, settings: WorkerSettings, table: BootTable) -> None:
    """Serve until the parent says stop or is gone, with the rights and limits that this process has."""
    # ^C goes to the whole foreground group; the parent stops its workers itself, after their grace period.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError):  # takes a right; "not found" should not wait for other work
        os.setpriority(os.PRIO_PROCESS, 0, min(PRIORITY, os.getpriority(os.PRIO_PROCESS, 0)))
    most = (raise_descriptor_limit() - OWN_DESCRIPTORS) // DESCRIPTORS_PER_TRANSFER
    bounded = replace(settings, max_transfers=max(min(settings.max_transfers, most), 1))
    TftpWorker(sock, orders, bounded, table).run()
