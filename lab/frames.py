"""Ethernet, ARP, IPv4, UDP and TCP, as far as a boot ROM speaks them: bytes to values and back.

Pure. Only what fits in one untagged Ethernet frame; fragments are not put together (the bootloader does not
either).

    Ethernet  0–5 destination · 6–11 source · 12–13 type
    IPv4      14 version/IHL · 16–17 total length · 18–19 id · 20–21 flags/offset · 22 TTL · 23 protocol
              24–25 checksum · 26–29 source · 30–33 destination          (offsets for a header without
              options)
    UDP       34–35 source port · 36–37 destination port · 38–39 length · 40–41 checksum · 42– payload
    TCP       34–35 source port · 36–37 destination port · 38–41 sequence · 42–45 acknowledgement
              46 data offset (words, high nibble) · 47 flags · 48–49 window · 50–51 checksum · 52–53 urgent

Sources: RFC 791 §3.1, RFC 826, RFC 768, RFC 9293 §3.1, RFC 1071.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntFlag
from ipaddress import IPv4Address

BROADCAST_MAC = b"\xff" * 6
BROADCAST_IP = IPv4Address("255.255.255.255")
ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17
ETHERNET_BYTES = 14
IPV4_BYTES = 20
UDP_BYTES = 8
TCP_BYTES = 20
UDP_PAYLOAD_OFFSET = ETHERNET_BYTES + IPV4_BYTES + UDP_BYTES
"""Where the payload starts in a frame whose IPv4 header has no options."""
MTU_BYTES = 1500

_ARP = struct.Struct("!HHBBH6s4s6s4s")
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_UDP = struct.Struct("!HHHH")
_TCP = struct.Struct("!HHIIBBHHH")
_TCP_MSS = struct.Struct("!BBH")


class FrameError(ValueError):
    """Bytes that are not a frame of the kind they say they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arp:
    """An ARP packet for IPv4 over Ethernet; `operation` is 1 (request) or 2 (reply)."""

    operation: int
    sender_mac: bytes
    sender_ip: IPv4Address
    target_mac: bytes
    target_ip: IPv4Address

    REQUEST = 1
    REPLY = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Udp:
    """A UDP datagram with the addresses around it."""

    source_mac: bytes
    target_mac: bytes
    source_ip: IPv4Address
    target_ip: IPv4Address
    source_port: int
    target_port: int
    payload: bytes


class TcpFlag(IntFlag):
    """Control bits (RFC 9293 §3.1)."""

    FIN = 0x01
    SYN = 0x02
    RST = 0x04
    PSH = 0x08
    ACK = 0x10


@dataclass(frozen=True, slots=True, kw_only=True)
class Tcp:
    """A TCP segment with the addresses around it.

    Attributes:
        sequence, acknowledgement: Numbers of 32 bits.
        mss_bytes: The maximum segment size option of a SYN; None for none.
    """

    source_mac: bytes
    target_mac: bytes
    source_ip: IPv4Address
    target_ip: IPv4Address
    source_port: int
    target_port: int
    sequence: int
    acknowledgement: int
    flags: TcpFlag
    window: int
    payload: bytes = b""
    mss_bytes: int | None = None


