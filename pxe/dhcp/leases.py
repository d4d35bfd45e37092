"""Who has which address: a plain table in memory. No file, no clock.

A client is its MAC address and nothing else. The bootloader sends no client identifier and the operating
system sends one; by the identifier, a node would take two addresses and lose its reservation between them.

Invariant: at one time an address belongs to at most one client. Times are UTC seconds, because leases
outlive the process; the shell stores what `drain_changes` hands out before it sends the answer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Final

from fleet.boards import MacAddress
from fleet.spec.model import AddressPool

OFFER_HELD_S: Final = 60.0  # longer than DHCP_TIMEOUT of a bootloader (45 s)
DECLINED_HELD_S: Final = 600.0


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
    expires: float


class LeaseTable:
    """All leases, by address and by client. Offers are kept apart: an offer takes nothing from its client.

    Args:
        pool: addresses for clients without a reservation; None for none.
        excluded: addresses of the pool that are never given out (the server's, the gateway's).
        leases: what was stored before, oldest first.
    """

    def __init__(
        self,
        pool: AddressPool | None,
        excluded: Collection[IPv4Address] = (),
        leases: Iterable[Lease] = (),
    ) -> None:
        self._pool = pool
        self._excluded = frozenset(excluded)
        self._leases: dict[IPv4Address, Lease] = {}
        self._by_mac: dict[MacAddress, Lease] = {}
        self._offers: dict[MacAddress, _Offer] = {}
        self._offered_to: dict[IPv4Address, MacAddress] = {}
        self._changes: list[Lease] = []
        for lease in leases:
            self._put(lease)

    def __iter__(self) -> Iterator[Lease]:
        """Every lease that is remembered, old ones too, by address."""
        return iter([self._leases[address] for address in sorted(self._leases)])

    def find(self, mac: MacAddress) -> Lease | None:
        """The last lease of a client, maybe an old one."""
        return self._by_mac.get(mac)

    def offered(self, mac: MacAddress, now: float) -> IPv4Address | None:
        """The address that a client was offered and has not taken yet."""
        offer = self._offers.get(mac)
        return offer.address if offer is not None and now < offer.expires else None

    def is_free(self, address: IPv4Address, mac: MacAddress, now: float) -> bool:
        """Whether a client may have an address, as far as leases and offers of others go."""
        lease = self._leases.get(address)
        if lease is not None and lease.is_taken(now):
            return lease.mac == mac and lease.state is LeaseState.BOUND
        holder = self._offered_to.get(address)
        return holder is None or holder == mac or now >= self._offers[holder].expires

    def choose(
        self,
        mac: MacAddress,
        wanted: IPv4Address | None,
        reserved: Collection[IPv4Address],
        now: float,
    ) -> IPv4Address | None:
        """An address of the pool for a client: the one that it was offered or had, the one that it wants, one
        that nobody had, or the one that was free for longest. None where no address is free.

        Args:
            mac: the client.
            wanted: what it asks for.
            reserved: addresses that belong to declared nodes.
            now: UTC seconds.
        """
        if self._pool is None:
            return None
        had = self._by_mac.get(mac)
        for address in (self.offered(mac, now), had.address if had else None, wanted):
            if (
                address is not None
                and self._is_for_all(address, reserved)
                and self.is_free(address, mac, now)
            ):
                return address
        oldest: Lease | None = None
        for number in range(int(self._pool.first), int(self._pool.last) + 1):
            address = IPv4Address(number)
            if not self._is_for_all(address, reserved) or not self.is_free(address, mac, now):
                continue
            lease = self._leases.get(address)
            if lease is None:
                return address
            if oldest is None or lease.expires < oldest.expires:
                oldest = lease
        return oldest.address if oldest is not None else None

    def offer(self, mac: MacAddress, address: IPv4Address, now: float) -> None:
        """Keep an address for a client while it decides."""
        self.drop_offer(mac)
        stale = self._offered_to.pop(address, None)
        if stale is not None:
            del self._offers[stale]
        self._offers[mac] = _Offer(address, now + OFFER_HELD_S)
        self._offered_to[address] = mac

    def drop_offer(self, mac: MacAddress) -> None:
        """Forget an offer that the client did not take."""
        offer = self._offers.pop(mac, None)
        if offer is not None:
            del self._offered_to[offer.address]

    def bind(self, mac: MacAddress, address: IPv4Address, expires: float) -> None:
        """Give an address to a client; its former address becomes free. The caller has asked `is_free`."""
        self.drop_offer(mac)
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
        self._change(
            Lease(address=address, mac=mac, state=LeaseState.DECLINED, expires=now + DECLINED_HELD_S)
        )
        return True

    def drain_changes(self) -> list[Lease]:
        """What has to be stored since the last call. Offers are not: a lost one is asked for again."""
        changes, self._changes = self._changes, []
        return changes

    def _holds(self, mac: MacAddress, address: IPv4Address, now: float) -> bool:
        lease = self._leases.get(address)
        return (
            lease is not None and lease.mac == mac and lease.state is LeaseState.BOUND and lease.is_taken(now)
        )

    def _is_for_all(self, address: IPv4Address, reserved: Collection[IPv4Address]) -> bool:
        return (
            self._pool is not None
            and address in self._pool
            and address not in self._excluded
            and address not in reserved
        )

    def _change(self, lease: Lease) -> None:
        self._put(lease)
        self._changes.append(lease)

    def _put(self, lease: Lease) -> None:
        """Enter a lease; the client's former address and the address's former client are forgotten."""
        former = self._by_mac.pop(lease.mac, None)
        if former is not None:
            del self._leases[former.address]
        replaced = self._leases.get(lease.address)
        if replaced is not None and self._by_mac.get(replaced.mac) is replaced:
            del self._by_mac[replaced.mac]
        self._leases[lease.address] = lease
        if lease.state is not LeaseState.DECLINED:
            self._by_mac[lease.mac] = lease
