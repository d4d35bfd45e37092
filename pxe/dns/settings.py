"""From the declared network to what the DNS server answers."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Final

from fleet.spec.model import ClusterSpec, DhcpMode, DnsMode
from pxe.dns.core import NameSettings, Rest
from pxe.dns.zone import make_zone

LOOPBACK: Final = IPv4Network("127.0.0.0/8")


def make_name_settings(spec: ClusterSpec, server: IPv4Address) -> NameSettings | None:
    """What ``network.dns_server`` asks for; None where Bramble answers no DNS.

    Args:
        server: this machine's own address, which is not asked about names that it does not know.
    """
    network = spec.network
    if network.dns_server is DnsMode.OFF:
        return None
    return NameSettings(
        # Beside a router other machines of the subnet have names that only the router knows.
        zone=make_zone(spec, server, owns_reverse=network.dhcp is DhcpMode.FULL),
        rest=Rest.FORWARD if network.dns_server is DnsMode.FORWARD else Rest.SILENT,
        upstreams=tuple(address for address in network.dns if address != server),
        clients=(network.subnet, LOOPBACK),
    )
