"""What both DHCP servers share: who they are, what they do in answer to a message, and where a reply goes."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network
from typing import Final, TypeAlias

from fleet.boards import BoardError, MacAddress
from pxe.boot.clients import Learn
from pxe.boot.identity import BoardIdentity, Firmware, merge
from pxe.dhcp.vendor import parse_sub_options
from pxe.dhcp.wire import (
    FLAG_BROADCAST,
    GUID_BYTES,
    MAXIMUM_MESSAGE_BYTES,
    MAXIMUM_OPTION_PART,
    MINIMUM_REPLY_BYTES,
    NO_ADDRESS,
    DhcpMessage,
    MessageType,
    Op,
    Option,
    encode_addresses,
    encode_seconds,
)
from pxe.errors import WireError
from pxe.events import BoardEvent

SERVER_PORT: Final = 67
CLIENT_PORT: Final = 68
BOOT_SERVER_PORT: Final = 4011  # PXE specification 2.1 §2.2
BROADCAST: Final = IPv4Address("255.255.255.255")
CLIENTS_REMEMBERED: Final = 4096
LINK_SELECTION: Final = 5  # sub-options of option 82: RFC 3527
SERVER_ID_OVERRIDE: Final = 11  # RFC 5107


@dataclass(frozen=True, slots=True, kw_only=True)
class DhcpSettings:
    """What this server says about the network.

    Args:
        server: its own address; also that of TFTP and HTTP.
        subnet: the network that it serves.
        gateway: None where the boards need no way out.
        dns: name servers.
        domain: search domain, empty for none.
        lease_s: how long an address is given for.
        short_lease_s: how long, to strangers while the pool is scarce.
        http_port: of the content server.
        server_port, client_port: other than 67 and 68 only in tests.
    """

    server: IPv4Address
    subnet: IPv4Network
    gateway: IPv4Address | None = None
    dns: tuple[IPv4Address, ...] = ()
    domain: str = ""
    lease_s: int = 12 * 3600
    short_lease_s: int = 600
    http_port: int = 80
    server_port: int = SERVER_PORT
    client_port: int = CLIENT_PORT

    def network_options(self) -> tuple[tuple[int, bytes], ...]:
        """Options 1, 28, 3, 6 and 15."""
        options: list[tuple[int, bytes]] = [
            (Option.SUBNET_MASK, self.subnet.netmask.packed),
            (Option.BROADCAST_ADDRESS, self.subnet.broadcast_address.packed),
        ]
        if self.gateway is not None:
            options.append((Option.ROUTER, self.gateway.packed))
        if self.dns:
            options.append((Option.DNS_SERVERS, encode_addresses(self.dns)))
        if self.domain:
            options.append((Option.DOMAIN_NAME, self.domain.encode("ascii", "replace")))
        return tuple(options)

    def lease_options(self, lease_s: int) -> tuple[tuple[int, bytes], ...]:
        """Options 51, 58 and 59: renew at half of the time, rebind at seven eighths (RFC 2131 §4.4.5)."""
        return (
            (Option.LEASE_TIME, encode_seconds(lease_s)),
            (Option.RENEWAL_TIME, encode_seconds(lease_s // 2)),
            (Option.REBINDING_TIME, encode_seconds(lease_s * 7 // 8)),
        )


@dataclass(frozen=True, slots=True)
class SendReply:
    """Send a message to an address and port.

    Args:
        message: the reply.
        address, port: where to.
        hardware: the client's hardware address, where it can not answer ARP yet: the packet is to go straight
            to it, or, where that can not be done, to everybody.
        limit: the largest message that the receiver takes, bytes.
    """

    message: DhcpMessage
    address: IPv4Address
    port: int
    hardware: bytes | None = None
    limit: int = MAXIMUM_MESSAGE_BYTES

    def encode(self) -> bytes:
        """The message; what the client can do without is left out where it does not take all of it.

        Raises:
            WireError: even so it is too large.
        """
        message = self.message
        for code in DISPENSABLE:
            try:
                return message.encode(MINIMUM_REPLY_BYTES, self.limit)
            except WireError:
                kept = tuple(option for option in message.options if option[0] != code)
                message = replace(message, options=kept)
        return message.encode(MINIMUM_REPLY_BYTES, self.limit)


DISPENSABLE: Final = (
    Option.HOST_NAME,
    Option.DOMAIN_NAME,
    Option.BROADCAST_ADDRESS,
    Option.REBINDING_TIME,
    Option.RENEWAL_TIME,
    Option.DNS_SERVERS,
)
"""Left out in this order from a reply that is too large for its client."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask on the cable whether somebody has an address already. Nothing waits for the answer."""

    address: IPv4Address
    mac: MacAddress


@dataclass(frozen=True, slots=True)
class Report:
    """Tell what happened."""

    event: BoardEvent


Action: TypeAlias = SendReply | Report | Learn | Probe


