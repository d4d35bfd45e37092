"""What other DHCP servers say to boards, as it is heard on the cable: replies in, events out.

Only words to boards are events: to a node of the cluster, to a Raspberry Pi, or to a boot firmware that spoke
to this server. What a router says to phones is nobody's business.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Final

from fleet.boards import BoardError, MacAddress
from pxe.boot.identity import BoardIdentity, Firmware, IdentifiedBy
from pxe.boot.routes import printable
from pxe.boot.table import BootTable
from pxe.dhcp.vendor import PI_MENU_TEXT
from pxe.dhcp.wire import NO_ADDRESS, DhcpMessage, MessageType, Option
from pxe.events import BoardEvent, ForeignAck, ForeignNak, ForeignOffer

LONGEST_TEXT: Final = 80


def hear_reply(
    reply: DhcpMessage,
    source: IPv4Address,
    *,
    ours: IPv4Address,
    known: BoardIdentity | None,
    table: BootTable,
    expected: bool,
    now: float,
) -> BoardEvent | None:
    """The event that a reply on the cable is, or None where it is ours or to nobody who matters.

    Args:
        reply: of a server.
        source: the sender's address.
        ours: this server's.
        known: what is known about the client, or None.
        table: the boot table as it is now.
        expected: the cluster counts on another DHCP server.
        now: UTC seconds.
    """
    server = reply.server_id or source
    if ours in (server, source):
        return None
    board = known or _by_mac(reply.chaddr)
    if board is None:
        return None
    node = table.find(board)
    if node is None and board.firmware in (Firmware.NONE, Firmware.FOREIGN) and not _is_pi(board):
        return None
    name = node.name if node else None
    if reply.message_type is MessageType.NAK:
        reason = _text(reply.option(Option.MESSAGE) or b"")
        return ForeignNak(at=now, board=board, node=name, server=server, reason=reason)
    kinds = {MessageType.OFFER: ForeignOffer, MessageType.ACK: ForeignAck}
    kind = kinds.get(reply.message_type)
    if kind is None:
        return None
    return kind(
        at=now,
        board=board,
        node=name,
        server=server,
        source=source,
        address=reply.yiaddr if reply.yiaddr != NO_ADDRESS else None,
        options=tuple(code for code, _value in reply.options),
        tftp_server=_text(reply.option(Option.TFTP_SERVER) or b""),
        boot_file=_text(reply.option(Option.BOOT_FILE) or reply.file),
        pi_menu=PI_MENU_TEXT in (reply.option(Option.VENDOR_SPECIFIC) or b""),
        expected=expected,
    )


def _by_mac(chaddr: bytes) -> BoardIdentity | None:
    try:
        return BoardIdentity(mac=MacAddress(chaddr), how=IdentifiedBy.MAC)
    except BoardError:
        return None


def _is_pi(board: BoardIdentity) -> bool:
    return board.is_pi or (board.mac is not None and board.mac.is_raspberry_pi)


def _text(value: bytes) -> str:
    """Text from a stranger, fit for a log."""
    return printable(value.rstrip(b"\0").decode("ascii", "replace"), LONGEST_TEXT)
