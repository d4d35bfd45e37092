"""Which board is behind which address, as far as it is known: from leases, and from what boards ask for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Final

from pxe.boot.identity import BoardIdentity

CLIENTS_REMEMBERED: Final = 4096


@dataclass(frozen=True, slots=True)
class Learn:
    """From now on this board is behind this address: TFTP and HTTP have to know before its first request."""

    address: IPv4Address
    board: BoardIdentity


@dataclass(slots=True)
class ClientBook:
    """A bounded memory; the client that was silent for longest is forgotten first."""

    _boards: OrderedDict[IPv4Address, BoardIdentity] = field(default_factory=OrderedDict)

    def learn(self, address: IPv4Address, board: BoardIdentity) -> None:
        """From now on this board is behind this address."""
        self._boards[address] = board
        self._boards.move_to_end(address)
        while len(self._boards) > CLIENTS_REMEMBERED:
            self._boards.popitem(last=False)

    def __iter__(self) -> Iterator[tuple[IPv4Address, BoardIdentity]]:
        """Every client that is remembered, the longest silent first."""
        return iter(tuple(self._boards.items()))

    def find(self, address: IPv4Address) -> BoardIdentity | None:
        """The board behind an address, or None."""
        return self._boards.get(address)
