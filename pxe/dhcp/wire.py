"""DHCP messages: bytes in, a valid `DhcpMessage` out, and back.

Both directions are spoken here: the server parses requests and encodes replies, the virtual board of the lab
does the opposite. A message is valid or it does not exist: everything that is wrong raises `WireError`.

Layout of a message (RFC 2131 §2)::

    0 op   1 htype   2 hlen   3 hops   4–7 xid   8–9 secs   10–11 flags   12–15 ciaddr   16–19 yiaddr
    20–23 siaddr   24–27 giaddr   28–43 chaddr   44–107 sname   108–235 file   236–239 cookie   240–… options
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address
from typing import Final

from pxe.errors import WireError

MAGIC_COOKIE: Final = bytes.fromhex("63825363")  # RFC 2131 §3
HEADER: Final = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
HTYPE_ETHERNET: Final = 1
HLEN_ETHERNET: Final = 6
SNAME_SIZE: Final = 64
FILE_SIZE: Final = 128
FLAG_BROADCAST: Final = 0x8000  # RFC 2131 §2, figure 2
MINIMUM_REPLY_BYTES: Final = 300  # BOOTP's fixed size, which old relays and clients insist on: RFC 1542 §2.1
MAXIMUM_MESSAGE_BYTES: Final = 65_507  # the payload of the largest UDP datagram over IPv4
MINIMUM_DATAGRAM_BYTES: Final = 576  # what every host takes, IP header included: RFC 2131 §2
ETHERNET_MTU_BYTES: Final = 1500
HEADERS_BYTES: Final = 28  # IP and UDP
MAXIMUM_OPTION_PART: Final = 255  # longer values are split and joined: RFC 3396
GUID_BYTES: Final = 17  # option 97: a type and 16 bytes; RFC 4578 §2.3
PAD: Final = 0
END: Final = 255
NO_ADDRESS: Final = IPv4Address(0)
_ZERO: Final = NO_ADDRESS.packed
_END_MARK: Final = bytes((END,))
_OVERLOAD_BYTES: Final = 3


class Op(IntEnum):
    """Who speaks."""

    REQUEST = 1
    REPLY = 2


class MessageType(IntEnum):
    """Values of option 53 (RFC 2132 §9.6)."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


class Option(IntEnum):
    """The option codes that this project reads or writes; any other code survives as a plain number."""

    SUBNET_MASK = 1
    ROUTER = 3
    DNS_SERVERS = 6
    HOST_NAME = 12
    DOMAIN_NAME = 15
    BROADCAST_ADDRESS = 28
    VENDOR_SPECIFIC = 43
    REQUESTED_ADDRESS = 50
    LEASE_TIME = 51
    OVERLOAD = 52
    MESSAGE_TYPE = 53
    SERVER_ID = 54
    PARAMETER_LIST = 55
    MESSAGE = 56
    MAXIMUM_SIZE = 57
    RENEWAL_TIME = 58
    REBINDING_TIME = 59
    VENDOR_CLASS = 60
    CLIENT_ID = 61
    TFTP_SERVER = 66
    BOOT_FILE = 67
    USER_CLASS = 77
    RELAY_AGENT = 82
    CLIENT_ARCH = 93
    CLIENT_NDI = 94
    CLIENT_GUID = 97
    SUBNET_SELECTION = 118
    IPXE = 175


# Options of fixed size that this project reads as numbers or addresses (RFC 2132). A message in which one of
# them has another size is refused as a whole, so that reading them later can not fail.
FIXED_SIZES: Final[dict[int, int]] = {
    Option.SUBNET_MASK: 4,
    Option.REQUESTED_ADDRESS: 4,
    Option.LEASE_TIME: 4,
    Option.MESSAGE_TYPE: 1,
    Option.SERVER_ID: 4,
    Option.MAXIMUM_SIZE: 2,
}
_CODES: Final = frozenset(range(PAD + 1, END)) - {Option.OVERLOAD, Option.MESSAGE_TYPE}


