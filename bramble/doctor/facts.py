"""What the doctor reads of a machine and its network. Values only; None stands for "could not be read"."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from bramble.doctor.firewall import Ruleset
from fleet.spec.model import DhcpMode
from pxe.dhcp.probe import HeardServer
from pxe.net.spanning_tree import Bpdu


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the server is to do, from cluster.yaml; without one only the interface is known."""

    interface: str
    dhcp: DhcpMode | None = None
    subnet: IPv4Network | None = None
    server_address: IPv4Address | None = None
    http_port: int = 7080
    control_port: int = 7443


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFacts:
    """One network interface as the kernel shows it.

    Args:
        speed_mbit: None where the driver does not say.
        is_full_duplex: None where the driver does not say.
        changes: how often the link went up or down since the machine started.
    """

    name: str
    exists: bool = True
    is_up: bool = True
    has_carrier: bool | None = True
    is_wireless: bool = False
    speed_mbit: int | None = 1000
    is_full_duplex: bool | None = True
    mtu: int = 1500
    changes: int = 0
    addresses: tuple[IPv4Address, ...] = ()
    known: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PortFacts:
    """A port that the server needs, and who has it. `holder`: in words; None where it is free."""

    protocol: str
    number: int
    service: str
    holder: str | None
    is_ours: bool = False


@dataclass(frozen=True, slots=True)
class Room:
    """Free space of a directory's file system, bytes."""

    path: str
    free_bytes: int
    total_bytes: int
    free_inodes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """What this user may do. `lowest_port`: of ports without a right (ip_unprivileged_port_start)."""

    may_bind: bool
    may_send_raw: bool
    lowest_port: int = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """`now` and `newest_file`: UTC seconds; the file is the newest that Bramble itself wrote."""

    now: float
    is_synchronised: bool
    newest_file: float | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """Whether one service of a running server answered. `problem`: in words; None where it did."""

    service: str
    seconds: float
    problem: str | None


@dataclass(frozen=True, slots=True)
class LinkDelay:
    """How long the switch's port was silent after link-up. `seconds`: None where nothing came at all.

    `problem`: in words, why it could not be measured.
    """

    seconds: float | None
    waited_s: float
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything."""

    wanted: Wanted
    link: LinkFacts
    ports: tuple[PortFacts, ...]
    rights: Rights
    clock: Clock
    rooms: tuple[Room, ...]
    firewall: Ruleset | None = None
    firewall_problem: str = ""
    servers: tuple[HeardServer, ...] | None = None
    servers_problem: str = ""
    listened_s: float = 0.0
    bpdus: tuple[Bpdu, ...] | None = None
    bpdus_problem: str = ""
    answers: tuple[Answered, ...] | None = None
    link_delay: LinkDelay | None = None