@dataclass(slots=True)
class ClientMemory:
    """What each client has said about itself so far.

    A bootloader says who it is in the DISCOVER only: its REQUEST carries no option 97, and in old EEPROMs no
    option 60 either. Both belong together by transaction id and hardware address.
    """

    _clients: OrderedDict[MacAddress, tuple[int, BoardIdentity]] = field(default_factory=OrderedDict)

    def recognise(self, message: DhcpMessage, said: BoardIdentity) -> BoardIdentity:
        """The client with all that is known of it. Whether a bootloader speaks follows from this exchange."""
        mac = said.mac
        if mac is None:
            return said
        xid, known = self._clients.pop(mac, (None, None))
        board = merge(said, known)
        same_exchange = known is not None and xid == message.xid
        if message.message_type is MessageType.DISCOVER or not same_exchange or said.firmware is not _SILENT:
            speaker = said.firmware
            # Without its GUID a Pi's bootloader may look like a PC: the DISCOVER told them apart.
            if same_exchange and known is not None and known.is_pi and speaker is Firmware.FOREIGN:
                speaker = Firmware.PI
        else:
            speaker = known.firmware if known is not None else said.firmware
        board = _with_speaker(board, speaker)
        self._clients[mac] = (message.xid, board)
        while len(self._clients) > CLIENTS_REMEMBERED:
            self._clients.popitem(last=False)
        return board

    def find(self, chaddr: bytes) -> BoardIdentity | None:
        """What is known of the client with a hardware address, or None."""
        try:
            found = self._clients.get(MacAddress(chaddr))
        except BoardError:
            return None
        return found[1] if found is not None else None


_SILENT: Final = Firmware.NONE


def _with_speaker(board: BoardIdentity, firmware: Firmware) -> BoardIdentity:
    if board.firmware is firmware and board.is_pi == (firmware is Firmware.PI):
        return board
    return replace(board, firmware=firmware, is_pi=firmware is Firmware.PI)


def address_reply(
    request: DhcpMessage, reply_type: MessageType, yiaddr: IPv4Address, settings: DhcpSettings
) -> tuple[IPv4Address, int, bytes | None]:
    """Where a reply goes (RFC 2131 §4.1): address, port, and the hardware address where ARP is no help."""
    if request.giaddr != NO_ADDRESS:
        return request.giaddr, settings.server_port, None
    if reply_type is MessageType.NAK:
        return BROADCAST, settings.client_port, None
    if request.ciaddr != NO_ADDRESS:
        return request.ciaddr, settings.client_port, None
    if request.broadcast or yiaddr == NO_ADDRESS:
        return BROADCAST, settings.client_port, None
    return yiaddr, settings.client_port, request.chaddr


def relay_sub_option(request: DhcpMessage, code: int) -> IPv4Address | None:
    """A sub-option of option 82 that is one address, or None."""
    relay = request.option(Option.RELAY_AGENT)
    if relay is None:
        return None
    try:
        found = dict(parse_sub_options(relay)).get(code)
    except WireError:
        return None
    return IPv4Address(found) if found is not None and len(found) == 4 else None


def link_of(request: DhcpMessage) -> IPv4Address:
    """An address of the network that the client is on; zero for the server's own.

    The relay's link selection says it best (RFC 3527), then the client's or relay's subnet selection
    (RFC 3011), then the relay's address.
    """
    if request.giaddr == NO_ADDRESS:
        return NO_ADDRESS
    chosen = relay_sub_option(request, LINK_SELECTION)
    return chosen or request.address(Option.SUBNET_SELECTION) or request.giaddr


def server_id(request: DhcpMessage, settings: DhcpSettings) -> IPv4Address:
    """What this server calls itself to this client: its address, or the relay's where the relay wants all
    traffic through itself (RFC 5107)."""
    if request.giaddr == NO_ADDRESS:
        return settings.server
    return relay_sub_option(request, SERVER_ID_OVERRIDE) or settings.server


def build_reply(
    request: DhcpMessage,
    reply_type: MessageType,
    settings: DhcpSettings,
    *,
    yiaddr: IPv4Address = NO_ADDRESS,
    siaddr: IPv4Address = NO_ADDRESS,
    file: bytes = b"",
    options: tuple[tuple[int, bytes], ...] = (),
) -> SendReply:
    """A reply with its destination. Option 54 comes first and the relay's option 82 last (RFC 3046 §2.2).

    An option 82 that was put together from several is not echoed: no relay writes one, and it could make the
    reply larger than a datagram.
    """
    relay = request.option(Option.RELAY_AGENT)
    if relay is not None and len(relay) > MAXIMUM_OPTION_PART:
        relay = None
    flags = request.flags
    if reply_type is MessageType.NAK and request.giaddr != NO_ADDRESS:
        flags |= FLAG_BROADCAST  # the client's address is wrong: the relay must not unicast (RFC 2131 §4.3.2)
    message = DhcpMessage(
        op=Op.REPLY,
        message_type=reply_type,
        xid=request.xid,
        chaddr=request.chaddr,
        flags=flags,
        ciaddr=request.ciaddr if reply_type is MessageType.ACK else NO_ADDRESS,
        yiaddr=yiaddr,
        siaddr=siaddr,
        giaddr=request.giaddr,
        file=file,
        options=(
            (Option.SERVER_ID, server_id(request, settings).packed),
            *options,
            *(((Option.RELAY_AGENT, relay),) if relay is not None else ()),
        ),
    )
    address, port, hardware = address_reply(request, reply_type, yiaddr, settings)
    return SendReply(message, address, port, hardware, request.maximum_bytes)


def echoed_guid(request: DhcpMessage) -> tuple[tuple[int, bytes], ...]:
    """The client's option 97 as it goes back to it (RFC 4578 §2.3); nothing where its size is wrong."""
    guid = request.option(Option.CLIENT_GUID)
    return ((Option.CLIENT_GUID, guid),) if guid is not None and len(guid) == GUID_BYTES else ()
