"""The cluster's names: who has which address, and which name an address has. A value; nothing of the wire."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from typing import Final

from fleet.spec.model import API_NAME, CONTROL_NAME, NAME_SERVER_NAME, SERVICE_NAMES, ClusterSpec

REVERSE_DOMAIN: Final = "in-addr.arpa"


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """Names without a final dot, in lower case.

    Args:
        domain: the zone's own name, ``attic.internal``.
        server: the address of the machine that answers.
        hosts: label below the domain → addresses.
        subnet: addresses whose names are known here, if they have one.
        owns_reverse: an address of the subnet without a name has none anywhere, so nobody else is asked.
    """

    domain: str
    server: IPv4Address
    hosts: Mapping[str, tuple[IPv4Address, ...]]
    subnet: IPv4Network
    owns_reverse: bool
    _names: Mapping[IPv4Address, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names: dict[IPv4Address, str] = {}
        # A machine with a name of its own is not known by that of a service which it gives.
        for label in sorted(self.hosts, key=lambda label: label in SERVICE_NAMES):
            for address in self.hosts[label]:
                names.setdefault(address, f"{label}.{self.domain}")
        object.__setattr__(self, "_names", names)

    @property
    def name_server(self) -> str:
        return f"{NAME_SERVER_NAME}.{self.domain}"

    @property
    def reverse_domain(self) -> str:
        """The smallest zone of whole octets that holds the subnet: ``86.168.192.in-addr.arpa`` for a /24."""
        octets = str(self.subnet.network_address).split(".")[: self.subnet.prefixlen // 8]
        return ".".join([*reversed(octets), REVERSE_DOMAIN])

    def covers(self, name: str) -> bool:
        """Whether ``name`` is the zone's own or lies below it."""
        return name == self.domain or name.endswith(f".{self.domain}")

    def addresses(self, name: str) -> tuple[IPv4Address, ...] | None:
        """Addresses of a full name, or of a bare node name; None when there is no such name."""
        if name == self.domain:
            return ()
        label = name.removesuffix(f".{self.domain}")
        return self.hosts.get(label)

    def name_of(self, address: IPv4Address) -> str | None:
        return self._names.get(address)


def make_zone(spec: ClusterSpec, server: IPv4Address, *, owns_reverse: bool) -> Zone:
    """The names of a declared cluster.

    ``api`` is the virtual address of the Kubernetes API where there is one, else every server's address.
    """
    hosts = {node.name: (node.address,) for node in spec.nodes if node.address is not None}
    return Zone(
        domain=spec.domain,
        server=server,
        hosts={
            CONTROL_NAME: (server,),
            NAME_SERVER_NAME: (server,),
            **({API_NAME: api} if (api := tuple(_api_addresses(spec))) else {}),
            **hosts,
        },
        subnet=spec.network.subnet,
        owns_reverse=owns_reverse,
    )


def _api_addresses(spec: ClusterSpec) -> Iterator[IPv4Address]:
    if spec.k3s.api_vip is not None:
        yield spec.k3s.api_vip
        return
    yield from (node.address for node in spec.servers if node.address is not None)


def parse_reverse(name: str) -> IPv4Address | None:
    """The address that a name below in-addr.arpa stands for (RFC 1035 §3.5); None where it is not one."""
    if not name.endswith(f".{REVERSE_DOMAIN}"):
        return None
    octets = name.removesuffix(f".{REVERSE_DOMAIN}").split(".")
    try:
        return IPv4Address(".".join(reversed(octets)))
    except AddressValueError:
        return None
