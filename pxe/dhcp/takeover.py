"""A node's own address while a lease of another machine holds it: given over once that machine is gone. Pure.

A board that takes the place of a dead one has another hardware address, and the dead one's lease runs on.
Nobody's word frees it at once: serials can be forged, and the machine may live. So the board's first DISCOVER
is not answered; the cable is asked instead, and a later DISCOVER is answered where nobody spoke up meanwhile.
A bootloader asks every few seconds.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum, auto
from ipaddress import IPv4Address
from typing import Final, TypeVar

from fleet.boards import MacAddress

ANSWER_S: Final = 1.0
"""So long a machine has to answer for its address: RFC 5227 waits one to two seconds after its last probe."""
ASKED_FOR_S: Final = 60.0
"""After that the cable is asked again, and a machine that was heard may have gone."""
PENDING: Final = 1024

_Value = TypeVar("_Value")


class Claim(Enum):
    """What becomes of a board's claim to the address of its node."""

    ASK = auto()
    """Ask the cable; do not answer."""
    WAIT = auto()
    """The cable was asked just now; do not answer."""
    FREE = auto()
    """Nobody has it, or nobody answered for it."""
    HELD = auto()
    """The machine of the lease lives."""


class Takeovers:
    """Addresses that were asked for, with who wants them and when that was; the oldest first."""

    def __init__(self) -> None:
        self._asked: OrderedDict[IPv4Address, tuple[MacAddress, float]] = OrderedDict()
        self._heard: OrderedDict[IPv4Address, float] = OrderedDict()

    def claim(self, address: IPv4Address, mac: MacAddress, now: float) -> Claim:
        """A board wants the address of the node that it is; `now` in seconds."""
        if 0 <= now - self._heard.get(address, float("-inf")) < ASKED_FOR_S:
            return Claim.HELD
        by, at = self._asked.get(address, (None, 0.0))
        if by != mac or not 0 <= now - at < ASKED_FOR_S:
            _put(self._asked, address, (mac, now))
            return Claim.ASK
        return Claim.FREE if now - at >= ANSWER_S else Claim.WAIT

    def heard(self, address: IPv4Address, now: float) -> bool:
        """The machine of the lease answered for its address; whether that was asked for here."""
        if self._asked.pop(address, None) is None:
            return False
        _put(self._heard, address, now)
        return True


def _put(kept: OrderedDict[IPv4Address, _Value], key: IPv4Address, value: _Value) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > PENDING:
        kept.popitem(last=False)
