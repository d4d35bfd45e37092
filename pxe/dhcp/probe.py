"""Which DHCP servers are on this network? One DISCOVER out, offers in. Pure; never a REQUEST, so nothing is
taken.

The question is a PXE client's, so that servers which only tell where to boot from (proxies) answer as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from pxe.boot.routes import printable
from pxe.dhcp.vendor import PI_MENU_TEXT
from pxe.dhcp.wire import FLAG_BROADCAST, NO_ADDRESS, DhcpMessage, MessageType, Op, Option

PARAMETERS: Final = bytes(
    (
        Option.SUBNET_MASK,
        Option.ROUTER,
        Option.VENDOR_SPECIFIC,
        Option.VENDOR_CLASS,
        Option.TFTP_SERVER,
        Option.BOOT_FILE,
    )
)
PXE_CLASS: Final = b"PXEClient:Arch:00000:UNDI:002001"
LONGEST_TEXT: Final = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class HeardServer:
    """A DHCP server that answered.

    Args:
        server: who it says it is.
        address: what it offers; None where it only tells where to boot from.
        boot_server: the boot server that it names to Raspberry Pis; empty where none.
        boot_file: option 67, for PCs.
        after_s: how long its answer took.
    """

    server: IPv4Address
    address: IPv4Address | None
    boot_server: str
    boot_file: str
    after_s: float

    def describe(self) -> str:
        """``192.168.1.1 offers 192.168.1.77 after 0.3 s``."""
        what = f"offers {self.address}" if self.address is not None else "offers no address"
        boot = f", names the boot server {self.boot_server}" if self.boot_server else ""
        file = f", names the boot file {self.boot_file}" if self.boot_file else ""
        return f"{self.server} {what} after {self.after_s:.1f} s{boot}{file}"


def make_discover(mac: bytes, xid: int, *, is_pxe: bool) -> DhcpMessage:
    """A question to all servers; answers come by broadcast.

    Args:
        mac: six bytes, the client's.
        xid: 32 bits.
        is_pxe: ask as a PXE client does.
    """
    options: tuple[tuple[int, bytes], ...] = ((Option.PARAMETER_LIST, PARAMETERS),)
    if is_pxe:
        options += (
            (Option.CLIENT_ARCH, b"\0\0"),
            (Option.CLIENT_NDI, b"\x01\x02\x01"),
            (Option.VENDOR_CLASS, PXE_CLASS),
        )
    return DhcpMessage(
        op=Op.REQUEST,
        message_type=MessageType.DISCOVER,
        xid=xid,
        chaddr=mac,
        flags=FLAG_BROADCAST,
        options=options,
    )


def read_offer(reply: DhcpMessage, source: IPv4Address, after_s: float) -> HeardServer | None:
    """The server behind an offer; None for other replies."""
    if reply.message_type is not MessageType.OFFER:
        return None
    server = reply.server_id or source
    named = _text(reply.option(Option.TFTP_SERVER) or b"")
    has_menu = PI_MENU_TEXT in (reply.option(Option.VENDOR_SPECIFIC) or b"")
    return HeardServer(
        server=server,
        address=reply.yiaddr if reply.yiaddr != NO_ADDRESS else None,
        boot_server=named or (str(server) if has_menu else ""),
        boot_file=_text(reply.option(Option.BOOT_FILE) or reply.file),
        after_s=after_s,
    )


def _text(value: bytes) -> str:
    return printable(value.rstrip(b"\0").decode("ascii", "replace"), LONGEST_TEXT)
