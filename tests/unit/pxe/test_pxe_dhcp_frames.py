"""Packets of our own making: what goes in comes out, and a checksum is what every host computes."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.boards import MacAddress
from pxe.dhcp.frames import (
    ARP,
    ARP_REPLY,
    IPV4,
    checksum,
    encode_arp_probe,
    encode_datagram,
    parse_arp,
    parse_datagram,
)
from pxe.errors import WireError
from pxe.net.link import parse_neighbours

SERVER, CLIENT = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.21")
MAC = MacAddress.parse("2c:cf:67:00:00:01")


def sum_of_words(data: bytes) -> int:
    """RFC 1071 as it stands there: add words, fold the carries in."""
    total = 0
    for at in range(0, len(data) + len(data) % 2, 2):
        total += int.from_bytes((data + b"\0")[at : at + 2], "big")
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@given(st.binary(max_size=600))
def test_a_datagram_survives_the_way_and_its_checksums_hold(payload: bytes) -> None:
    packet = encode_datagram(payload, source=(SERVER, 67), target=(CLIENT, 68))
    found = parse_datagram(packet)
    assert (found.source, found.target_port, found.payload) == (SERVER, 68, payload)
    assert sum_of_words(packet[:20]) == 0xFFFF
    udp = packet[20:]
    pseudo = SERVER.packed + CLIENT.packed + struct.pack("!HH", 17, len(udp))
    assert sum_of_words(pseudo + udp) == 0xFFFF
    assert udp[6:8] != b"\0\0"  # zero would say that there is no checksum


def test_a_known_header_has_its_known_checksum() -> None:
    header = bytes.fromhex("450000730000400040110000c0a80001c0a800c7")
    assert checksum(header) == 0xB861


@given(st.binary(max_size=80))
def test_any_bytes_are_a_datagram_or_an_error(data: bytes) -> None:
    try:
        parse_datagram(data)
    except WireError:
        return
    assert len(data) >= 28


@pytest.mark.parametrize("size", range(28 + 9))
def test_a_packet_that_was_cut_off_is_an_error(size: int) -> None:
    packet = encode_datagram(b"nine byte", source=(SERVER, 67), target=(CLIENT, 68))
    with pytest.raises(WireError):
        parse_datagram(packet[:size])


@pytest.mark.parametrize(
    ("offset", "value"),
    [(0, 0x46), (0, 0x65), (6, 0x20), (7, 1), (9, 6), (2, 0xFF), (25, 7), (24, 0xFF)],
    ids=["longer header", "IPv6", "more fragments", "later fragment", "TCP", "total", "short", "long"],
)
def test_other_packets_are_errors(offset: int, value: int) -> None:
    packet = bytearray(encode_datagram(b"", source=(SERVER, 67), target=(CLIENT, 68)))
    packet[offset] = value
    with pytest.raises(WireError):
        parse_datagram(bytes(packet))


def test_a_probe_claims_no_address() -> None:
    found = parse_arp(encode_arp_probe(MAC.octets, CLIENT))
    assert (found.operation, found.sender_mac, found.sender, found.target) == (
        1,
        MAC.octets,
        IPv4Address(0),
        CLIENT,
    )


@given(st.binary(max_size=40))
def test_any_bytes_are_arp_or_an_error(data: bytes) -> None:
    try:
        parse_arp(data)
    except WireError:
        return
    assert data[:8] == struct.pack("!HHBB", 1, 0x0800, 6, 4) + data[6:8]


def test_structures_have_their_sizes() -> None:
    assert (IPV4.size, ARP.size, ARP_REPLY) == (20, 28, 2)


def test_the_kernels_table_tells_who_is_there() -> None:
    text = (
        "IP address       HW type     Flags       HW address            Mask     Device\n"
        "10.0.0.21        0x1         0x2         2c:cf:67:00:00:01     *        eth0\n"
        "10.0.0.22        0x1         0x0         00:00:00:00:00:00     *        eth0\n"
        "10.0.0.23        0x1         0x2         00:00:00:00:00:00     *        eth0\n"
        "nonsense\n"
    )
    assert list(parse_neighbours(text)) == [(CLIENT, MAC)]
