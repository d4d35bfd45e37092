"""Addresses: each lies in the subnet, belongs to one owner, and DHCP can give every node one."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

from fleet.spec.document import Key
from fleet.spec.draft import Draft
from fleet.spec.model import SERVICE_NAMES, DhcpMode, DnsMode, Role
from fleet.spec.problems import Severity
from fleet.spec.shape import Finding

_VIP: Key = ("cluster", "k3s", "api_vip")
_POOL: Key = ("network", "pool")


def check_network(draft: Draft) -> Iterator[Finding]:
    """Find addresses that cannot work where they are."""
    claims = _claims(draft)
    yield from _outside(draft, claims)
    yield from _shared(claims)
    yield from _pool(draft, claims)
    yield from _dhcp(draft)
    yield from _dns(draft)
    yield from _ports(draft)


def _claims(draft: Draft) -> list[tuple[Key, IPv4Address, str]]:
    """Every single address of the file with its place and its owner in words, in order of authority."""
    named: list[tuple[Key, IPv4Address | None, str]] = [
        (("network", "gateway"), draft.network.gateway, "the gateway"),
        (("network", "server_address"), draft.network.server_address, "Bramble's server"),
        *((node.at("address"), node.section.address, f"node {node.label}") for node in draft.nodes),
        (_VIP, draft.k3s.api_vip, "the API's virtual address"),
    ]
    return [(key, address, owner) for key, address, owner in named if address is not None]


def _outside(draft: Draft, claims: list[tuple[Key, IPv4Address, str]]) -> Iterator[Finding]:
    subnet = draft.network.subnet
    if subnet is None:
        return
    for key, address, owner in claims:
        if address not in subnet:
            hint = f"Use an address from {subnet[1]} to {subnet[-2]}, or mend the subnet."
            yield Finding(key, f"{address} of {owner} lies outside the subnet {subnet}", hint)
        elif address in (subnet.network_address, subnet.broadcast_address):
            what = "network" if address == subnet.network_address else "broadcast"
            hint = f"Use an address from {subnet[1]} to {subnet[-2]}."
            yield Finding(key, f"{address} of {owner} is the {what} address of {subnet}", hint)


def _shared(claims: list[tuple[Key, IPv4Address, str]]) -> Iterator[Finding]:
    first: dict[IPv4Address, tuple[Key, str]] = {}
    for key, address, owner in claims:
        other_key, other = first.setdefault(address, (key, owner))
        if other_key == key:
            continue
        if {other_key[0], key[0]} == {"nodes"}:
            continue  # two nodes: told with the other duplicates of nodes
        if {other_key[-1], key[-1]} == {"gateway", "server_address"}:
            continue  # a server that is also the network's router
        hint = "A virtual address is one that no machine has." if key == _VIP else "Give one of them another."
        yield Finding(key, f"{address} of {owner} is already the address of {other}", hint)


def _pool(draft: Draft, claims: list[tuple[Key, IPv4Address, str]]) -> Iterator[Finding]:
    pool, subnet, dhcp = draft.network.pool, draft.network.subnet, draft.network.dhcp
    if pool is None:
        return
    if dhcp is not DhcpMode.FULL and not draft.is_faulty(("network", "dhcp")):
        mode = (dhcp or DhcpMode.PROXY).value
        hint = "Write 'dhcp: full' where Bramble is the only DHCP server, or remove the pool."
        yield Finding(_POOL, f"the pool is not used with 'dhcp: {mode}'", hint, Severity.WARNING)
    if subnet is not None:
        usable = f"Use a range between {subnet[1]} and {subnet[-2]}."
        if pool.first not in subnet or pool.last not in subnet:
            yield Finding(_POOL, f"the pool {pool} lies outside the subnet {subnet}", usable)
        elif subnet.network_address in pool or subnet.broadcast_address in pool:
            message = f"the pool {pool} holds the network or broadcast address of {subnet}"
            yield Finding(_POOL, message, usable)
    for key, address, owner in claims:
        if address in pool:
            hint = "Move the address out of the pool, or make the pool smaller."
            yield Finding(key, f"{address} of {owner} lies in the pool {pool}, which others are given", hint)


def _dhcp(draft: Draft) -> Iterator[Finding]:
    network = draft.network
    without = [
        node
        for node in draft.nodes
        if node.section.address is None and not draft.is_faulty(node.at("address"))
    ]
    if network.dhcp is DhcpMode.FULL:
        if (
            without
            and not draft.is_faulty(_POOL)
            and (network.pool is None or len(network.pool) < len(without))
        ):
            room = (
                "there is no pool" if network.pool is None else f"the pool has room for {len(network.pool)}"
            )
            names = ", ".join(node.label for node in without[:5]) + (", …" if len(without) > 5 else "")
            count = "1 node has" if len(without) == 1 else f"{len(without)} nodes have"
            yield Finding(
                ("network", "dhcp"),
                f"{count} no 'address' ({names}) and {room}",
                "Give each node an address, or a 'pool' that is large enough.",
            )
        if network.gateway is None and not draft.is_faulty(("network", "gateway")):
            yield Finding(
                ("network", "dhcp"),
                "no gateway is given, so the boards reach nothing outside the subnet",
                "Add 'gateway:' unless the network is meant to be closed.",
                Severity.WARNING,
            )
    for node in without:
        if node.section.role is Role.SERVER:
            yield Finding(
                node.at("address"),
                f"server {node.label} has no fixed address, by which etcd and joining nodes know it",
                "Add 'address:', so that a new lease does not break the cluster.",
                Severity.WARNING,
            )


def _ports(draft: Draft) -> Iterator[Finding]:
    ports = draft.network.ports
    given = [port for port in (ports.http, ports.control, ports.dashboard) if port] if ports else []
    for port in sorted({port for port in given if given.count(port) > 1}):
        hint = "Leave one of them out: by default they are 7080, 7443 for the control API, and 7444."
        yield Finding(("network", "ports"), f"two servers are given port {port}", hint)
    control = draft.cluster.control
    own = control.dashboard if control else None
    if own is not None and (own.certificate is None) != (own.key is None):
        missing = "key" if own.key is None else "certificate"
        hint = "Name the PEM files of both, or of neither to show the control server's certificate."
        yield Finding(("cluster", "control", "dashboard"), f"the dashboard is given no {missing}", hint)


def _dns(draft: Draft) -> Iterator[Finding]:
    network = draft.network
    if network.dns_server in (None, DnsMode.OFF):
        return
    for node in draft.nodes:
        if node.section.name in SERVICE_NAMES:
            yield Finding(
                node.at("name"),
                f"{node.section.name!r} is a name that Bramble's DNS server gives to one of its own services",
                f"Call the node otherwise; taken are: {', '.join(SERVICE_NAMES)}.",
            )
    asked = [address for address in network.dns or () if address not in (None, network.server_address)]
    if network.dns_server is DnsMode.FORWARD and not asked and not draft.is_faulty(("network", "dns")):
        yield Finding(
            ("network", "dns_server"),
            "there is no other name server that queries could be passed on to",
            "Name one in 'dns:', your router for example, or write 'dns_server: zone'.",
        )
