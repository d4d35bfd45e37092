"""Transfers under way: what belongs to each, and the book in which they are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any, Final

from pxe.boot.content import Content
from pxe.boot.routes import Route
from pxe.tftp.sender import Channel, ConnectedChannel
from pxe.tftp.session import ReadSession
from pxe.tftp.settings import WorkerSettings
from pxe.tftp.wire import Request

PROGRESS_EVERY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Asked:
    """A request with its way back."""

    request: Request
    peer: tuple[str, int]
    ours: IPv4Address | None
    is_bulk: bool = False


class Transfer:
    """A session with its channel, its content and its place in the records."""

    __slots__ = (
        "channel",
        "client",
        "content",
        "fd",
        "has_credit",
        "is_bulk",
        "is_lock_step",
        "progress_at",
        "queued_s",
        "receive",
        "request",
        "route",
        "send",
        "session",
        "started",
    )

    def __init__(
        self,
        asked: Asked,
        channel: Channel,
        found: Route,
        content: Content,
        session: ReadSession,
        now: float,
        queued_s: float,
    ) -> None:
        own = channel.sock if isinstance(channel, ConnectedChannel) else None
        self.fd = own.fileno() if own is not None else -1
        # Bound once, for the one path that every ACK takes; a shared socket does not take it.
        self.receive: Callable[[int], bytes] = own.recv if own is not None else _no_socket
        self.send: Callable[[memoryview], int] = own.send if own is not None else _no_socket
        self.is_lock_step = session.negotiated.windowsize == 1
        self.channel = channel
        self.client = asked.peer
        self.request = asked.request
        self.has_credit = False
        self.is_bulk = asked.is_bulk
        self.route = found
        self.content = content
        self.session = session
        self.started = now
        self.queued_s = queued_s
        self.progress_at = now + PROGRESS_EVERY_S


def _no_socket(_argument: int | memoryview) -> Any:
    raise OSError("this transfer has no socket of its own")


class TransferBook:
    """Transfers by their descriptor, and by address and port of their client.

    Args:
        settings: how many there may be.

    Attributes:
        by_fd: those with a socket of their own, by its descriptor.
        bulk: how many are of large files.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._by_client: dict[str, dict[int, Transfer]] = {}  # address → port → transfer, oldest first
        self._count = 0
        self.by_fd: dict[int, Transfer] = {}
        self.bulk = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Transfer]:
        """All of them; they may be removed meanwhile."""
        return iter([transfer for ports in self._by_client.values() for transfer in ports.values()])

    def __contains__(self, transfer: Transfer) -> bool:
        return self.find(transfer.client) is transfer

    def find(self, client: tuple[str, int]) -> Transfer | None:
        """The transfer of a client's port."""
        return self._by_client.get(client[0], {}).get(client[1])

    def find_ghost(self, address: str) -> Transfer | None:
        """The oldest transfer that its client has left, where the client has as many as it may have."""
        transfers = self._by_client.get(address, {})
        if len(transfers) < self._settings.max_per_client:
            return None
        return next((each for each in transfers.values() if each.session.is_silent), None)

    def may_start(self, address: str, asked: Asked) -> bool:
        """Whether there is room for one more."""
        settings = self._settings
        return (
            self._count < settings.max_transfers
            and (not asked.is_bulk or self.bulk < settings.max_bulk)
            and len(self._by_client.get(address, ())) < settings.max_per_client
        )

    def add(self, transfer: Transfer) -> None:
        """Write down one that has begun."""
        if transfer.fd >= 0:
            self.by_fd[transfer.fd] = transfer
        self._by_client.setdefault(transfer.client[0], {})[transfer.client[1]] = transfer
        self._count += 1
        self.bulk += transfer.is_bulk

    def remove(self, transfer: Transfer) -> bool:
        """Strike one out that has ended; False where it was not in the book any more."""
        if transfer not in self:
            return False
        address, port = transfer.client
        ports = self._by_client[address]
        del ports[port]
        if not ports:
            del self._by_client[address]
        self._count -= 1
        self.bulk -= transfer.is_bulk
        self.by_fd.pop(transfer.fd, None)
        return True
