"""Asks the network for its DHCP servers, and listens for a few seconds."""

from __future__ import annotations

import select
import socket
import time
from ipaddress import IPv4Address
from typing import Final

from pxe.dhcp.probe import HeardServer, make_discover, read_offer
from pxe.dhcp.replies import CLIENT_PORT, SERVER_PORT
from pxe.dhcp.wire import parse_reply
from pxe.errors import PxeError, WireError
from pxe.net.ports import explain_bind_error

ASK_EVERY_S: Final = 1.0
MAXIMUM_REPLY: Final = 2048
MAXIMUM_SERVERS: Final = 64


def find_servers(
    interface: str, macs: tuple[tuple[bytes, bool], ...], xid: int, listen_s: float
) -> tuple[HeardServer, ...]:
    """The DHCP servers that answer on an interface, in the order of their answers.

    Args:
        interface: its name.
        macs: the clients to ask as: six bytes, and whether as a PXE client.
        xid: of the first question, 32 bits; answers to others are not looked at.
        listen_s: seconds until the answers are counted.

    Raises:
        PxeError: the client's port can not be had, or the interface refuses to send.
    """
    questions = [
        make_discover(mac, (xid + number) & 0xFFFF_FFFF, is_pxe=is_pxe)
        for number, (mac, is_pxe) in enumerate(macs)
    ]
    ours = {question.xid for question in questions}
    found: dict[tuple[IPv4Address, bool], HeardServer] = {}
    with client_socket(interface) as sock:
        started = time.monotonic()
        ask_at = started
        while (now := time.monotonic()) < started + listen_s:
            if now >= ask_at:
                for question in questions:
                    send_question(sock, question.encode(), interface)
                ask_at = now + ASK_EVERY_S
            wait_s = min(ask_at, started + listen_s) - now
            if not select.select([sock], [], [], max(wait_s, 0))[0]:
                continue
            data, (host, _port) = sock.recvfrom(MAXIMUM_REPLY)
            try:
                reply = parse_reply(data)
            except WireError:
                continue
            heard = read_offer(reply, IPv4Address(host), time.monotonic() - started)
            if heard is None or reply.xid not in ours or len(found) >= MAXIMUM_SERVERS:
                continue
            found.setdefault((heard.server, heard.address is not None), heard)
    return tuple(found.values())


def client_socket(interface: str) -> socket.socket:
    """A socket on the port of DHCP clients, beside the system's own. Raises `PxeError`."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        sock.bind(("", CLIENT_PORT))
    except OSError as error:
        sock.close()
        any_address = IPv4Address(0)
        raise explain_bind_error(error, any_address, CLIENT_PORT, "the search", "udp") from error
    return sock


def send_question(sock: socket.socket, question: bytes, interface: str) -> None:
    """Broadcast an encoded DISCOVER. Raises `PxeError`."""
    try:
        sock.sendto(question, ("255.255.255.255", SERVER_PORT))
    except OSError as error:
        raise PxeError(
            f"nothing can be sent on {interface}: {error.strerror}",
            "Is the interface up, with a cable in it?",
        ) from error
