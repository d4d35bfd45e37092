"""What both DHCP servers share: who they are, what they do in answer to a message, and where a reply goes."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network
from typing import Final, TypeAlias

from fleet.boards import MacAddress
from pxe.boot.clients import Learn
from pxe.boot.identity import BoardIdentity, merge
from pxe.dhcp.wire import (
    FLAG_BROADCAST,
    GUID_BYTES,
    MAXIMUM_OPTION_PART,
    NO_ADDRESS,
    DhcpMessage,
    MessageType,
    Op,
    Option,
    encode_addresses,
    encode_seconds,
)
from pxe.events import BoardEvent

SERVER_PORT: Final = 67
CLIENT_PORT: Final = 68
BROADCAST: Final = IPv4Address("255.255.255.255")
CLIENTS_REMEMBERED: Final = 4096


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
        server_port, client_port: other than 67 and 68 only in tests.
    """

    server: IPv4Address
    subnet: IPv4Network
    gateway: IPv4Address | None = None
    dns: tuple[IPv4Address, ...] = ()
    domain: str = ""
    lease_s: int = 12 * 3600
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

    def lease_options(self) -> tuple[tuple[int, bytes], ...]:
        """Options 51, 58 and 59: renew at half of the time, rebind at seven eighths (RFC 2131 §4.4.5)."""
        return (
            (Option.LEASE_TIME, encode_seconds(self.lease_s)),
            (Option.RENEWAL_TIME, encode_seconds(self.lease_s // 2)),
            (Option.REBINDING_TIME, encode_seconds(self.lease_s * 7 // 8)),
        )


@dataclass(frozen=True, slots=True)
class SendReply:
    """Send a message to an address and port."""

    message: DhcpMessage
    address: IPv4Address
    port: int


@dataclass(frozen=True, slots=True)
class Report:
    """Tell what happened."""

    event: BoardEvent


Action: TypeAlias = SendReply | Report | Learn


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
        if message.message_type is MessageType.DISCOVER or not (known is not None and xid == message.xid):
            speaks_as_bootloader = said.is_pi
        else:
            speaks_as_bootloader = said.is_pi or known.is_pi
        board = _with_speaker(board, speaks_as_bootloader)
        self._clients[mac] = (message.xid, board)
        while len(self._clients) > CLIENTS_REMEMBERED:
            self._clients.popitem(last=False)
        return board


def _with_speaker(board: BoardIdentity, is_pi: bool) -> BoardIdentity:
    return board if board.is_pi == is_pi else replace(board, is_pi=is_pi)


def address_reply(
    request: DhcpMessage, reply_type: MessageType, settings: DhcpSettings
) -> tuple[IPv4Address, int]:
    """Where a reply goes (RFC 2131 §4.1).

    Without a relay and without an address the RFC allows to unicast to `yiaddr` before the client can
    answer ARP. That takes an entry in the kernel's neighbour table and root; a broadcast reaches the client
    as well.
    """
    if request.giaddr != NO_ADDRESS:
        return request.giaddr, settings.server_port
    if reply_type is not MessageType.NAK and request.ciaddr != NO_ADDRESS:
        return request.ciaddr, settings.client_port
    return BROADCAST, settings.client_port


def build_reply(
    request: DhcpMessage,
    reply_type: MessageType,
    settings: DhcpSettings,
    *,
    yiaddr: IPv4Address = NO_ADDRESS,
    siaddr: IPv4Address = NO_ADDRESS,
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
        options=(
            (Option.SERVER_ID, settings.server.packed),
            *options,
            *(((Option.RELAY_AGENT, relay),) if relay is not None else ()),
        ),
    )
    address, port = address_reply(request, reply_type, settings)
    return SendReply(message, address, port)


def echoed_guid(request: DhcpMessage) -> tuple[tuple[int, bytes], ...]:
    """The client's option 97 as it goes back to it (RFC 4578 §2.3); nothing where its size is wrong."""
    guid = request.option(Option.CLIENT_GUID)
    return ((Option.CLIENT_GUID, guid),) if guid is not None and len(guid) == GUID_BYTES else ()
