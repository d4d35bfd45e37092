"""Renders settings for DHCP servers of others, from the templates beside this module.

Boards are told the boot server by option 66 and the next-server field alone. A menu in option 43, as this
server's own offers have it, would make a bootloader take the address of the *DHCP* server for that of its
boot server, which is another machine here. Raspberry Pis are told apart by option 97, where the server can do
that.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

import jinja2

from fleet.boards import Soc
from fleet.spec.model import ClusterSpec

TEMPLATES: Final = Path(__file__).parent / "templates"


class DhcpServerKind(StrEnum):
    """A DHCP server that settings can be rendered for; the value is its name on the command line."""

    DNSMASQ = "dnsmasq"
    ISC = "isc"
    KEA = "kea"
    MIKROTIK = "mikrotik"
    OPENWRT = "openwrt"

    @property
    def product(self) -> str:
        return {
            "dnsmasq": "dnsmasq",
            "isc": "ISC dhcpd",
            "kea": "Kea",
            "mikrotik": "MikroTik RouterOS",
            "openwrt": "OpenWrt",
        }[self.value]

    @property
    def template(self) -> str:
        return f"{self.value}.j2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """The address of one node."""

    name: str
    mac: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Guide:
    """What the templates are given.

    Args:
        cluster: its name.
        server: the boot server.
        subnet: the boards' network.
        fourccs: the four spellings that open a Pi's GUID, as text.
        nodes: those with a MAC and an IP address.
    """

    cluster: str
    server: IPv4Address
    subnet: IPv4Network
    fourccs: tuple[str, ...]
    nodes: tuple[Reservation, ...]


def make_guide(spec: ClusterSpec, server: IPv4Address) -> Guide:
    """The values of one cluster."""
    return Guide(
        cluster=spec.name,
        server=server,
        subnet=spec.network.subnet,
        fourccs=tuple(prefix.decode("ascii") for soc in Soc for prefix in soc.option97_prefixes),
        nodes=tuple(
            Reservation(name=node.name, mac=str(node.mac), address=str(node.address))
            for node in spec.nodes
            if node.mac is not None and node.address is not None
        ),
    )


def render_guide(kind: DhcpServerKind, guide: Guide) -> str:
    """The settings as text, ready to be pasted."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # configuration, not HTML; names and addresses are validated values
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["colons"] = lambda text: text.encode("ascii").hex(":")
    return environment.get_template(kind.template).render(guide=guide)
