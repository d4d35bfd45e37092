"""The networks that this machine is on, as a first guess for a new cluster.yaml.

Parsing is pure; `read_host_networks` alone reads files.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

_ROUTES: Final = Path("/proc/net/route")
_FLAG_UP: Final = 0x1
_FLAG_GATEWAY: Final = 0x2


@dataclass(frozen=True, slots=True)
class HostNetwork:
    """A subnet that an interface is on, and the router that this machine uses there."""

    interface: str
    subnet: IPv4Network
    gateway: IPv4Address | None


def parse_routes(text: str) -> tuple[HostNetwork, ...]:
    """Read the kernel's IPv4 routing table; the network of the default route comes first.

    Layout: a header, then a line per route of whitespace-separated fields:
    0 interface · 1 destination · 2 gateway · 3 flags · … · 7 mask; numbers are hexadecimal, addresses in the
    byte order of the machine, which is little-endian on every host that Bramble runs on.
    Source: proc(5), /proc/net/route.
    """
    networks: dict[str, IPv4Network] = {}
    gateways: dict[str, IPv4Address] = {}
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 8 or not int(fields[3], 16) & _FLAG_UP:
            continue
        interface, destination, mask = fields[0], _address(fields[1]), _address(fields[7])
        if int(fields[3], 16) & _FLAG_GATEWAY:
            if int(mask) == 0:
                gateways.setdefault(interface, _address(fields[2]))
        elif int(mask) and not destination.is_link_local:
            networks.setdefault(interface, IPv4Network(f"{destination}/{mask}"))
    ordered = sorted(networks, key=lambda interface: interface not in gateways)
    return tuple(HostNetwork(name, networks[name], gateways.get(name)) for name in ordered)


def _address(field: str) -> IPv4Address:
    return IPv4Address(bytes.fromhex(field.zfill(8))[::-1])


def read_host_networks() -> tuple[HostNetwork, ...]:
    """Look at this machine; empty where it has no IPv4 network or no /proc."""
    try:
        return parse_routes(_ROUTES.read_text(encoding="ascii"))
    except OSError:
        return ()
