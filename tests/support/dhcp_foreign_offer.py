"""Another DHCP server's words to a board, on an interface: ``python dhcp_foreign_offer.py INTERFACE``."""

from __future__ import annotations

import socket
import sys
from ipaddress import IPv4Address

from fakes_pxe import PI4_MAC

from pxe.dhcp.wire import DhcpMessage, MessageType, Op, Option

ROUTER = IPv4Address("10.77.0.254")


def main() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, sys.argv[1].encode())
        sock.bind(("", 67))
        offer = DhcpMessage(
            op=Op.REPLY,
            message_type=MessageType.OFFER,
            xid=7,
            chaddr=PI4_MAC.octets,
            yiaddr=IPv4Address("10.77.0.200"),
            options=((Option.SERVER_ID, ROUTER.packed), (Option.TFTP_SERVER, b"10.77.0.250")),
        )
        sock.sendto(b"no DHCP", ("255.255.255.255", 68))
        sock.sendto(offer.encode(300), ("255.255.255.255", 68))


if __name__ == "__main__":
    main()
