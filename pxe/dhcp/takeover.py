"""A node's own address while a lease of another machine holds it: given over once that machine is gone. Pure.

A board that takes the place of a dead one has another hardware address, and the dead one's lease runs on.
Nobody's word frees it at once: serials can be forged, and the machine may live. So the board's first DISCOVER
is not answered; the cable is asked instead, and a later DISCOVER is answered where nobody spoke up meanwhile.
A bootloader asks every few seconds.

A question is about one lease and not about who wants it: whoever the node's board is, the same silence
answers it. A machine that renews has a new lease, so what was asked before counts no longer; nor does it
where somebody else got the address meanwhile.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from ipaddress import IPv4Address
from typing import Final, TypeVar

from fleet.boards import MacAddress
from pxe.boot.identity import BoardIdentity
from pxe.dhcp.leases import Lease, LeaseState

ANSWER_S: Final = 1.0
"""So long a machine has to answer for its address: RFC 5227 waits one to two seconds after its last probe."""
SILENCE_COUNTS_S: Final = 90.0
"""After that the cable is asked again. Longer than a client may be silent between two DISCOVERs, 65 s
(RFC 2131 §4.1): whoever asks that seldom would never be answered."""
HEARD_COUNTS_S: Final = 60.0
"""After that a machine that answered may have gone."""
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
    """A machine answered for it."""
    UNKNOWN = auto()
    """The board is behind a relay: silence on this server's cable says nothing about that of the boards."""


@dataclass(frozen=True, slots=True)
class _Question:
    lease: Lease
    board: BoardIdentity
    at: float


class Takeovers:
    """Addresses that the cable was asked about, and those that somebody answered for; the oldest first."""

    def __init__(self) -> None:
        self._asked: OrderedDict[IPv4Address, _Question] = OrderedDict()
        self._heard: OrderedDict[IPv4Address, tuple[MacAddress, float]] = OrderedDict()

    def claim(self, lease: Lease, board: BoardIdentity, now: float) -> Claim:
        """A board wants the address of the node that it is.

        Args:
            lease: another machine's lease of that address, which runs.
            board: who wants it.
            now: seconds.
        """
        address = lease.address
        mac, heard_at = self._heard.get(address, (None, 0.0))
        if mac == lease.mac and 0 <= now - heard_at < HEARD_COUNTS_S:
            return Claim.HELD
        question = self._asked.get(address)
        if question is None or question.lease is not lease or not 0 <= now - question.at < SILENCE_COUNTS_S:
            _put(self._asked, address, _Question(lease, board, now))
            return Claim.ASK
        return Claim.FREE if now - question.at >= ANSWER_S else Claim.WAIT

    def wanted_by(self, lease: Lease | None) -> BoardIdentity | None:
        """The board for whose sake the cable was asked about a lease; None where it was not."""
        question = self._asked.get(lease.address) if lease is not None else None
        return question.board if question is not None and question.lease is lease else None

    def heard(self, lease: Lease, now: float) -> None:
        """A machine answered for the address of a lease."""
        self._asked.pop(lease.address, None)
        _put(self._heard, lease.address, (lease.mac, now))

    def not_asked(self, address: IPv4Address, now: float) -> None:
        """The cable could not be asked just now. What it was asked longer ago stays answered."""
        question = self._asked.get(address)
        if question is not None and now - question.at < ANSWER_S:
            del self._asked[address]


def explain_held(lease: Lease, claim: Claim | None) -> str:
    """Why a board does not get the address of its node, and what helps.

    Args:
        lease: what keeps the address from it.
        claim: what became of its claim; None where it may make none.
    """
    own, until = (
        f"its address {lease.address}",
        f"until {datetime.fromtimestamp(lease.expires, UTC):%H:%M} UTC",
    )
    if lease.state is LeaseState.DECLINED:
        return (
            f"{own} rests {until}, because another machine was seen at it. Find that machine and give it "
            "another address"
        )
    match claim:
        case Claim.HELD:
            return f"a machine answers for {own}, of which {lease.mac} has a lease. Switch that machine off"
        case Claim.UNKNOWN:
            return (
                f"{lease.mac} has a lease of {own} {until}; whether that machine lives can not be asked "
                "through a relay. Wait, or declare another address"
            )
        case _:
            return f"{lease.mac} has {own} and is this node's board as well. Switch one of them off"


def _put(kept: OrderedDict[IPv4Address, _Value], key: IPv4Address, value: _Value) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > PENDING:
        kept.popitem(last=False)
