"""Network interfaces of this machine: their addresses and the largest packet they carry."""

from __future__ import annotations

import fcntl
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from pxe.errors import PxeError

SIOCGIFFLAGS: Final = 0x8913  # linux/sockios.h
SIOCGIFADDR: Final = 0x8915
SIOCGIFMTU: Final = 0x8921
IFF_UP: Final = 0x1  # linux/if.h
IFF_RUNNING: Final = 0x40
_IFREQ: Final = struct.Struct("16s24s")


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface with an IPv4 address; the MTU in bytes."""

    name: str
    address: IPv4Address
    mtu: int


@dataclass(frozen=True, slots=True)
class LinkState:
    """What the kernel says of an interface of this network namespace; the MTU in bytes."""

    is_up: bool
    is_running: bool
    mtu: int


def require_interface(name: str) -> Interface:
    """The interface that the server listens on.

    Raises:
        PxeError: there is none of that name, or it has no IPv4 address.
    """
    names = [known for _index, known in socket.if_nameindex()]
    if name not in names:
        raise PxeError(
            f"there is no network interface {name!r}; this machine has {', '.join(names)}",
            "Set network.interface in cluster.yaml to the one that the boards are connected to.",
        )
    address = find_address(name)
    if address is None:
        raise PxeError(
            f"network interface {name!r} has no IPv4 address",
            f"Give it one, for example: ip address add 10.0.0.1/24 dev {name} && ip link set {name} up",
        )
    return Interface(name, address, _mtu(name))


def find_address(name: str) -> IPv4Address | None:
    """The first IPv4 address of an interface, or None."""
    try:
        answer = _ask(name, SIOCGIFADDR)
    except OSError:
        return None
    # struct ifreq: 0–15 name · 16–17 family · 18–19 port · 20–23 address
    return IPv4Address(answer[20:24])


def find_state(name: str) -> LinkState | None:
    """An interface's state, or None where it is not there. Unlike /sys, which shows the namespace that it was
    mounted in, this is of the caller's own."""
    try:
        # struct ifreq: 0–15 name · 16–17 flags
        (flags,) = struct.unpack_from("H", _ask(name, SIOCGIFFLAGS), 16)
        return LinkState(bool(flags & IFF_UP), bool(flags & IFF_RUNNING), _mtu(name))
    except OSError:
        return None


def _mtu(name: str) -> int:
    (mtu,) = struct.unpack_from("i", _ask(name, SIOCGIFMTU), 16)
    return int(mtu)


def _ask(name: str, request: int) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        return fcntl.ioctl(probe, request, _IFREQ.pack(name.encode(), b""))
