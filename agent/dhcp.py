"""A DHCP client without I/O: datagrams and `now` in, datagrams and a lease out (RFC 2131, RFC 2132).

For the installer, which lives in RAM for minutes: INIT → SELECTING → REQUESTING → BOUND. It does not renew
by itself; who waits longer (for an approval) asks for a new lease after `Lease.renew_after_s`. A client
keeps its address that way, because the server knows it by its client identifier.

Retransmission: 1, 2, 4, 8, 8… s. RFC 2131 §4.1 suggests 4 s at first; a board whose switch port has just
come up loses its first datagram often, and one second costs nothing.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

MAGIC_COOKIE = b"\x63\x82\x53\x63"
VENDOR_CLASS = b"bramble-installer"
BROADCAST_FLAG = 0x8000
ETHERNET = 1
FIRST_RETRY_S = 1.0
MAX_RETRY_S = 8.0
MAX_REQUESTS = 4
"""REQUESTs without an answer before the search for a server starts again (RFC 2131 §3.1.5)."""
MIN_PACKET_BYTES = 300
"""BOOTP's minimum; some relays drop shorter ones (RFC 1542 §2.1)."""
MAX_MESSAGE_BYTES = 1472
DEFAULT_LEASE_S = 3600

_HEADER = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s")
"""0 op, 1 htype, 2 hlen, 3 hops, 4–7 xid, 8–9 secs, 10–11 flags, 12–27 ciaddr yiaddr siaddr giaddr, 28–43
chaddr, 44–107 sname, 108–235 file; then the magic cookie and the options."""


class MessageType(enum.IntEnum):
    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6


_KNOWN_TYPES = frozenset(int(kind) for kind in MessageType)


class Option(enum.IntEnum):
    """RFC 2132 option codes that the client speaks."""

    PAD = 0
    SUBNET_MASK = 1
    ROUTER = 3
    DNS = 6
    REQUESTED_ADDRESS = 50
    LEASE_TIME = 51
    OVERLOAD = 52
    MESSAGE_TYPE = 53
    SERVER_ID = 54
    PARAMETER_LIST = 55
    MAX_MESSAGE_SIZE = 57
    VENDOR_CLASS = 60
    CLIENT_ID = 61
    END = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    address: IPv4Address
    netmask: IPv4Address
    router: IPv4Address | None
    server: IPv4Address
    lease_s: int

    @property
    def renew_after_s(self) -> float:
        """T1 of RFC 2131 §4.4.5."""
        return self.lease_s / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the client needs of a server's message."""

    kind: MessageType
    xid: int
    hardware_address: bytes
    address: IPv4Address
    options: dict[int, bytes]


def parse_reply(data: bytes) -> Reply | None:
    """A BOOTREPLY with a DHCP message type; None for everything else, whatever the bytes."""
    if len(data) < _HEADER.size + len(MAGIC_COOKIE):
        return None
    op, htype, hlen, _, xid, _, _, _, yiaddr, _, _, chaddr, sname, file = _HEADER.unpack_from(data)
    if op != 2 or htype != ETHERNET or hlen != 6 or data[_HEADER.size : _HEADER.size + 4] != MAGIC_COOKIE:
        return None
    options: dict[int, bytes] = {}
    if not _collect_options(data[_HEADER.size + 4 :], options):
        return None
    overload = options.get(Option.OVERLOAD, b"\0")[:1]
    for flag, field in ((b"\x01", file), (b"\x02", sname), (b"\x03", file), (b"\x03", sname)):
        if overload == flag and not _collect_options(field, options):
            return None
    kind = options.get(Option.MESSAGE_TYPE, b"")
    if len(kind) != 1 or kind[0] not in _KNOWN_TYPES:
        return None
    return Reply(
        kind=MessageType(kind[0]),
        xid=xid,
        hardware_address=chaddr[:6],
        address=IPv4Address(yiaddr),
        options=options,
    )


def _collect_options(data: bytes, options: dict[int, bytes]) -> bool:
    """Add the options of one field; a code that comes twice continues the first (RFC 3396). False: cut
    short."""
    position = 0
    while position < len(data):
        code = data[position]
        if code == Option.END:
            return True
        position += 1
        if code == Option.PAD:
            continue
        if position >= len(data) or position + 1 + data[position] > len(data):
            return False
        length = data[position]
        options[code] = options.get(code, b"") + data[position + 1 : position + 1 + length]
        position += 1 + length
    return True


class _State(enum.Enum):
    IDLE = "idle"
    SELECTING = "selecting"
    REQUESTING = "requesting"
    BOUND = "bound"


