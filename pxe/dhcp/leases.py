"""Who has which address: a plain table in memory. No file, no clock.

A client is its MAC address and nothing else. The bootloader sends no client identifier and the operating
system sends one; by the identifier, a node would take two addresses and lose its reservation between them.

Invariant: at one time an address belongs to at most one client. Times are UTC seconds, because leases
outlive the process; the shell stores what `drain_changes` hands out before it sends the answer.

Every operation takes the same time in a pool of any size: addresses that are in use stand in a heap by the
time when they become free, those that are free again in the order in which they became so, and those that
nobody had yet are counted through once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from heapq import heapify, heappop, heappush
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from fleet.boards import MacAddress
from fleet.spec.model import AddressPool

OFFER_HELD_S: Final = 60.0  # longer than DHCP_TIMEOUT of a bootloader (45 s)
OFFER_PROTECTED_S: Final = 5.0
"""A client answers an offer within milliseconds, a slow one within seconds. When no other address is left, an
older offer that nobody took is given to somebody else: a flood of DISCOVERs holds no pool for a minute."""
DECLINED_HELD_S: Final = 600.0
DECLINED_SHARE: Final = 4
"""At most one in so many addresses rests after a DECLINE; then the one that rested longest comes back."""
SCARCE_SHARE: Final = 4
"""A pool with less than one in so many addresses free is scarce."""
_HEAP_SLACK: Final = 1024


class LeaseState(StrEnum):
    """What became of an address."""

    BOUND = "bound"
    RELEASED = "released"
    DECLINED = "declined"  # somebody else was seen at it: kept from everybody for a while


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One address and its client, until `expires` (UTC seconds)."""

    address: IPv4Address
    mac: MacAddress
    state: LeaseState
    expires: float

    def is_taken(self, now: float) -> bool:
        """Whether nobody else may have the address now."""
        return self.state is not LeaseState.RELEASED and now < self.expires


@dataclass(frozen=True, slots=True)
class _Offer:
    address: IPv4Address
    made: float

    @property
    def expires(self) -> float:
        return self.made + OFFER_HELD_S


