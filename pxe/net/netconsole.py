"""Hears the network consoles of bootloaders (NETCONSOLE) and puts their lines into the boards' timelines.

A console's datagrams carry no name but their source address: the one that its NETCONSOLE setting says, which
should be the node's declared address ('bramble eeprom config --node' writes it so).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from ipaddress import AddressValueError, IPv4Address
from typing import Final

from pxe.boot.clients import ClientBook
from pxe.boot.identity import BoardIdentity
from pxe.boot.table import BootTable
from pxe.diagnosis.console import PARTIAL_S, ConsoleBook
from pxe.errors import PxeError
from pxe.events import BoardEvent, ConsoleLine
from pxe.net.ports import bind_udp
from pxe.net.sparse_log import SparseLog

log = logging.getLogger(__name__)

MAXIMUM_DATAGRAM: Final = 2048
MAXIMUM_BATCH: Final = 64


def bind_console(interface: str | None, port: int | None) -> socket.socket | None:
    """The socket that consoles send to; None where they are not heard.

    A port that is taken costs a warning: boards boot without their consoles.
    """
    if port is None:
        return None
    try:
        return bind_udp(IPv4Address("0.0.0.0"), port, "network console", interface=interface)
    except PxeError as error:
        log.warning("network consoles are not heard", extra={"reason": error.message})
        return None


class ConsoleService:
    """Reads one socket.

    Args:
        sock: bound and non-blocking; the service closes it.
        clients: which board is behind which address.
        table: the boot table as it is now; its declared addresses name boards as well.
        on_event: gets the lines.

    Attributes:
        unknown: lines from addresses that are no known board's.
    """

    def __init__(
        self,
        sock: socket.socket,
        clients: ClientBook,
        table: Callable[[], BootTable],
        on_event: Callable[[BoardEvent], None],
    ) -> None:
        self._sock = sock
        self._clients = clients
        self._table = table
        self._on_event = on_event
        self._book = ConsoleBook()
        self._unknown_log = SparseLog(log)
        self.unknown = 0

    @property
    def dropped(self) -> int:
        """Lines that came faster than anybody reads."""
        return self._book.dropped

    async def run(self) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._sock, self._receive)
        try:
            while True:
                await asyncio.sleep(PARTIAL_S)
                now = time.time()
                for source, line in self._book.flush(now):
                    self._tell(source, line, now)
        finally:
            loop.remove_reader(self._sock)
            self._sock.close()

    def _receive(self) -> None:
        for _ in range(MAXIMUM_BATCH):
            try:
                data, (host, _port) = self._sock.recvfrom(MAXIMUM_DATAGRAM)
                source = IPv4Address(host)
            except (BlockingIOError, InterruptedError):
                return
            except (OSError, AddressValueError) as error:
                log.debug("console receive failed", extra={"error": str(error)})
                return
            now = time.time()
            for line in self._book.feed(source, data, now):
                self._tell(source, line, now)

    def _tell(self, source: IPv4Address, line: str, now: float) -> None:
        table = self._table()
        declared = table.reserved.get(source)
        board = self._clients.find(source)
        if board is None and declared is not None:
            low = declared.serial.low if declared.serial is not None else None
            board = BoardIdentity(mac=declared.mac, serial_low=low, is_pi=True)
        if board is None:
            self.unknown += 1
            fields = {"source": str(source), "line": line}
            self._unknown_log.write(logging.INFO, "console of an unknown board", fields)
            return
        node = table.find(board) or declared
        self._on_event(ConsoleLine(at=now, board=board, node=node.name if node else None, line=line))
