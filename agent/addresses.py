"""Addresses of interfaces, asked of the kernel by ioctl: no iproute2, and nothing of the installer's network.

Constants and layout are those of 64-bit Linux (linux/sockios.h, linux/if.h): 16 bytes of name, then a
struct sockaddr_in, whose address is at 20–23.
"""

from __future__ import annotations

import fcntl
import socket
import struct

SIOCGIFADDR = 0x8915
_IFREQ = struct.Struct("16s24x")


def read_address(interface: str) -> str | None:
    """The interface's primary IPv4 address; None when it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            answer = fcntl.ioctl(sock, SIOCGIFADDR, _IFREQ.pack(interface.encode()))
        except OSError:
            return None
    return socket.inet_ntoa(answer[20:24])
