"""Binding sockets, and saying in words why it did not work: who holds the port, or which right is missing."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from pxe.errors import PxeError

IP_PKTINFO: Final = getattr(socket, "IP_PKTINFO", 8)  # linux/in.h; the constant came with Python 3.13
# linux/in.h; Python has no names for them
IP_MTU_DISCOVER: Final = 10
IP_PMTUDISC_DONT: Final = 0
IP_MTU: Final = 14
SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h
FIRST_FREE_PORT: Final = 1024


def bind_udp(
    address: IPv4Address, port: int, service: str, *, interface: str | None, shared: bool = False
) -> socket.socket:
    """A non-blocking UDP socket that also says for which of our addresses a datagram came (IP_PKTINFO).

    Args:
        address: 0.0.0.0 to hear broadcasts as well.
        port: 0 for any.
        service: what needs it, for messages: ``DHCP``.
        interface: hear only this interface; None for all.
        shared: several processes each bind a socket of their own to the port (SO_REUSEPORT).

    Raises:
        PxeError: the port is taken, a right is missing, or the address is not of this machine.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if interface is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        sock.bind((str(address), port))
    except OSError as error:
        sock.close()
        raise explain_bind_error(error, address, port, service, "udp") from error
    return sock


def widen_receive_buffer(sock: socket.socket, size_bytes: int) -> None:
    """Let more packets wait in a socket: with CAP_NET_ADMIN as many as asked, else as many as the system
    allows (net.core.rmem_max)."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, size_bytes)
    except OSError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size_bytes)


def connect_udp(ours: IPv4Address | None, peer: tuple[str, int]) -> socket.socket:
    """A non-blocking UDP socket on any port, for one peer only.

    Its packets may be cut by routers (no DF bit): a bootloader knows nothing of path MTU discovery, and a
    tunnel on the way would swallow its packets without a word.

    Args:
        ours: the address of this machine that it sends from; None to leave that to the routes.
        peer: address and port.

    Raises:
        OSError: no descriptor is left, or there is no way to the peer from that address.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
        sock.bind((str(ours) if ours is not None else "", 0))
        sock.connect(peer)
    except OSError:
        sock.close()
        raise
    return sock


def path_mtu(sock: socket.socket) -> int:
    """Bytes of the largest IP packet that goes to a connected socket's peer, as far as the kernel knows."""
    return sock.getsockopt(socket.IPPROTO_IP, IP_MTU)


def bind_tcp(address: IPv4Address, port: int, service: str) -> socket.socket:
    """A listening TCP socket, non-blocking. Raises `PxeError` like `bind_udp`."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((str(address), port))
        sock.listen(128)
    except OSError as error:
        sock.close()
        raise explain_bind_error(error, address, port, service, "tcp") from error
    return sock


def explain_bind_error(
    error: OSError, address: IPv4Address, port: int, service: str, protocol: str
) -> PxeError:
    """The error that a person can act on."""
    what = f"{service} can not listen on {protocol} port {port}"
    match error.errno:
        case errno.EADDRINUSE:
            holder = find_holder(port, protocol)
            by = f"{holder} holds it" if holder else "another program holds it"
            return PxeError(
                f"{what}: {by}",
                f"Stop that program (see 'ss -{protocol[0]}lnp sport = :{port}'), or give {service} "
                "another machine.",
            )
        case errno.EACCES | errno.EPERM:
            return PxeError(
                f"{what}: ports below {FIRST_FREE_PORT} and single interfaces take a right "
                "that this user does not have",
                "One of these: run it with sudo · give the interpreter the right, "
                "'sudo setcap cap_net_bind_service,cap_net_raw=+ep $(readlink -f $(command -v python3))' · "
                "run it as a systemd service with AmbientCapabilities=CAP_NET_BIND_SERVICE CAP_NET_RAW",
            )
        case errno.EADDRNOTAVAIL:
            return PxeError(
                f"{what}: {address} is not an address of this machine",
                "Check network.server_address in cluster.yaml and 'ip address'.",
            )
        case errno.ENODEV:
            names = ", ".join(name for _index, name in socket.if_nameindex())
            return PxeError(
                f"{what}: the network interface is gone; this machine has {names}",
                "Set network.interface in cluster.yaml to the one that the boards are connected to.",
            )
        case _:
            return PxeError(f"{what}: {error.strerror}", "")


def find_holder(port: int, protocol: str) -> str | None:
    """The process that has a port open: ``dnsmasq (pid 812)``; None where this user may not see it."""
    inodes = {f"socket:[{inode}]" for inode in _inodes(Path("/proc/net") / protocol, port)}
    if not inodes:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(fd.readlink()) in inodes for fd in (process / "fd").iterdir()):
                name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
                return f"{name} (pid {process.name})"
        except OSError:
            continue  # another user's process, or one that has just ended
    return None


def _inodes(table: Path, port: int) -> Iterator[str]:
    """Inodes of the sockets on a local port. Columns: 1 local address:port in hex · 9 inode."""
    for path in (table, table.with_name(f"{table.name}6")):
        try:
            lines = path.read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            columns = line.split()
            if int(columns[1].rpartition(":")[2], 16) == port:
                yield columns[9]


def received_for(ancillary: list[tuple[int, int, bytes]]) -> IPv4Address | None:
    """The address of ours that a datagram came for, from IP_PKTINFO; None where the kernel did not say.

    struct in_pktinfo: 0–3 interface index · 4–7 our address · 8–11 destination in the header.
    """
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO and len(data) >= 12:
            return IPv4Address(data[4:8])
    return None


def from_address(source: IPv4Address) -> tuple[int, int, bytes]:
    """Ancillary data that makes a datagram come from one address of ours. Layout as in `received_for`."""
    return socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=i4s4s", 0, source.packed, b"\0\0\0\0")
