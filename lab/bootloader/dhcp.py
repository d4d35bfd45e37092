"""The bootloader's DHCP exchange: DISCOVER until there are an address and a TFTP server, then REQUEST and
ACK.

Both may come from different servers, in any order (a router and a proxy): the client waits for both. An offer
with neither option 66 nor a matching option 43 gives at most an address. BOOTP `siaddr` alone, option 67 and
the `file` field are ignored.

Sources: field listings in rpi-eeprom#58, #376, #687; Raspberry Pi documentation, "PXE_OPTION43" and
"DHCP_OPTION97". The list of options in the REQUEST is an inference from server logs of 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from typing import Final

from lab.bootloader.profile import ROM_XID, AnyBoard, EepromProfile, Family, render_guid
from lab.bootloader.settings import MENU_TEXT
from lab.events import EventKind, Notice
from pxe.dhcp.wire import DhcpMessage, MessageType, Op, Option

CLIENT_PORT: Final = 68
SERVER_PORT: Final = 67
VENDOR_CLASS: Final = b"PXEClient:Arch:00000:UNDI:002001"
PARAMETER_LIST: Final = bytes((1, 3, 43, 60, 66, 67, 128, 129, 130, 131, 132, 133, 134, 135))
_ROM_PARAMETER_LIST: Final = bytes((43, 60, 67, 128, 129, 130, 131, 132, 133, 134, 135, 66))
PARAMETER_LISTS: Final = {
    Family.ROM3: _ROM_PARAMETER_LIST,
    Family.BOOTCODE: _ROM_PARAMETER_LIST + bytes((1, 3)),
    Family.BCM2711: PARAMETER_LIST,
    Family.BCM2712: PARAMETER_LIST,
}
CLIENT_ARCH: Final = b"\0\0"
"""All models say "x86 BIOS", a Pi 5 as well."""
CLIENT_NDI: Final = b"\x01\x02\x01"
_PXE_BOOT_MENU: Final = b"\x09"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """The network settings of one network boot.

    Attributes:
        gateway: None where no router was offered.
        server: Whom files are asked from.
    """

    address: IPv4Address
    network: IPv4Network
    gateway: IPv4Address | None
    server: IPv4Address

    @property
    def next_hop(self) -> IPv4Address:
        """Whose MAC address frames to the server carry."""
        if self.server in self.network or self.gateway is None:
            return self.server
        return self.gateway


def static_binding(profile: EepromProfile) -> Binding | None:
    """The binding of an EEPROM with CLIENT_IP and TFTP_IP, which asks nobody; None for any other."""
    settings = profile.settings
    if settings.client_ip is None or settings.tftp_ip is None:
        return None
    mask = settings.subnet or IPv4Address("255.255.255.0")
    return Binding(
        address=settings.client_ip,
        network=IPv4Network((settings.client_ip, str(mask)), strict=False),
        gateway=settings.gateway,
        server=settings.tftp_ip,
    )


def discover(board: AnyBoard, profile: EepromProfile, xid: int) -> DhcpMessage:
    """The DHCPDISCOVER: 322 bytes when encoded, without padding; 320 from the ROM of a Pi 3."""
    return DhcpMessage(
        op=Op.REQUEST,
        message_type=MessageType.DISCOVER,
        xid=ROM_XID if profile.family is Family.ROM3 else xid,
        chaddr=(profile.settings.mac_address or board.mac).octets,
        options=(
            (Option.PARAMETER_LIST, PARAMETER_LISTS[profile.family]),
            (Option.CLIENT_ARCH, CLIENT_ARCH),
            (Option.CLIENT_NDI, CLIENT_NDI),
            (Option.CLIENT_GUID, render_guid(board, profile)),
            (Option.VENDOR_CLASS, VENDOR_CLASS),
        ),
    )


def tftp_server_of(offer: DhcpMessage, menu_text: str = MENU_TEXT) -> IPv4Address | None:
    """The TFTP server that an offer names: option 66 (a dotted quad), else by option 43 the server itself.

    Args:
        offer: What a server sent.
        menu_text: PXE_OPTION43; bytes around it in option 43 do not matter.
    """
    name = (offer.option(Option.TFTP_SERVER) or b"").rstrip(b"\0")
    if name:
        try:
            return IPv4Address(name.decode("ascii"))
        except (AddressValueError, UnicodeDecodeError):
            pass  # a host name: the bootloader has no resolver, and looks at option 43
    menu = offer.option(Option.VENDOR_SPECIFIC) or b""
    if menu_text.encode() not in menu or not offer.vendor_class.startswith(b"PXEClient"):
        return None
    is_bare_text = _PXE_BOOT_MENU not in menu
    if is_bare_text and offer.siaddr != IPv4Address(0):
        return offer.siaddr
    return offer.server_id


class DhcpExchange:
    """One DHCP exchange as a state machine over messages.

    Args:
        board: Who asks.
        profile: With which EEPROM.
        xid: Random transaction id, 32 bits.
        now: Seconds, monotonic.
        server: Whom files will be asked from, where that does not depend on DHCP (HTTP); None otherwise.

    Attributes:
        to_send: Messages to broadcast; the owner empties it.
        notices: What happened; the owner empties it.
        binding: The result, once there is one.
        failed: Why there will be none.
    """

    def __init__(
        self,
        board: AnyBoard,
        profile: EepromProfile,
        *,
        xid: int,
        now: float,
        server: IPv4Address | None = None,
    ) -> None:
        self._board = board
        self._profile = profile
        self._settings = profile.settings
        self._xid = ROM_XID if profile.family is Family.ROM3 else xid
        self._chaddr = (profile.settings.mac_address or board.mac).octets
        self._deadline = now + profile.settings.dhcp_timeout_s
        self._known_server = server or profile.settings.tftp_ip
        self._resend_at = now
        self._lease: DhcpMessage | None = None
        self._tftp_server = self._known_server
        self._requesting = False
        self._offers_without_boot: set[IPv4Address] = set()
        self.to_send: list[DhcpMessage] = []
        self.notices: list[Notice] = []
        self.binding: Binding | None = None
        self.failed: str | None = None
        self._send(now)

    @property
    def is_requesting(self) -> bool:
        """Whether an ACK is awaited rather than an OFFER."""
        return self._requesting

    def next_timeout(self) -> float:
        return min(self._deadline, self._resend_at)

    def handle_timeout(self, now: float) -> None:
        if self.binding or self.failed:
            return
        if now >= self._deadline:
            self.failed = self._explain()
        elif now >= self._resend_at:
            self._send(now)

    def receive(self, reply: DhcpMessage, now: float) -> None:
        """Take one message of a server; messages for others, and of an earlier state, say nothing."""
        if reply.op is not Op.REPLY or reply.xid != self._xid or reply.chaddr != self._chaddr:
            return
        if self.binding or self.failed:
            return
        match reply.message_type:
            case MessageType.OFFER if not self._requesting:
                self._take_offer(reply, now)
            case MessageType.ACK if (
                self._requesting and self._lease and reply.server_id == self._lease.server_id
            ):
                self._bind(reply)
            case MessageType.NAK if self._requesting:
                self.notices.append(
                    Notice(EventKind.DHCP_OFFER, f"NAK from {reply.server_id}, starting over")
                )
                self._requesting, self._lease, self._tftp_server = False, None, self._known_server
                self._send(now)
            case _:
                pass

    def _take_offer(self, offer: DhcpMessage, now: float) -> None:
        tftp_server = tftp_server_of(offer, self._settings.menu_text)
        has_address = offer.yiaddr != IPv4Address(0) and offer.server_id is not None
        if has_address and self._lease is None:
            self._lease = offer
        if tftp_server is not None and self._tftp_server is None:
            self._tftp_server = tftp_server
        source = offer.server_id or offer.siaddr
        if tftp_server is None:
            self._offers_without_boot.add(source)
        self.notices.append(
            Notice(
                EventKind.DHCP_OFFER,
                f"OFFER from {source}: {offer.yiaddr if has_address else 'no address'}, "
                f"{f'TFTP {tftp_server}' if tftp_server else 'no TFTP server (neither option 66 nor 43)'}",
            )
        )
        if not self._lease or not self._tftp_server:
            return
        if not self._profile.sends_request:
            self._bind(self._lease)  # the ROM of a Pi 3 takes the address without asking for it
            return
        self._requesting = True
        self._send(now)

    def _bind(self, ack: DhcpMessage) -> None:
        if self._tftp_server is None:
            return
        mask = ack.address(Option.SUBNET_MASK) or IPv4Address("255.255.255.0")
        routers = ack.option(Option.ROUTER) or b""
        self.binding = Binding(
            address=ack.yiaddr,
            network=IPv4Network((ack.yiaddr, str(mask)), strict=False),
            gateway=IPv4Address(routers[:4]) if len(routers) >= 4 else None,
            server=self._tftp_server,
        )
        self.notices.append(
            Notice(EventKind.DHCP_BOUND, f"{ack.yiaddr} from {ack.server_id}, TFTP {self._tftp_server}")
        )

    def _send(self, now: float) -> None:
        self._resend_at = now + self._settings.dhcp_req_timeout_s
        if self._requesting and self._lease and self._lease.server_id:
            self.to_send.append(self._request(self._lease, self._lease.server_id))
            return
        self.to_send.append(discover(self._board, self._profile, self._xid))
        self.notices.append(
            Notice(EventKind.DHCP_DISCOVER, f"DISCOVER as {self._settings.mac_address or self._board.mac}")
        )

    def _request(self, offer: DhcpMessage, server_id: IPv4Address) -> DhcpMessage:
        options = [
            (int(Option.REQUESTED_ADDRESS), offer.yiaddr.packed),
            (int(Option.SERVER_ID), server_id.packed),
        ]
        if self._profile.request_has_class:
            options.append((Option.VENDOR_CLASS, VENDOR_CLASS))
        return DhcpMessage(
            op=Op.REQUEST,
            message_type=MessageType.REQUEST,
            xid=self._xid,
            chaddr=self._chaddr,
            options=tuple(options),
        )

    def _explain(self) -> str:
        if self._requesting:
            return "DHCP: the request was not acknowledged"
        if self._tftp_server:
            return f"DHCP: {self._tftp_server} offers files, but nobody offers an address"
        if self._offers_without_boot:
            servers = ", ".join(map(str, sorted(self._offers_without_boot)))
            return f"DHCP: offers only without option 66 or 43, from {servers}"
        return f"DHCP: no offer within {self._settings.dhcp_timeout_s:g} s"
