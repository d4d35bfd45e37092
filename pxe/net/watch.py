"""Follows the interface that the server listens on: cables are pulled, USB adapters come back as new devices.

A socket that is bound to an interface is bound to its number, and a device that comes back has another one:
without help such a server hears nothing until it is started again. An address that went away is waited for;
another one in its place is told, not followed, for boards and nodes know the server by its address.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

log = logging.getLogger(__name__)

NETLINK_GROUPS: Final = 0x1 | 0x10  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR: linux/rtnetlink.h
NETLINK_BYTES: Final = 65_536
LOOK_EVERY_S: Final = 5.0
"""In case the kernel's messages were lost, or netlink may not be used here."""


@dataclass(frozen=True, slots=True)
class InterfaceState:
    """Whether an interface is there as the server needs it.

    Args:
        index: the kernel's number of it; None where it is away.
        has_address: the server's address is on this machine.
    """

    index: int | None
    has_address: bool

    @property
    def usable(self) -> bool:
        return self.index is not None and self.has_address


def look_at(name: str, address: IPv4Address) -> InterfaceState:
    """The state of an interface now."""
    try:
        index = socket.if_nametoindex(name)
    except OSError:
        return InterfaceState(None, False)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return InterfaceState(index, False)
    return InterfaceState(index, True)


class InterfaceWatch:
    """Tells when an interface goes, comes back, or loses the server's address.

    Args:
        name: of the interface.
        address: the server's own.
        on_change: gets the new state.
    """

    def __init__(
        self,
        name: str,
        address: IPv4Address,
        on_change: Callable[[InterfaceState], None],
    ) -> None:
        self._name = name
        self._address = address
        self._on_change = on_change
        self._state = look_at(name, address)
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Watch until cancelled."""
        netlink = _open_netlink()
        loop = asyncio.get_running_loop()
        if netlink is not None:
            loop.add_reader(netlink, self._drain, netlink)
        try:
            while True:
                try:
                    async with asyncio.timeout(LOOK_EVERY_S):
                        await self._changed.wait()
                except TimeoutError:
                    pass
                self._changed.clear()
                self._look()
        finally:
            if netlink is not None:
                loop.remove_reader(netlink)
                netlink.close()

    def _drain(self, netlink: socket.socket) -> None:
        try:
            while netlink.recv(NETLINK_BYTES):
                pass
        except OSError:  # empty, or messages were lost: either way a look tells
            self._changed.set()

    def _look(self) -> None:
        before, self._state = self._state, look_at(self._name, self._address)
        if before != self._state:
            self._on_change(self._state)


def _open_netlink() -> socket.socket | None:
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    try:
        sock = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        sock.bind((0, NETLINK_GROUPS))
    except OSError as error:
        log.debug("no netlink", extra={"error": error.strerror})
        return None
    return sock


def bind_again(sockets: list[socket.socket], name: str) -> str | None:
    """Bind sockets to the interface that has a name now; what the kernel said against it, or None."""
    for sock in sockets:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode())
        except OSError as error:
            return error.strerror or str(error)
    return None
