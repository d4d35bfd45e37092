"""How much may be sent to an address that has not shown that it is there. Pure.

The sender's address of a request can be false, and then the answer hits somebody else. Before a client has
answered, an address gets at most twice the bytes that came in its name, headers counted (a request with
options is longer than its OACK, so those always pass). A client that knows no options needs one DATA packet
of 544 bytes to answer: neighbours get it on credit, because on a network of our own the kernel has found the
address by ARP before. One from elsewhere has to repeat its request until it has earned that packet.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

FACTOR: Final = 2
UDP_IP_BYTES: Final = 28
CREDIT_BYTES: Final = 600
MOST_BYTES: Final = 4096  # of an account, so that it can not be saved up for long
ADDRESSES: Final = 4096


class ReflectionGuard:
    """Keeps account for each address; bounded, the longest unused is forgotten first."""

    def __init__(self) -> None:
        self._left: OrderedDict[str, int] = OrderedDict()

    def received(self, address: str, payload_bytes: int) -> None:
        """A packet came in the name of this address."""
        left = self._left.pop(address, 0)
        self._left[address] = min(left + FACTOR * (payload_bytes + UDP_IP_BYTES), MOST_BYTES)
        while len(self._left) > ADDRESSES:
            self._left.popitem(last=False)

    def allows(self, address: str, payload_bytes: int, *, on_credit: bool = False) -> bool:
        """Whether a packet may be sent; it is taken from the account.

        Args:
            address: where it goes.
            payload_bytes: of UDP.
            on_credit: the account may be overdrawn by `CREDIT_BYTES`.
        """
        left = self._left.get(address, 0) - payload_bytes - UDP_IP_BYTES
        if left < (-CREDIT_BYTES if on_credit else 0):
            return False
        self._left[address] = left
        return True

    def proved(self, address: str) -> None:
        """The client is there: it has answered a packet of ours."""
        if address in self._left:
            self._left[address] = max(self._left[address], 0)
