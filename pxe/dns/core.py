"""What is answered to a DNS query: from the zone, by somebody else, or not at all. Pure.

Sources: RFC 1035, 2308 (negative answers carry the SOA), 6891 (EDNS), 8482 (ANY), 4343 (case).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from typing import Final, TypeAlias

from dnslib import CLASS, EDNS0, NS, OPCODE, PTR, QTYPE, RCODE, RR, SOA, A, DNSRecord

from pxe.dns.wire import EDNS_UDP_BYTES, Query
from pxe.dns.zone import Zone, parse_reverse

TTL_S: Final = 60
"""Answers may be kept for a minute: addresses change when cluster.yaml does."""
SOA_TIMES: Final = (1, 3600, 600, 86_400, TTL_S)  # serial, refresh, retry, expire, negative TTL (RFC 2308 §4)
BADVERS: Final = 16  # RFC 6891 §9
ANY_CLASS: Final = 255  # RFC 1035 §3.2.5


class Rest(StrEnum):
    """What becomes of names that are not the cluster's."""

    SILENT = "silent"
    FORWARD = "forward"


@dataclass(frozen=True, slots=True)
class Reply:
    """Send these bytes back. ``outcome`` is a word for counters."""

    data: bytes
    outcome: str


@dataclass(frozen=True, slots=True)
class Relay:
    """Ask the upstream servers, and pass on what they say."""

    outcome: str = "forwarded"


@dataclass(frozen=True, slots=True)
class Silence:
    """Send nothing."""

    outcome: str


Answer: TypeAlias = Reply | Relay | Silence


@dataclass(frozen=True, slots=True, kw_only=True)
class NameSettings:
    """What the DNS server knows.

    Args:
        zone: the cluster's names.
        rest: what becomes of other names.
        upstreams: whom to ask about them, in this order.
        clients: only these are served with other servers' answers; an open resolver is a weapon.
    """

    zone: Zone
    rest: Rest
    upstreams: tuple[IPv4Address, ...]
    clients: Sequence[IPv4Network]


def respond(query: Query, client: IPv4Address, settings: NameSettings) -> Answer:
    """Decide about one query."""
    if query.opcode != OPCODE.QUERY:
        return _reply(query, RCODE.NOTIMP, "not implemented")
    if query.has_edns and query.edns_version != 0:
        return _reply(query, BADVERS, "unknown EDNS version")
    if query.qclass not in (CLASS.IN, ANY_CLASS):
        return _reply(query, RCODE.NOTIMP, "not implemented")
    zone = settings.zone
    if zone.covers(query.name) or ("." not in query.name and query.name in zone.hosts):
        return _from_zone(query, zone)
    if (address := parse_reverse(query.name)) is not None and address in zone.subnet:
        name = zone.name_of(address)
        if name is not None:
            return _reverse(query, name, zone)
        if zone.owns_reverse:
            return _negative(query, RCODE.NXDOMAIN, zone.reverse_domain, zone)
    return _rest(query, client, settings)


def failure(query: Query) -> bytes:
    """SERVFAIL: nobody upstream answered in time."""
    return _reply(query, RCODE.SERVFAIL, "upstream silent").data


def _rest(query: Query, client: IPv4Address, settings: NameSettings) -> Answer:
    if settings.rest is Rest.SILENT:
        return Silence("not ours")
    if not any(client in network for network in settings.clients):
        return _reply(query, RCODE.REFUSED, "refused")
    return Relay()


def _from_zone(query: Query, zone: Zone) -> Answer:
    addresses = zone.addresses(query.name)
    if addresses is None:
        return _negative(query, RCODE.NXDOMAIN, zone.domain, zone)
    name = query.record.q.qname
    records: list[RR] = []
    if query.qtype in (QTYPE.A, QTYPE.ANY):
        records = [RR(name, QTYPE.A, rdata=A(str(address)), ttl=TTL_S) for address in addresses]
    if query.name == zone.domain and query.qtype in (QTYPE.SOA, QTYPE.ANY):
        records.append(_soa(zone.domain, zone))
    if query.name == zone.domain and query.qtype in (QTYPE.NS, QTYPE.ANY):
        records.append(RR(name, QTYPE.NS, rdata=NS(zone.name_server), ttl=TTL_S))
    if not records:  # the name is there, and has nothing of that type
        return _negative(query, RCODE.NOERROR, zone.domain, zone)
    return _positive(query, records)


def _reverse(query: Query, name: str, zone: Zone) -> Answer:
    if query.qtype not in (QTYPE.PTR, QTYPE.ANY):
        return _negative(query, RCODE.NOERROR, zone.reverse_domain, zone)
    return _positive(query, [RR(query.record.q.qname, QTYPE.PTR, rdata=PTR(name), ttl=TTL_S)])


def _positive(query: Query, records: Sequence[RR]) -> Reply:
    message = _message(query, RCODE.NOERROR)
    message.header.aa = 1
    message.add_answer(*records)
    return Reply(message.pack(), "answered")


def _negative(query: Query, rcode: int, domain: str, zone: Zone) -> Reply:
    message = _message(query, rcode)
    message.header.aa = 1
    message.add_auth(_soa(domain, zone))
    return Reply(message.pack(), "no such name" if rcode == RCODE.NXDOMAIN else "no such record")


def _soa(domain: str, zone: Zone) -> RR:
    return RR(
        domain, QTYPE.SOA, rdata=SOA(zone.name_server, f"hostmaster.{zone.domain}", SOA_TIMES), ttl=TTL_S
    )


def _reply(query: Query, rcode: int, outcome: str) -> Reply:
    return Reply(_message(query, rcode).pack(), outcome)


def _message(query: Query, rcode: int) -> DNSRecord:
    """An answer without records; the OPT record has the upper bits of a long rcode (RFC 6891 §6.1.3)."""
    message: DNSRecord = query.record.reply(ra=0, aa=0)
    message.header.rcode = rcode & 0xF
    if query.has_edns:
        message.add_ar(EDNS0(udp_len=EDNS_UDP_BYTES, ext_rcode=rcode >> 4))
    return message
