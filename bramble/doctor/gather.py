"""Reads the facts of this machine and its network. Changes nothing; what needs a right says so when it
lacks it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import ssl
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final, TypeVar

from agent.health import is_clock_synchronised
from bramble.doctor.facts import Answered, Clock, Facts, LinkDelay, LinkFacts, PortFacts, Rights, Room, Wanted
from bramble.doctor.firewall import Ruleset, parse_iptables, parse_nft
from fleet.admin_client import FleetReader, NoServerError
from fleet.errors import FleetError
from fleet.spec.model import DhcpMode
from imagebuilder.errors import ImageBuilderError
from imagebuilder.runner import find_tool, run
from pxe.dhcp.probe import HeardServer
from pxe.errors import PxeError
from pxe.net.dhcp_probe import find_servers
from pxe.net.interfaces import find_address, find_state
from pxe.net.link_delay import measure_link_delay
from pxe.net.ports import find_holder
from pxe.net.spanning_tree import Bpdu, listen_for_bpdus

SYS: Final = Path("/sys/class/net")
PROC: Final = Path("/proc")
CAP_NET_BIND_SERVICE: Final = 10  # linux/capability.h
CAP_NET_RAW: Final = 13
ANSWER_S: Final = 3.0
BPDU_S: Final = 4.5  # two hello times and a little
COMMAND_S: Final = 10.0
LINK_DELAY_S: Final = 50.0  # spanning tree takes 30
OFF_S: Final = 2.5  # a switch does not notice a link that is gone for a moment only
NO_MAC: Final = "02:00:00:00:00:00"
NOT_THERE: Final = "bramble-doctor/is-not-there"

Value = TypeVar("Value")


def gather(wanted: Wanted, state: Path | None, cache: Path, listen_s: float) -> Facts:
    """Read everything that this user may read.

    Args:
        wanted: what the server is to do.
        state: the cluster's state directory; None without a cluster.yaml.
        cache: where bases and images are.
        listen_s: seconds to wait for answers of DHCP servers; 0 asks nobody.
    """
    link = read_link(wanted.interface)
    answers = ask_server(wanted, state, link) if state is not None else None
    servers: tuple[HeardServer, ...] | None = None
    bpdus: tuple[Bpdu, ...] | None = None
    servers_problem = bpdus_problem = "nobody was asked"
    if link.exists and listen_s > 0:
        servers, servers_problem = _try(lambda: _find_servers(link.name, listen_s))
        bpdus, bpdus_problem = _try(lambda: listen_for_bpdus(link.name, min(listen_s, BPDU_S)))
    firewall, firewall_problem = read_firewall()
    return Facts(
        wanted=wanted,
        link=link,
        ports=read_ports(wanted, is_serving=answers is not None),
        rights=read_rights(),
        clock=read_clock(state),
        rooms=read_rooms(tuple(path for path in (state, cache) if path is not None)),
        firewall=firewall,
        firewall_problem=firewall_problem,
        servers=servers,
        servers_problem=servers_problem,
        listened_s=listen_s,
        bpdus=bpdus,
        bpdus_problem=bpdus_problem,
        answers=answers,
    )


def bounce_link(interface: str, limit_s: float = LINK_DELAY_S) -> LinkDelay:
    """Switch an interface off and on, and measure how long its port is silent. Its routes are put back."""

    def bounce() -> None:
        run(["ip", "link", "set", "dev", interface, "down"], timeout_s=COMMAND_S)
        time.sleep(OFF_S)
        run(["ip", "link", "set", "dev", interface, "up"], timeout_s=COMMAND_S)

    try:
        routes = run(["ip", "-4", "route", "show", "dev", interface], timeout_s=COMMAND_S).stdout.decode()
    except ImageBuilderError as error:
        return LinkDelay(None, 0.0, error.message)
    mac = bytes.fromhex((_text(SYS / interface / "address") or NO_MAC).replace(":", ""))
    try:
        seconds = measure_link_delay(interface, mac, secrets.randbits(32), bounce, limit_s)
        return LinkDelay(seconds, limit_s)
    except (PxeError, ImageBuilderError) as error:
        return LinkDelay(None, 0.0, error.message)
    finally:
        for route in routes.splitlines():
            if "proto kernel" not in route:  # those the kernel has put back by itself
                run(
                    ["ip", "-4", "route", "replace", *route.split(), "dev", interface],
                    check=False,
                    timeout_s=COMMAND_S,
                )


def read_link(name: str) -> LinkFacts:
    """An interface: its state by ioctl, the rest from /sys, where that shows it (not in the lab's namespace).

    Source: Documentation/ABI/testing/sysfs-class-net of Linux.
    """
    known = tuple(interface for _index, interface in socket.if_nameindex())
    state = find_state(name)
    if name not in known or state is None:
        return LinkFacts(name=name, exists=False, known=known)
    folder = SYS / name
    carrier, speed = _text(folder / "carrier"), _number(folder / "speed")
    if carrier is None and state.is_up and not folder.exists():
        carrier = "1" if state.is_running else "0"
    address = find_address(name)
    return LinkFacts(
        name=name,
        is_up=state.is_up,
        has_carrier=None if carrier is None else carrier == "1",
        is_wireless=(folder / "wireless").exists() or (folder / "phy80211").exists(),
        speed_mbit=speed if speed is not None and speed > 0 else None,
        is_full_duplex={"full": True, "half": False}.get(_text(folder / "duplex") or ""),
        mtu=state.mtu,
        changes=_number(folder / "carrier_changes") or 0,
        addresses=(address,) if address is not None else (),
        known=known,
    )


def read_ports(wanted: Wanted, *, is_serving: bool) -> tuple[PortFacts, ...]:
    """Who has the ports that the server needs."""
    needed = [("udp", 69, "TFTP"), ("tcp", wanted.http_port, "HTTP"), ("tcp", wanted.control_port, "control")]
    if wanted.dhcp is not DhcpMode.OFF:
        needed.insert(0, ("udp", 67, "DHCP"))
    found: list[PortFacts] = []
    for protocol, number, service in needed:
        holder = find_holder(number, protocol)
        if holder is None and _is_open(protocol, number):
            holder = "a program of another user"
        found.append(PortFacts(protocol, number, service, holder, is_serving and holder is not None))
    return tuple(found)


def read_rights() -> Rights:
    """Capabilities of this process. Source: proc(5), CapEff in /proc/PID/status."""
    status = _text(PROC / "self/status") or ""
    line = next((line for line in status.splitlines() if line.startswith("CapEff:")), "CapEff: 0")
    capabilities = int(line.split()[1], 16)
    return Rights(
        may_bind=bool(capabilities >> CAP_NET_BIND_SERVICE & 1),
        may_send_raw=bool(capabilities >> CAP_NET_RAW & 1),
        lowest_port=_number(PROC / "sys/net/ipv4/ip_unprivileged_port_start") or 1024,
    )


def read_clock(state: Path | None) -> Clock:
    """The clock, and the newest of the files that only a running server writes."""
    written: list[float] = []
    if state is not None and state.is_dir():
        written = [entry.stat().st_mtime for entry in state.iterdir() if entry.is_file()]
    return Clock(
        now=time.time(), is_synchronised=is_clock_synchronised(), newest_file=max(written, default=None)
    )


def read_rooms(paths: tuple[Path, ...]) -> tuple[Room, ...]:
    """Free space, once for each file system; a directory that is not there yet counts as its parent."""
    rooms: dict[int, Room] = {}
    for path in paths:
        existing = next(place for place in (path, *path.parents) if place.exists())
        usage, inodes = shutil.disk_usage(existing), os.statvfs(existing)
        free_inodes = inodes.f_favail if inodes.f_files else None
        room = Room(str(existing), usage.free, usage.total, free_inodes)
        rooms.setdefault(existing.stat().st_dev, room)
    return tuple(rooms.values())


def read_firewall() -> tuple[Ruleset | None, str]:
    """The rules, and in words why they could not be read."""
    for argv, parse in ((["nft", "-j", "list", "ruleset"], parse_nft), (["iptables-save"], parse_iptables)):
        if find_tool(argv[0]) is None:
            continue
        try:
            return parse(run(argv, timeout_s=COMMAND_S).stdout.decode("utf-8", "replace")), ""
        except ImageBuilderError:
            problem = f"'{' '.join(argv)}' is not allowed for this user"
        except (ValueError, KeyError, TypeError, LookupError):
            problem = f"the answer of '{' '.join(argv)}' was not understood"
        return None, problem
    return None, "neither nft nor iptables-save is installed"


def ask_server(wanted: Wanted, state: Path, link: LinkFacts) -> tuple[Answered, ...] | None:
    """Whether every service of the running server answers; None where no server runs."""
    try:
        FleetReader(state).summary()
    except NoServerError:
        return None
    except FleetError as error:
        return (Answered("control socket", 0.0, error.message),)
    address = wanted.server_address or next(iter(link.addresses), None)
    if address is None:
        return (Answered("control socket", 0.0, None),)
    return (
        _timed("TFTP", lambda: _ask_tftp(address)),
        _timed("HTTP", lambda: _ask_tcp(address, wanted.http_port)),
        _timed("control", lambda: _ask_tls(address, wanted.control_port)),
    )


def _find_servers(interface: str, listen_s: float) -> tuple[HeardServer, ...]:
    own = bytes.fromhex((_text(SYS / interface / "address") or NO_MAC).replace(":", ""))
    # As this machine (a router with a list of known clients answers it) and as a PXE client nobody knows.
    stranger = b"\x02" + secrets.token_bytes(5)
    return find_servers(interface, ((own, False), (stranger, True)), secrets.randbits(32), listen_s)


def _try(read: Callable[[], Value]) -> tuple[Value | None, str]:
    try:
        return read(), ""
    except PxeError as error:
        return None, error.message


def _timed(service: str, ask: Callable[[], str | None]) -> Answered:
    started = time.monotonic()
    try:
        problem = ask()
    except OSError as error:
        problem = error.strerror or str(error) or "no answer"
    return Answered(service, time.monotonic() - started, problem)


def _ask_tftp(address: IPv4Address) -> str | None:
    """A file that is not there is answered "not found" at once, or something is wrong."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(ANSWER_S)
        sock.sendto(b"\0\1" + NOT_THERE.encode() + b"\0octet\0", (str(address), 69))
        answer = sock.recv(600)
    return None if answer[:4] == b"\0\5\0\1" else f"it says {answer[:40]!r}"


def _ask_tcp(address: IPv4Address, port: int) -> str | None:
    with socket.create_connection((str(address), port), ANSWER_S) as sock:
        sock.sendall(b"HEAD /bramble-doctor HTTP/1.0\r\n\r\n")
        answer = sock.recv(600)
    return None if answer.startswith(b"HTTP/1.") else f"it says {answer[:40]!r}"


def _ask_tls(address: IPv4Address, port: int) -> str | None:
    """A handshake; whose certificate it is, the nodes check."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection((str(address), port), ANSWER_S) as sock,
        context.wrap_socket(sock) as secured,
    ):
        return None if secured.version() else "no TLS"


def _is_open(protocol: str, number: int) -> bool:
    """Whether somebody has the port, also where /proc hides who."""
    table = (PROC / "net" / protocol, PROC / "net" / f"{protocol}6")
    for path in table:
        for line in (_text(path) or "").splitlines()[1:]:
            columns = line.split()
            is_listening = protocol == "udp" or columns[3] == "0A"  # TCP_LISTEN
            if is_listening and int(columns[1].rpartition(":")[2], 16) == number:
                return True
    return False


def _text(path: Path) -> str | None:
    try:
        return path.read_text("ascii", "replace").strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    try:
        return int(text) if text else None
    except ValueError:
        return None