class LeaseTable:
    """All leases, by address and by client. Offers are kept apart: an offer takes nothing from its client.

    Args:
        pool: addresses for clients without a reservation; None for none.
        excluded: addresses of the pool that are never given out (the server's, the gateway's).
        leases: what was stored before, oldest first; see `plausible_leases`.
    """

    def __init__(
        self,
        pool: AddressPool | None,
        excluded: Collection[IPv4Address] = (),
        leases: Iterable[Lease] = (),
    ) -> None:
        self._pool = pool
        self._first, self._last = (int(pool.first), int(pool.last)) if pool is not None else (0, -1)
        self._excluded = frozenset(int(address) for address in excluded)
        self._size = self._last - self._first + 1
        self._usable = self._size - sum(map(self._in_pool, self._excluded))
        # Addresses are numbers in here: an IPv4Address takes ten times as long to hash.
        self._leases: dict[int, Lease] = {}
        self._by_mac: dict[bytes, Lease] = {}
        self._offers: dict[bytes, _Offer] = {}  # the oldest first
        self._offered_to: dict[int, bytes] = {}
        self._declined: dict[int, None] = {}  # the oldest first
        self._changes: list[Lease] = []
        self._busy: dict[int, float] = {}  # address → when it becomes free
        self._frees: list[tuple[float, int]] = []  # a heap of the same, with entries that no longer hold
        self._spare: dict[int, None] = {}  # had somebody, are free now: the one free for longest first
        self._fresh = self._first  # from here on nobody had an address
        for lease in leases:
            self._put(lease)

    def __iter__(self) -> Iterator[Lease]:
        """Every lease that is remembered, old ones too, by address."""
        return iter([self._leases[number] for number in sorted(self._leases)])

    def __len__(self) -> int:
        """How many leases are remembered."""
        return len(self._leases)

    def find(self, mac: MacAddress) -> Lease | None:
        """The last lease of a client, maybe an old one."""
        return self._by_mac.get(mac.octets)

    def at(self, address: IPv4Address) -> Lease | None:
        """The last lease of an address, maybe an old one."""
        return self._leases.get(int(address))

    def offered(self, mac: MacAddress, now: float) -> IPv4Address | None:
        """The address that a client was offered and has not taken yet."""
        offer = self._offers.get(mac.octets)
        return offer.address if offer is not None and now < offer.expires else None

    def is_free(self, address: IPv4Address, mac: MacAddress, now: float) -> bool:
        """Whether a client may have an address, as far as leases and offers of others go."""
        number = int(address)
        lease = self._leases.get(number)
        if lease is not None and lease.is_taken(now):
            return lease.mac == mac and lease.state is LeaseState.BOUND
        holder = self._offered_to.get(number)
        return holder is None or holder == mac.octets or now >= self._offers[holder].expires

    def is_scarce(self, now: float) -> bool:
        """Whether the pool is nearly used up."""
        self._expire(now)
        return (self._usable - len(self._busy)) * SCARCE_SHARE < self._size

    def choose(
        self,
        mac: MacAddress,
        wanted: IPv4Address | None,
        reserved: Collection[IPv4Address],
        now: float,
        *,
        urgent: bool = False,
    ) -> IPv4Address | None:
        """An address of the pool for a client: the one that it was offered or had, the one that it wants, one
        that nobody had, or the one that was free for longest. None where no address is free.

        Args:
            mac: the client.
            wanted: what it asks for.
            reserved: addresses that belong to declared nodes.
            now: UTC seconds.
            urgent: a board; when nothing is left it gets the address of the oldest offer, however young.
        """
        if self._pool is None:
            return None
        self._expire(now)
        had = self._by_mac.get(mac.octets)
        for address in (self.offered(mac, now), had.address if had else None, wanted):
            if address is None or not self._is_for_all(int(address)) or address in reserved:
                continue
            if self.is_free(address, mac, now):
                return address
        return self._unused(reserved) or self._reclaimed(reserved, now, urgent=urgent)

    def offer(self, mac: MacAddress, address: IPv4Address, now: float) -> None:
        """Keep an address for a client while it decides."""
        self.drop_offer(mac)
        number = int(address)
        self._forget_offer_of(number)
        offer = self._offers[mac.octets] = _Offer(address, now)
        self._offered_to[number] = mac.octets
        self._occupy(number, max(offer.expires, self._busy.get(number, 0)))

    def drop_offer(self, mac: MacAddress) -> None:
        """Forget an offer that the client did not take."""
        offer = self._offers.pop(mac.octets, None)
        if offer is not None:
            number = int(offer.address)
            del self._offered_to[number]
            self._settle(number)

    def withdraw(self, address: IPv4Address) -> None:
        """Forget that an address was offered, to whomever: somebody has it."""
        number = int(address)
        self._forget_offer_of(number)
        self._settle(number)

    def bind(self, mac: MacAddress, address: IPv4Address, expires: float) -> None:
        """Give an address to a client; its former address becomes free, and nobody else is offered it any
        more. The caller has asked `is_free`."""
        offer = self._offers.pop(mac.octets, None)
        if offer is not None:
            del self._offered_to[int(offer.address)]
            if offer.address != address:
                self._settle(int(offer.address))
        self._forget_offer_of(int(address))
        self._change(Lease(address=address, mac=mac, state=LeaseState.BOUND, expires=expires))

    def release(self, mac: MacAddress, address: IPv4Address, now: float) -> bool:
        """Take an address back from its client; False where it does not hold it."""
        if not self._holds(mac, address, now):
            return False
        self._change(Lease(address=address, mac=mac, state=LeaseState.RELEASED, expires=now))
        return True

    def decline(self, mac: MacAddress, address: IPv4Address, now: float) -> bool:
        """Keep an address from everybody for a while; False where the client does not hold it."""
        if not self._holds(mac, address, now):
            return False
        self.set_aside(mac, address, now)
        return True

    def set_aside(self, mac: MacAddress, address: IPv4Address, now: float) -> None:
        """Keep an address from everybody for a while: another machine was seen at it.

        Args:
            mac: the client that was to have it; its lease of the address ends, and everybody's offer of it.
        """
        number = int(address)
        self._forget_offer_of(number)
        self._change(
            Lease(address=address, mac=mac, state=LeaseState.DECLINED, expires=now + DECLINED_HELD_S)
        )
        self._declined.pop(number, None)
        self._declined[number] = None
        while len(self._declined) > max(2, self._size // DECLINED_SHARE):
            oldest = self._leases.get(next(iter(self._declined)))
            self._declined.pop(next(iter(self._declined)))
            if oldest is not None and oldest.state is LeaseState.DECLINED:
                self._change(replace(oldest, state=LeaseState.RELEASED, expires=now))

    def drain_changes(self) -> list[Lease]:
        """What has to be stored since the last call. Offers are not: a lost one is asked for again."""
        changes, self._changes = self._changes, []
        return changes

    def _forget_offer_of(self, number: int) -> None:
        """The caller settles the address."""
        client = self._offered_to.pop(number, None)
        if client is not None:
            del self._offers[client]

    def _holds(self, mac: MacAddress, address: IPv4Address, now: float) -> bool:
        lease = self._leases.get(int(address))
        return (
            lease is not None and lease.mac == mac and lease.state is LeaseState.BOUND and lease.is_taken(now)
        )

    def _unused(self, reserved: Collection[IPv4Address]) -> IPv4Address | None:
        """An address that nobody has: one that nobody had, else the one that was free for longest."""
        while self._fresh <= self._last:
            number = self._fresh
            if self._is_fresh(number):
                address = IPv4Address(number)
                if address not in reserved:
                    return address
                self._spare[number] = None  # a node's; maybe not for ever
            self._fresh += 1
        for number in self._spare:
            if (address := IPv4Address(number)) not in reserved:
                return address
        return None

    def _is_fresh(self, number: int) -> bool:
        return not (
            number in self._busy
            or number in self._spare
            or number in self._leases
            or number in self._excluded
        )

    def _reclaimed(
        self, reserved: Collection[IPv4Address], now: float, *, urgent: bool
    ) -> IPv4Address | None:
        """The address of the oldest offer that was not taken, if it is old enough to be given away."""
        for holder, offer in self._offers.items():
            if not urgent and now - offer.made < OFFER_PROTECTED_S:
                return None
            if not self._is_for_all(int(offer.address)) or offer.address in reserved:
                continue
            lease = self._leases.get(int(offer.address))
            if lease is None or not lease.is_taken(now):
                self.drop_offer(MacAddress(holder))
                return offer.address
        return None

    def _in_pool(self, number: int) -> bool:
        return self._first <= number <= self._last

    def _is_for_all(self, number: int) -> bool:
        return self._in_pool(number) and number not in self._excluded

    def _change(self, lease: Lease) -> None:
        given_up = self._put(lease)
        if given_up is not None:  # or the file would have it for its client until it expires
            self._changes.append(given_up)
        self._changes.append(lease)

    def _put(self, lease: Lease) -> Lease | None:
        """Enter a lease. A client that gets an address gives up its former one, which is returned as it then
        stands; who had it last is remembered. The address's former client is forgotten."""
        mac, number = lease.mac.octets, int(lease.address)
        former = self._by_mac.get(mac)
        # An address that it no longer has, and that rests or is free again, moves no client.
        stays = former is not None and former.address != lease.address and lease.state is not LeaseState.BOUND
        given_up = None
        if former is not None and not stays:
            del self._by_mac[mac]
            if former.address != lease.address:
                given_up = replace(former, state=LeaseState.RELEASED)
                self._leases[int(former.address)] = given_up
                self._settle(int(former.address))
        replaced = self._leases.get(number)
        if replaced is not None and self._by_mac.get(replaced.mac.octets) is replaced:
            del self._by_mac[replaced.mac.octets]
        self._leases[number] = lease
        if lease.state is LeaseState.DECLINED:
            self._declined[number] = None
        else:
            self._declined.pop(number, None)
            if not stays:
                self._by_mac[mac] = lease
        self._settle(number)
        return given_up

    def _settle(self, number: int) -> None:
        """Bring what is known about when an address becomes free up to date with its lease and its offer."""
        until = 0.0
        lease = self._leases.get(number)
        if lease is not None and lease.state is not LeaseState.RELEASED:
            until = lease.expires
        holder = self._offered_to.get(number)
        if holder is not None:
            until = max(until, self._offers[holder].expires)
        if until:
            self._occupy(number, until)
        else:
            self._vacate(number)

    def _occupy(self, number: int, until: float) -> None:
        self._spare.pop(number, None)
        if self._in_pool(number) and self._busy.get(number) != until:
            self._busy[number] = until
            heappush(self._frees, (until, number))
            if len(self._frees) > 2 * len(self._busy) + _HEAP_SLACK:
                self._frees = [(time, busy) for busy, time in self._busy.items()]
                heapify(self._frees)

    def _vacate(self, number: int) -> None:
        self._busy.pop(number, None)
        if self._is_for_all(number):
            self._spare.pop(number, None)
            self._spare[number] = None

    def _expire(self, now: float) -> None:
        while self._frees and self._frees[0][0] <= now:
            until, number = heappop(self._frees)
            if self._busy.get(number) == until:
                self._vacate(number)


def plausible_leases(
    leases: Iterable[Lease], subnet: IPv4Network, excluded: Collection[IPv4Address], latest: float
) -> list[Lease]:
    """What may come back out of a file: no address that this server can not give, no lease without end.

    A lease file outlives changes of cluster.yaml, wrong clocks and people who edit it.

    Args:
        leases: as they were read, oldest first.
        subnet: the network of the boards.
        excluded: the server's own address and the like.
        latest: when a lease that was given now would end, UTC seconds; later ends are brought down to it.
    """
    return [
        lease if lease.expires <= latest else replace(lease, expires=latest)
        for lease in leases
        if is_host(lease.address, subnet) and lease.address not in excluded
    ]


def is_host(address: IPv4Address, subnet: IPv4Network) -> bool:
    """Whether a machine of the network can have an address; its first and its last stand for all (but for two
    of a link of their own, RFC 3021)."""
    edges = (subnet.network_address, subnet.broadcast_address) if subnet.prefixlen < 31 else ()
    return address in subnet and address not in edges
