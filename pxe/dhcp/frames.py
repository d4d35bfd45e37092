"""IPv4 and UDP headers around a DHCP reply, for a client that has no address yet; and ARP probes.

The kernel sends to an address only after ARP, which a client without an address does not answer. Such a
reply goes out as a packet of our own making, to the client's hardware address (RFC 2131 §4.1). The link
layer's header is the kernel's work (packet(7), SOCK_DGRAM).

    IPv4  0 version/IHL · 1 TOS · 2–3 length · 4–5 id · 6–7 flags/offset · 8 TTL · 9 protocol
          10–11 checksum · 12–15 source · 16–19 destination
    UDP   20–21 source port · 22–23 destination port · 24–25 length · 26–27 checksum · 28– payload
    ARP   0–1 hardware type · 2–3 protocol type · 4 hardware size · 5 protocol size · 6–7 operation
          8–13 sender's MAC · 14–17 sender's IP · 18–23 target's MAC · 24–27 target's IP

Sources: RFC 791 §3.1, RFC 768, RFC 1071, RFC 826, RFC 5227 §1.1.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from pxe.dhcp.wire import NO_ADDRESS
from pxe.errors import WireError

IPV4: Final = struct.Struct("!BBHHHBBH4s4s")
UDP: Final = struct.Struct("!HHHH")
ARP: Final = struct.Struct("!HHBBH6s4s6s4s")
PROTOCOL_UDP: Final = 17
TTL: Final = 64
DONT_FRAGMENT: Final = 0x4000
FRAGMENT_MASK: Final = 0x3FFF  # "more fragments" and the offset
HEADERS_BYTES: Final = IPV4.size + UDP.size
ARP_REQUEST: Final = 1
ARP_REPLY: Final = 2
_ETHERNET: Final = 1
_ETHERTYPE_IPV4: Final = 0x0800


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071). A sum of 16-bit words with end-around carry is the number that the
    bytes make, modulo 0xFFFF."""
    return 0xFFFF - int.from_bytes(data + b"\0" * (len(data) % 2), "big") % 0xFFFF


def encode_datagram(
    payload: bytes, *, source: tuple[IPv4Address, int], target: tuple[IPv4Address, int]
) -> bytes:
    """An IPv4 packet with one UDP datagram; addresses and ports as (address, port)."""
    ours, theirs = source[0].packed, target[0].packed
    size = UDP.size + len(payload)
    pseudo = ours + theirs + struct.pack("!BBH", 0, PROTOCOL_UDP, size)
    udp = UDP.pack(source[1], target[1], size, 0)
    udp = udp[:6] + struct.pack("!H", checksum(pseudo + udp + payload) or 0xFFFF)
    header = IPV4.pack(0x45, 0, IPV4.size + size, 0, DONT_FRAGMENT, TTL, PROTOCOL_UDP, 0, ours, theirs)
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + udp + payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Datagram:
    """One UDP datagram out of an IPv4 packet."""

    source: IPv4Address
    target_port: int
    payload: bytes


def parse_datagram(packet: bytes) -> Datagram:
    """Read an IPv4 packet that holds a whole UDP datagram. Checksums are the receiver's business, not ours.

    Raises:
        WireError: it is something else, or a fragment.
    """
    if len(packet) < IPV4.size:
        raise WireError(f"{len(packet)} bytes, an IPv4 packet has at least {IPV4.size}")
    start, _tos, total, _id, fragment, _ttl, protocol, _sum, source, _target = IPV4.unpack_from(packet)
    header = (start & 0x0F) * 4
    if start >> 4 != 4 or header < IPV4.size or protocol != PROTOCOL_UDP or fragment & FRAGMENT_MASK:
        raise WireError("no whole UDP datagram over IPv4")
    if not header + UDP.size <= total <= len(packet):
        raise WireError(f"the packet says {total} bytes, {len(packet)} came")
    _from, to, size, _sum = UDP.unpack_from(packet, header)
    if not UDP.size <= size <= total - header:
        raise WireError(f"the datagram says {size} bytes, {total - header} came")
    payload = packet[header + UDP.size : header + size]
    return Datagram(source=IPv4Address(source), target_port=to, payload=payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arp:
    """Who says what to whom: the parts of an ARP packet that a probe needs."""

    operation: int
    sender_mac: bytes
    sender: IPv4Address
    target: IPv4Address


def encode_arp_probe(mac: bytes, target: IPv4Address) -> bytes:
    """The question whether anybody has an address, from somebody who claims none (RFC 5227 §2.1.1)."""
    zero = NO_ADDRESS.packed
    return ARP.pack(_ETHERNET, _ETHERTYPE_IPV4, 6, 4, ARP_REQUEST, mac, zero, bytes(6), target.packed)


def parse_arp(packet: bytes) -> Arp:
    """Read an ARP packet for IPv4 over Ethernet. Raises `WireError` for anything else."""
    if len(packet) < ARP.size:
        raise WireError(f"{len(packet)} bytes, an ARP packet has {ARP.size}")
    hardware, protocol, mac_size, ip_size, operation, mac, sender, _their_mac, target = ARP.unpack_from(
        packet
    )
    if (hardware, protocol, mac_size, ip_size) != (_ETHERNET, _ETHERTYPE_IPV4, 6, 4):
        raise WireError("no ARP packet for IPv4 over Ethernet")
    return Arp(operation=operation, sender_mac=mac, sender=IPv4Address(sender), target=IPv4Address(target))