class DhcpClient:
    """One search for an address.

    Args:
        mac: 6 bytes; also the client identifier, after the hardware type.
        xid: a random 32-bit transaction id; a new search counts it up.
    """

    def __init__(self, mac: bytes, xid: int) -> None:
        self._mac = mac
        self._xid = xid & 0xFFFFFFFF
        self._state = _State.IDLE
        self._started_at = 0.0
        self._retry_s = FIRST_RETRY_S
        self._requests = 0
        self._deadline: float | None = None
        self._offer: Reply | None = None
        self._outbox: list[bytes] = []
        self.lease: Lease | None = None
        self.refusals = 0
        """How many NAKs came; for the message when no address is found."""

    def start(self, now: float) -> None:
        """Begin a search; the datagrams wait in `datagrams_to_send`."""
        self._started_at = now
        self._discover(now)

    def receive_datagram(self, data: bytes, now: float) -> None:
        """Take in anything that came to port 68; what is not for this search is ignored."""
        reply = parse_reply(data)
        if reply is None or reply.xid != self._xid or reply.hardware_address != self._mac:
            return
        if self._state is _State.SELECTING and reply.kind is MessageType.OFFER:
            # A proxy (PXE only) offers no address: not for us.
            if int(reply.address) and len(reply.options.get(Option.SERVER_ID, b"")) == 4:
                self._offer = reply
                self._requests = 0
                self._request(now)
        elif self._state is _State.REQUESTING and reply.kind is MessageType.NAK:
            self.refusals += 1
            self._discover(now, fresh=True)
        elif self._state is _State.REQUESTING and reply.kind is MessageType.ACK:
            lease = _read_lease(reply)
            if lease is not None:
                self.lease = lease
                self._state = _State.BOUND
                self._deadline = None

    def handle_timeout(self, now: float) -> None:
        """Retransmit what is due."""
        if self._deadline is None or now < self._deadline:
            return
        if self._state is _State.REQUESTING and self._requests < MAX_REQUESTS:
            self._request(now)
        elif self._state is _State.REQUESTING:
            self._discover(now, fresh=True)
        else:
            self._discover(now)

    def next_timeout(self) -> float | None:
        return self._deadline

    def datagrams_to_send(self) -> list[bytes]:
        """BOOTREQUESTs for 255.255.255.255:67; taken out by the call."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def _discover(self, now: float, *, fresh: bool = False) -> None:
        if self._state is not _State.SELECTING:
            self._retry_s = FIRST_RETRY_S
        if fresh:
            self._xid = (self._xid + 1) & 0xFFFFFFFF
            self._offer = None
        self._state = _State.SELECTING
        self._emit(MessageType.DISCOVER, [], now)

    def _request(self, now: float) -> None:
        if self._offer is None:
            return
        if self._state is not _State.REQUESTING:
            self._retry_s = FIRST_RETRY_S
        self._state = _State.REQUESTING
        self._requests += 1
        choice = [
            (Option.REQUESTED_ADDRESS, self._offer.address.packed),
            (Option.SERVER_ID, self._offer.options[Option.SERVER_ID]),
        ]
        self._emit(MessageType.REQUEST, choice, now)

    def _emit(self, kind: MessageType, extra: list[tuple[Option, bytes]], now: float) -> None:
        options = [
            (Option.MESSAGE_TYPE, bytes([kind])),
            *extra,
            (Option.CLIENT_ID, bytes([ETHERNET]) + self._mac),
            (Option.VENDOR_CLASS, VENDOR_CLASS),
            (Option.MAX_MESSAGE_SIZE, struct.pack("!H", MAX_MESSAGE_BYTES)),
            (
                Option.PARAMETER_LIST,
                bytes([Option.SUBNET_MASK, Option.ROUTER, Option.DNS, Option.LEASE_TIME]),
            ),
        ]
        zero = bytes(4)
        header = _HEADER.pack(
            1,
            ETHERNET,
            len(self._mac),
            0,
            self._xid,
            min(int(now - self._started_at), 0xFFFF),
            BROADCAST_FLAG,
            zero,
            zero,
            zero,
            zero,
            self._mac,
            b"",
            b"",
        )
        body = b"".join(bytes([code, len(value)]) + value for code, value in options)
        packet = header + MAGIC_COOKIE + body + bytes([Option.END])
        self._outbox.append(packet.ljust(MIN_PACKET_BYTES, b"\0"))
        self._deadline = now + self._retry_s
        self._retry_s = min(self._retry_s * 2, MAX_RETRY_S)


def _read_lease(reply: Reply) -> Lease | None:
    server = reply.options.get(Option.SERVER_ID, b"")
    netmask = reply.options.get(Option.SUBNET_MASK, b"")
    router = reply.options.get(Option.ROUTER, b"")
    lease_time = reply.options.get(Option.LEASE_TIME, b"")
    if not int(reply.address) or len(server) != 4:
        return None
    return Lease(
        address=reply.address,
        netmask=IPv4Address(netmask) if len(netmask) == 4 else _classful_netmask(reply.address),
        router=IPv4Address(router[:4]) if len(router) >= 4 else None,
        server=IPv4Address(server),
        lease_s=int.from_bytes(lease_time, "big") if len(lease_time) == 4 else DEFAULT_LEASE_S,
    )


def _classful_netmask(address: IPv4Address) -> IPv4Address:
    """What a host assumes when the server sends no mask (RFC 950 §2.1)."""
    first = address.packed[0]
    return IPv4Address("255.0.0.0" if first < 128 else "255.255.0.0" if first < 192 else "255.255.255.0")