def checksum(data: bytes) -> int:
    """The Internet checksum of RFC 1071: the complement of the one's complement sum of big-endian words."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def render_arp(arp: Arp) -> bytes:
    """The Ethernet frame that carries `arp`: a request goes to everybody, a reply to its target."""
    target = BROADCAST_MAC if arp.operation == Arp.REQUEST else arp.target_mac
    header = target + arp.sender_mac + ETHERTYPE_ARP.to_bytes(2, "big")
    return header + _ARP.pack(
        *(1, ETHERTYPE_IPV4, 6, 4, arp.operation),
        *(arp.sender_mac, arp.sender_ip.packed, arp.target_mac, arp.target_ip.packed),
    )


def render_udp(udp: Udp, *, identification: int = 0, ttl: int = 64) -> bytes:
    """The Ethernet frame that carries `udp`, with both checksums.

    Raises:
        FrameError: The payload does not fit in one frame of 1500 bytes.
    """
    length = UDP_BYTES + len(udp.payload)
    if IPV4_BYTES + length > MTU_BYTES:
        raise FrameError(f"{len(udp.payload)} bytes of UDP payload do not fit in one Ethernet frame")
    source, target = udp.source_ip.packed, udp.target_ip.packed
    pseudo = source + target + struct.pack("!HH", PROTOCOL_UDP, length)
    ports = _UDP.pack(udp.source_port, udp.target_port, length, 0)
    # A computed zero is sent as all ones: zero says "no checksum" (RFC 768).
    udp_checksum = checksum(pseudo + ports + udp.payload) or 0xFFFF
    bare = _IPV4.pack(
        *(0x45, 0, IPV4_BYTES + length, identification, 0, ttl, PROTOCOL_UDP, 0, source, target),
    )
    ip_header = bare[:10] + checksum(bare).to_bytes(2, "big") + bare[12:]
    header = udp.target_mac + udp.source_mac + ETHERTYPE_IPV4.to_bytes(2, "big")
    return header + ip_header + ports[:6] + udp_checksum.to_bytes(2, "big") + udp.payload


def render_tcp(tcp: Tcp, *, ttl: int = 64) -> bytes:
    """The Ethernet frame that carries `tcp`, with both checksums.

    Raises:
        FrameError: The payload does not fit in one frame of 1500 bytes.
    """
    options = b"" if tcp.mss_bytes is None else _TCP_MSS.pack(2, 4, tcp.mss_bytes)
    length = TCP_BYTES + len(options) + len(tcp.payload)
    if IPV4_BYTES + length > MTU_BYTES:
        raise FrameError(f"{len(tcp.payload)} bytes of TCP payload do not fit in one Ethernet frame")
    source, target = tcp.source_ip.packed, tcp.target_ip.packed
    offset = (TCP_BYTES + len(options)) // 4 << 4
    numbers = (tcp.source_port, tcp.target_port, tcp.sequence, tcp.acknowledgement)
    bare = _TCP.pack(*numbers, offset, tcp.flags, tcp.window, 0, 0) + options
    pseudo = source + target + struct.pack("!HH", PROTOCOL_TCP, length)
    total = checksum(pseudo + bare + tcp.payload)
    segment = bare[:16] + total.to_bytes(2, "big") + bare[18:] + tcp.payload
    plain = _IPV4.pack(*(0x45, 0, IPV4_BYTES + length, 0, 0x4000, ttl, PROTOCOL_TCP, 0, source, target))
    ip_header = plain[:10] + checksum(plain).to_bytes(2, "big") + plain[12:]
    return tcp.target_mac + tcp.source_mac + ETHERTYPE_IPV4.to_bytes(2, "big") + ip_header + segment


def parse_frame(frame: bytes) -> Arp | Udp | Tcp | None:
    """Read a frame; None for whatever a boot ROM does not listen to (other protocols, fragments).

    Checksums are not verified: the lab's wire is memory.

    Raises:
        FrameError: The frame says it is ARP, or UDP or TCP over IPv4, and its lengths do not agree with its
            bytes.
    """
    ethertype = int.from_bytes(frame[12:14], "big")
    if ethertype == ETHERTYPE_ARP:
        return _parse_arp(frame)
    if ethertype == ETHERTYPE_IPV4:
        return _parse_ipv4(frame)
    return None


def _parse_arp(frame: bytes) -> Arp | None:
    if len(frame) < ETHERNET_BYTES + _ARP.size:
        raise FrameError(f"an ARP frame of {len(frame)} bytes is cut short")
    hardware, protocol, hlen, plen, operation, *addresses = _ARP.unpack_from(frame, ETHERNET_BYTES)
    if (hardware, protocol, hlen, plen) != (1, ETHERTYPE_IPV4, 6, 4):
        return None
    sender_mac, sender_ip, target_mac, target_ip = addresses
    return Arp(
        operation=operation,
        sender_mac=sender_mac,
        sender_ip=IPv4Address(sender_ip),
        target_mac=target_mac,
        target_ip=IPv4Address(target_ip),
    )


def _parse_ipv4(frame: bytes) -> Udp | Tcp | None:
    if len(frame) < ETHERNET_BYTES + IPV4_BYTES:
        raise FrameError(f"an IPv4 frame of {len(frame)} bytes is cut short")
    first, _tos, total, _id, fragment, _ttl, protocol, _sum, source, target = _IPV4.unpack_from(
        frame, ETHERNET_BYTES
    )
    header_bytes = (first & 0xF) * 4
    if first >> 4 != 4 or header_bytes < IPV4_BYTES:
        raise FrameError(f"{first:#04x} does not open an IPv4 header")
    if protocol not in (PROTOCOL_UDP, PROTOCOL_TCP) or fragment & 0x3FFF:
        return None
    start, end = ETHERNET_BYTES + header_bytes, ETHERNET_BYTES + total
    if protocol == PROTOCOL_TCP:
        return _parse_tcp(frame, start, end, IPv4Address(source), IPv4Address(target))
    if end > len(frame) or start + UDP_BYTES > end:
        raise FrameError(f"an IPv4 packet of {total} bytes does not fit in a frame of {len(frame)}")
    source_port, target_port, length, _checksum = _UDP.unpack_from(frame, start)
    if not UDP_BYTES <= length <= end - start:
        raise FrameError(f"a UDP length of {length} does not fit in {end - start} bytes")
    return Udp(
        source_mac=frame[6:12],
        target_mac=frame[0:6],
        source_ip=IPv4Address(source),
        target_ip=IPv4Address(target),
        source_port=source_port,
        target_port=target_port,
        payload=frame[start + UDP_BYTES : start + length],
    )


def _parse_tcp(frame: bytes, start: int, end: int, source: IPv4Address, target: IPv4Address) -> Tcp:
    if end > len(frame) or start + TCP_BYTES > end:
        raise FrameError(f"a TCP segment of {end - start} bytes does not fit in a frame of {len(frame)}")
    source_port, target_port, sequence, acknowledgement, offset, flags, window, _sum, _urgent = (
        _TCP.unpack_from(frame, start)
    )
    header_bytes = (offset >> 4) * 4
    if not TCP_BYTES <= header_bytes <= end - start:
        raise FrameError(f"a TCP header of {header_bytes} bytes does not fit in {end - start}")
    return Tcp(
        source_mac=frame[6:12],
        target_mac=frame[0:6],
        source_ip=source,
        target_ip=target,
        source_port=source_port,
        target_port=target_port,
        sequence=sequence,
        acknowledgement=acknowledgement,
        flags=TcpFlag(flags & 0x1F),
        window=window,
        payload=frame[start + header_bytes : end],
    )