@dataclass(frozen=True, slots=True, kw_only=True)
class DhcpMessage:
    """One DHCP message, of a client or of a server.

    Args:
        op: request or reply.
        message_type: option 53; the encoder writes it first, so it does not stand in ``options``.
        xid: transaction id, 32 bits.
        chaddr: the client's hardware address, 6 bytes.
        sname: server name field, at most 64 bytes, without the NUL bytes at its end.
        file: boot file field, at most 128 bytes, without the NUL bytes at its end.
        options: (code, value) in the order of the wire; every code once; values of any length.
    """

    op: Op
    message_type: MessageType
    xid: int
    chaddr: bytes
    hops: int = 0
    secs: int = 0
    flags: int = 0
    ciaddr: IPv4Address = NO_ADDRESS
    yiaddr: IPv4Address = NO_ADDRESS
    siaddr: IPv4Address = NO_ADDRESS
    giaddr: IPv4Address = NO_ADDRESS
    sname: bytes = b""
    file: bytes = b""
    options: tuple[tuple[int, bytes], ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.xid < 2**32:
            raise WireError(f"xid {self.xid} does not fit into 32 bits")
        if len(self.chaddr) != HLEN_ETHERNET:
            raise WireError(f"hardware address of {len(self.chaddr)} bytes, Ethernet has {HLEN_ETHERNET}")
        if not 0 <= self.hops < 2**8 or not 0 <= self.secs < 2**16 or not 0 <= self.flags < 2**16:
            raise WireError(f"hops {self.hops}, secs {self.secs} or flags {self.flags} out of range")
        for name, value, size in (("sname", self.sname, SNAME_SIZE), ("file", self.file, FILE_SIZE)):
            if len(value) > size or b"\0" in value:
                raise WireError(f"{name} holds {len(value)} bytes; at most {size} without NUL fit")
        codes = {code for code, _value in self.options}
        if len(codes) < len(self.options) or not codes <= _CODES:
            raise WireError("an option stands here twice, or one that can not stand here")
        for code in codes & FIXED_SIZES.keys():
            _check_size(code, self.option(code) or b"")

    @property
    def broadcast(self) -> bool:
        """Whether the client asks for its answer as a broadcast."""
        return bool(self.flags & FLAG_BROADCAST)

    @property
    def requested_address(self) -> IPv4Address | None:
        """Option 50."""
        return self.address(Option.REQUESTED_ADDRESS)

    @property
    def server_id(self) -> IPv4Address | None:
        """Option 54."""
        return self.address(Option.SERVER_ID)

    @property
    def maximum_bytes(self) -> int:
        """The largest message that the client takes, without IP and UDP headers (RFC 2132 §9.10)."""
        said = self.option(Option.MAXIMUM_SIZE)
        datagram = MINIMUM_DATAGRAM_BYTES if said is None else int.from_bytes(said, "big")
        return min(max(datagram, MINIMUM_DATAGRAM_BYTES), ETHERNET_MTU_BYTES) - HEADERS_BYTES

    @property
    def vendor_class(self) -> bytes:
        """Option 60, empty when absent."""
        return self.option(Option.VENDOR_CLASS) or b""

    def option(self, code: int) -> bytes | None:
        """The value of an option, or None where the message does not have it."""
        for known, value in self.options:
            if known == code:
                return value
        return None

    def address(self, code: Option) -> IPv4Address | None:
        """The value of an option as one address, or None where it is absent or of another size."""
        value = self.option(code)
        return IPv4Address(value) if value is not None and len(value) == 4 else None

    def encode(self, minimum_bytes: int = 0, maximum_bytes: int = MAXIMUM_MESSAGE_BYTES) -> bytes:
        """The message as it goes over the wire.

        What does not fit below the maximum goes into `file` and `sname` where they are empty (option 52,
        RFC 2132 §9.3); values over 255 bytes are split (RFC 3396).

        Args:
            minimum_bytes: pad with zeros up to this size; servers use `MINIMUM_REPLY_BYTES`, a Pi none.
            maximum_bytes: what the receiver takes.

        Raises:
            WireError: the message is larger than that.
        """
        parts = [bytes((Option.MESSAGE_TYPE, 1, self.message_type))]
        for code, value in self.options:
            if len(value) <= MAXIMUM_OPTION_PART:
                parts.append(bytes((code, len(value))) + value)
                continue
            split = [value[at : at + MAXIMUM_OPTION_PART] for at in range(0, len(value), MAXIMUM_OPTION_PART)]
            parts.append(b"".join(bytes((code, len(piece))) + piece for piece in split))
        options, file, sname = b"".join(parts), self.file, self.sname
        if HEADER.size + len(options) + 1 > maximum_bytes:
            options, file, sname = self._overload(parts, maximum_bytes - HEADER.size)
        data = (
            HEADER.pack(
                self.op,
                HTYPE_ETHERNET,
                HLEN_ETHERNET,
                self.hops,
                self.xid,
                self.secs,
                self.flags,
                self.ciaddr.packed,
                self.yiaddr.packed,
                self.siaddr.packed,
                self.giaddr.packed,
                self.chaddr,
                sname,
                file,
                MAGIC_COOKIE,
            )
            + options
            + _END_MARK
        )
        return data.ljust(minimum_bytes, b"\0")

    def _overload(self, parts: list[bytes], room: int) -> tuple[bytes, bytes, bytes]:
        """The options, and those that went into `file` and `sname`: (options without end mark, file, sname).

        Parts that only the options field can hold come last in it, a split value in one piece. Each of the
        others goes where it fits first: there, in file, in sname.
        """
        large = [part for part in parts if len(part) >= FILE_SIZE]
        sizes = [room - 1 - _OVERLOAD_BYTES - sum(map(len, large))]
        fields = [0]
        for number, (value, size) in enumerate(((self.file, FILE_SIZE), (self.sname, SNAME_SIZE)), 1):
            if not value:
                sizes.append(size - 1)
                fields.append(number)
        filled = [b""] * len(sizes)
        for part in parts:
            if len(part) >= FILE_SIZE:
                continue
            at = next((n for n, size in enumerate(sizes) if len(filled[n]) + len(part) <= size), None)
            if at is None:
                break
            filled[at] += part
        else:
            at = 0
        if at is None or sizes[0] < 0:
            raise WireError(
                f"the message does not fit into the {room + HEADER.size} bytes that its receiver takes"
            )
        filled[0] += b"".join(large)
        used = dict(zip(fields, filled, strict=True))
        file, sname = used.get(1, b""), used.get(2, b"")
        kind = (1 if file else 0) | (2 if sname else 0)
        options = used[0] + bytes((Option.OVERLOAD, 1, kind))
        return (
            options,
            file + _END_MARK if file else self.file,
            sname + _END_MARK if sname else self.sname,
        )


def parse_message(data: bytes) -> DhcpMessage:
    """Read one message of either direction.

    Split options are joined (RFC 3396), options in ``file`` and ``sname`` are read where option 52 says so
    (RFC 2132 §9.3), and both fields are then empty.

    Raises:
        WireError: the bytes are not a DHCP message over Ethernet.
    """
    if len(data) < HEADER.size:
        raise WireError(f"{len(data)} bytes, a DHCP message has at least {HEADER.size}")
    op, htype, hlen, hops, xid, secs, flags, ci, yi, si, gi, chaddr, sname, file, cookie = HEADER.unpack_from(
        data
    )
    if op not in (Op.REQUEST, Op.REPLY):
        raise WireError(f"op {op} is neither request nor reply")
    if htype != HTYPE_ETHERNET or hlen != HLEN_ETHERNET:
        raise WireError(f"hardware type {htype} with {hlen} bytes, Ethernet is type 1 with 6")
    if cookie != MAGIC_COOKIE:
        raise WireError(f"cookie {cookie.hex()} is not that of DHCP")
    values: dict[int, bytes] = {}
    _collect_options(data[HEADER.size :], values, "options", end_required=True)
    overload = values.pop(Option.OVERLOAD, None)
    if overload is not None:
        if len(overload) != 1 or not 1 <= overload[0] <= 3:
            raise WireError(f"option 52 is {overload.hex()}, 1 to 3 are defined")
        if overload[0] & 1:
            _collect_options(file, values, "file", end_required=False)
            file = b""
        if overload[0] & 2:
            _collect_options(sname, values, "sname", end_required=False)
            sname = b""
        if Option.OVERLOAD in values:
            raise WireError("option 52 stands inside the fields that it extends")
    kind = values.pop(Option.MESSAGE_TYPE, None)
    if kind is None:
        raise WireError("no option 53: plain BOOTP is not served")
    _check_size(Option.MESSAGE_TYPE, kind)
    try:
        message_type = MessageType(kind[0])
    except ValueError as error:
        raise WireError(f"message type {kind[0]} is unknown") from error
    return DhcpMessage(
        op=Op(op),
        message_type=message_type,
        xid=xid,
        chaddr=chaddr[:HLEN_ETHERNET],
        hops=hops,
        secs=secs,
        flags=flags,
        ciaddr=_address(ci),
        yiaddr=_address(yi),
        siaddr=_address(si),
        giaddr=_address(gi),
        sname=sname.partition(b"\0")[0],
        file=file.partition(b"\0")[0],
        options=tuple(values.items()),
    )


def _address(packed: bytes) -> IPv4Address:
    return IPv4Address(packed) if packed != _ZERO else NO_ADDRESS


def parse_request(data: bytes) -> DhcpMessage:
    """What a server receives: a message of a client. Raises `WireError` for anything else."""
    message = parse_message(data)
    if message.op is not Op.REQUEST:
        raise WireError("a reply came where requests are expected")
    return message


def parse_reply(data: bytes) -> DhcpMessage:
    """What a client receives: a message of a server. Raises `WireError` for anything else."""
    message = parse_message(data)
    if message.op is not Op.REPLY:
        raise WireError("a request came where replies are expected")
    return message


def encode_addresses(addresses: Iterable[IPv4Address]) -> bytes:
    """The value of an option that is a list of addresses."""
    return b"".join(address.packed for address in addresses)


def encode_seconds(seconds: int) -> bytes:
    """The value of options 51, 58 and 59."""
    return struct.pack("!I", seconds)


def _check_size(code: int, value: bytes) -> None:
    size = FIXED_SIZES.get(code)
    if size is not None and len(value) != size:
        raise WireError(f"option {code} has {len(value)} bytes, it is defined with {size}")


def _collect_options(data: bytes, values: dict[int, bytes], field: str, *, end_required: bool) -> None:
    """Append the options in ``data`` to ``values``, in order of first appearance."""
    position = 0
    while position < len(data):
        code = data[position]
        position += 1
        if code == PAD:
            continue
        if code == END:
            return
        if position == len(data):
            raise WireError(f"option {code} in {field} has no length")
        size = data[position]
        position += 1
        value = data[position : position + size]
        if len(value) != size:
            raise WireError(f"option {code} in {field} says {size} bytes, {len(value)} are left")
        position += size
        values[code] = values.get(code, b"") + value
    if end_required:
        raise WireError("the options have no end mark")
