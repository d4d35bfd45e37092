"""Requests that wait for their turn, because all transfers are taken. Pure.

Clients take turns, not requests: one that asks for much waits behind one that asks for little. A request that
comes again (its client repeats it) keeps its place. Whoever has waited longer than its patience is let go: a
bootloader has given the file up by then, and bytes sent to it would be taken from one that has not.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")

PATIENCE_S: Final = 20.0
"""A Pi gives a file up after TFTP_FILE_TIMEOUT, 30 s in all, and the transfer has to fit into the rest."""
MAXIMUM_WAITING: Final = 2048
MAXIMUM_PER_CLIENT: Final = 16


@dataclass(frozen=True, slots=True)
class Waiting(Generic[Item]):
    """One request in the queue."""

    item: Item
    since: float


class WaitingRoom(Generic[Item]):
    """A bounded queue in which clients take turns.

    Args:
        maximum: requests in all.
        per_client: requests of one client.
        patience_s: how long a request waits at most.
    """

    def __init__(
        self,
        maximum: int = MAXIMUM_WAITING,
        per_client: int = MAXIMUM_PER_CLIENT,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._maximum = maximum
        self._per_client = per_client
        self._patience_s = patience_s
        self._clients: OrderedDict[str, OrderedDict[int, Waiting[Item]]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, client: str, port: int, item: Item, now: float) -> bool:
        """Queue a request, or keep its place where it waits already; False where there is no room."""
        requests = self._clients.get(client)
        if requests is not None and port in requests:
            requests[port] = Waiting(item, requests[port].since)
            return True
        if self._count >= self._maximum or (requests is not None and len(requests) >= self._per_client):
            return False
        if requests is None:
            requests = self._clients[client] = OrderedDict()
        requests[port] = Waiting(item, now)
        self._count += 1
        return True

    def discard(self, client: str, port: int) -> None:
        """The client has changed its mind, or is served."""
        requests = self._clients.get(client)
        if requests is not None and requests.pop(port, None) is not None:
            self._count -= 1
            if not requests:
                del self._clients[client]

    def take(self, now: float, may_start: Callable[[str, Item], bool]) -> Waiting[Item] | None:
        """The request whose turn it is, of the first client that may start one; that client goes to the
        end."""
        for client in list(self._clients):
            requests = self._clients[client]
            port, waiting = next(iter(requests.items()))
            if now - waiting.since > self._patience_s:
                self.discard(client, port)
                return self.take(now, may_start)
            if may_start(client, waiting.item):
                self._clients.move_to_end(client)
                self.discard(client, port)
                return waiting
        return None

    def expire(self, now: float) -> int:
        """Let go whoever has waited too long; how many those were."""
        late = [
            (client, port)
            for client, requests in self._clients.items()
            for port, waiting in requests.items()
            if now - waiting.since > self._patience_s
        ]
        for client, port in late:
            self.discard(client, port)
        return len(late)
