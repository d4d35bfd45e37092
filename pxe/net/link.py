"""The cable below IP: packets to hardware addresses, ARP probes, and what other servers say.

All of it takes CAP_NET_RAW. Without it the server works: replies to clients without an address are broadcast,
a taken address is found through the kernel's own neighbour table, and foreign servers are seen only by what
clients say of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import socket
import struct
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from fleet.boards import BoardError, MacAddress
from pxe.dhcp.frames import ARP_REPLY, encode_arp_probe, encode_datagram, parse_arp, parse_datagram
from pxe.dhcp.wire import DhcpMessage, parse_reply
from pxe.errors import WireError

log = logging.getLogger(__name__)

ETHERTYPE_IPV4: Final = 0x0800  # linux/if_ether.h
ETHERTYPE_ARP: Final = 0x0806
PACKET_OUTGOING: Final = 4  # linux/if_packet.h: a packet of this machine's own
SO_ATTACH_FILTER: Final = 26  # asm-generic/socket.h
BROADCAST_MAC: Final = b"\xff" * 6
DISCARD_PORT: Final = 9
MAXIMUM_PACKET: Final = 2048
RECEIVE_BURST: Final = 64
NEIGHBOURS: Final = Path("/proc/net/arp")
NEIGHBOUR_COMPLETE: Final = 0x2  # linux/if_arp.h: ATF_COM

# Classic BPF (linux/filter.h), for packets that begin with their IPv4 header: UDP, the first fragment, to one
# port. Everything else stays in the kernel, or a server that sends images would read all of its own traffic.
_LD_BYTE, _LD_HALF, _LDX_HEADER, _LD_HALF_X = 0x30, 0x28, 0xB1, 0x48
_JUMP_EQUAL, _JUMP_SET, _RETURN = 0x15, 0x45, 0x06
_INSTRUCTION: Final = struct.Struct("HBBI")


def _udp_filter(port: int) -> bytes:
    program = (
        (_LD_BYTE, 0, 0, 9),
        (_JUMP_EQUAL, 0, 6, socket.IPPROTO_UDP),
        (_LD_HALF, 0, 0, 6),
        (_JUMP_SET, 4, 0, 0x1FFF),
        (_LDX_HEADER, 0, 0, 0),
        (_LD_HALF_X, 0, 0, 2),
        (_JUMP_EQUAL, 0, 1, port),
        (_RETURN, 0, 0, 0xFFFF),
        (_RETURN, 0, 0, 0),
    )
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in program)


def _attach_filter(sock: socket.socket, program: bytes) -> None:
    buffer = ctypes.create_string_buffer(program)
    head = struct.pack("HL", len(program) // _INSTRUCTION.size, ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, head)


class Link:
    """Raw access to one interface.

    Args:
        interface: its name. It may go and come back: every packet names it anew.
        client_port: of DHCP clients.

    Raises:
        OSError: from `open` only.
    """

    def __init__(self, interface: str, client_port: int, sockets: tuple[socket.socket, ...]) -> None:
        self._interface = interface
        self._client_port = client_port
        self._sender, self._arp, self._replies = sockets

    @classmethod
    def open(cls, interface: str, client_port: int) -> Link | None:
        """Open it, or None where this process may not."""
        with contextlib.ExitStack() as stack:
            try:
                # Protocol 0 receives nothing.
                sockets = tuple(
                    stack.enter_context(socket.socket(socket.AF_PACKET, _PACKET_TYPE, 0)) for _ in range(3)
                )
                _attach_filter(sockets[2], _udp_filter(client_port))
            except OSError as error:
                log.debug("no raw access to the cable", extra={"error": error.strerror})
                return None
            stack.pop_all()
        link = cls(interface, client_port, sockets)
        try:
            link.attach()
        except OSError:
            link.close()
            return None
        return link

    def attach(self) -> None:
        """Listen on the interface; again after it was away. Raises OSError where it is not there."""
        self._arp.bind((self._interface, ETHERTYPE_ARP))
        self._replies.bind((self._interface, ETHERTYPE_IPV4))

    def close(self) -> None:
        for sock in (self._sender, self._arp, self._replies):
            sock.close()

    @property
    def arp_socket(self) -> socket.socket:
        """Readable when `holders` has something to say."""
        return self._arp

    @property
    def reply_socket(self) -> socket.socket:
        """Readable when `replies` has something to say."""
        return self._replies

    def send(
        self,
        payload: bytes,
        *,
        source: tuple[IPv4Address, int],
        target: tuple[IPv4Address, int],
        hardware: bytes,
    ) -> None:
        """Send a datagram to a hardware address; OSError where that fails."""
        packet = encode_datagram(payload, source=source, target=target)
        self._sender.sendto(packet, (self._interface, ETHERTYPE_IPV4, 0, 0, hardware))

    def probe(self, address: IPv4Address) -> None:
        """Ask everybody who has an address; OSError where that fails."""
        own = self._arp.getsockname()[4]
        packet = encode_arp_probe(own, address)
        self._sender.sendto(packet, (self._interface, ETHERTYPE_ARP, 0, 0, BROADCAST_MAC))

    def holders(self) -> Iterator[tuple[IPv4Address, MacAddress]]:
        """Who said by ARP that they have an address, since the last call."""
        for packet in _received(self._arp):
            try:
                arp = parse_arp(packet)
                if arp.operation == ARP_REPLY:
                    yield arp.sender, MacAddress(arp.sender_mac)
            except (WireError, BoardError):
                continue

    def replies(self) -> Iterator[tuple[DhcpMessage, IPv4Address]]:
        """What DHCP servers said to clients since the last call, with their addresses; not our own words."""
        for packet in _received(self._replies):
            try:
                datagram = parse_datagram(packet)
                if datagram.target_port == self._client_port:
                    yield parse_reply(datagram.payload), datagram.source
            except WireError:
                continue


_PACKET_TYPE: Final = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


def _received(sock: socket.socket) -> Iterator[bytes]:
    for _ in range(RECEIVE_BURST):
        try:
            packet, sender = sock.recvfrom(MAXIMUM_PACKET)
        except OSError:  # nothing more, or the interface is down
            return
        if sender[2] != PACKET_OUTGOING:
            yield packet


class NeighbourProbe:
    """Probing without raw sockets: any datagram makes the kernel ask by ARP, and its table has the answer.

    Args:
        on_holder: gets who has an address that was asked for.
    """

    def __init__(self, on_holder: Callable[[IPv4Address, MacAddress], None]) -> None:
        self._on_holder = on_holder
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._asked: set[IPv4Address] = set()

    def close(self) -> None:
        self._sock.close()

    def probe(self, address: IPv4Address) -> None:
        """Make the kernel ask; OSError where that fails."""
        self._asked.add(address)
        self._sock.sendto(b"", (str(address), DISCARD_PORT))

    def read(self) -> None:
        """Tell what the kernel has learned since the last call."""
        asked, self._asked = self._asked, set()
        if asked:
            for address, holder in parse_neighbours(NEIGHBOURS.read_text("ascii")):
                if address in asked:
                    self._on_holder(address, holder)


def parse_neighbours(text: str) -> Iterator[tuple[IPv4Address, MacAddress]]:
    """Complete entries of /proc/net/arp: address · hardware type · flags · MAC · mask · device."""
    for line in text.splitlines()[1:]:
        words = line.split()
        if len(words) < 6 or not int(words[2], 16) & NEIGHBOUR_COMPLETE:
            continue
        with contextlib.suppress(BoardError, ValueError):
            yield IPv4Address(words[0]), MacAddress.parse(words[3])
