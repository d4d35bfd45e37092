"""The installer's network: bring a link up, get an address, set it. Needs no iproute2, only ioctl and
sockets.

Owns one UDP socket while it searches. Kernel constants are those of 64-bit Linux (linux/sockios.h,
linux/if.h, linux/route.h).
"""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from pathlib import Path

from agent.dhcp import DhcpClient, Lease
from agent.errors import AgentError
from agent.hardware import Interface

SIOCADDRT = 0x890B
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
SIOCSIFADDR = 0x8916
SIOCSIFNETMASK = 0x891C
IFF_UP = 0x1
IFF_RUNNING = 0x40
RTF_UP_GATEWAY = 0x1 | 0x2

CARRIER_TIMEOUT_S = 40.0
"""A switch port with spanning tree forwards after 30 s; the link itself is there after 3 s."""
ONBOARD_HEAD_START_S = 6.0
"""How long another interface's carrier waits for the on-board one's."""
LEASE_TIMEOUT_S = 60.0
RENEWAL_TIMEOUT_S = 8.0
"""Four requests; whatever the installer does waits meanwhile."""
RENEWAL_PAUSE_S = 60.0
"""Between two renewals at least. Source: RFC 2131 §4.4.5."""
_POLL_S = 0.1

_IFREQ = struct.Struct("16s24s")
_RTENTRY = struct.Struct("@L16s16s16sHhLPhPLLH")
"""struct rtentry: pad, dst, gateway, genmask, flags, pad, pad, pad, metric, dev, mtu, window, irtt."""


def choose_interface(
    find: Callable[[], Sequence[Interface]],
    *,
    has_carrier: Callable[[str], bool] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Interface:
    """Bring all wired interfaces up and take the best that gets a carrier.

    Args:
        find: those that there are now, the best first; one whose driver comes late counts as well.

    Raises:
        AgentError: there is no wired interface, or none gets a carrier within `CARRIER_TIMEOUT_S`.
    """
    probe = has_carrier or is_running
    brought_up: set[str] = set()
    start = clock()
    while True:
        wired = [interface for interface in find() if not interface.wireless]
        for interface in wired:
            if interface.name not in brought_up:
                with contextlib.suppress(AgentError):  # gone again, or it has another name by now
                    set_link_up(interface.name)
                    brought_up.add(interface.name)
        ready = [interface for interface in wired if probe(interface.name)]
        if ready and (ready[0] == wired[0] or clock() - start >= ONBOARD_HEAD_START_S):
            return ready[0]
        if clock() - start >= CARRIER_TIMEOUT_S:
            break
        sleep(_POLL_S)
    if not wired:
        raise AgentError(
            f"the board shows no wired network interface after {CARRIER_TIMEOUT_S:g} s",
            "The installer's kernel may lack the driver; look at the console for 'eth0' or 'end0'.",
        )
    names = ", ".join(interface.name for interface in wired)
    raise AgentError(f"no link on {names} after {CARRIER_TIMEOUT_S:g} s", "Check cable and switch port.")


def acquire_lease(interface: str, mac: str, xid: int, *, timeout_s: float = LEASE_TIMEOUT_S) -> Lease:
    """Get an address by DHCP on an interface that is up. Sets nothing.

    Raises:
        AgentError: no server gave an address within `timeout_s`.
    """
    client = DhcpClient(bytes.fromhex(mac.replace(":", "")), xid)
    deadline = time.monotonic() + timeout_s
    _accept_answers_from_anywhere(interface)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        sock.setblocking(False)
        sock.bind(("", 68))  # no address yet; the device is what binds it
        client.start(time.monotonic())
        while client.lease is None:
            for datagram in client.datagrams_to_send():
                _send(sock, datagram)
            now = time.monotonic()
            if now >= deadline:
                refused = f" ({client.refusals} times a server refused)" if client.refusals else ""
                raise AgentError(
                    f"no DHCP server gave {interface} ({mac}) an address within {timeout_s:g} s{refused}",
                    "Does the router give out addresses? With 'dhcp: full', does the board have a "
                    "reservation, or the pool a free address?",
                )
            due = client.next_timeout()
            wait_s = max(0.0, min(deadline, deadline if due is None else due) - now)
            if select.select([sock], [], [], wait_s)[0]:
                client.receive_datagram(sock.recv(4096), time.monotonic())
            client.handle_timeout(time.monotonic())
    return client.lease


class Connection:
    """An interface with a leased address. Keeping it is left to the owner, who looks often: the installer has
    no background task.

    Args:
        say: told when the address changes, or can not be confirmed.
    """

    def __init__(
        self,
        interface: str,
        mac: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._interface = interface
        self._mac = mac
        self._clock = clock
        self._say = say
        self._due_at = 0.0
        self._address: IPv4Address | None = None

    def refresh(self, xid: int, *, timeout_s: float = LEASE_TIMEOUT_S) -> Lease:
        """Get an address and set it. The server gives the same one again while it knows the board."""
        lease = acquire_lease(self._interface, self._mac, xid, timeout_s=timeout_s)
        configure(self._interface, lease)
        self._address = lease.address
        self._due_at = self._clock() + max(lease.renew_after_s, RENEWAL_PAUSE_S)
        return lease

    def keep(self, xid: int) -> None:
        """Ask for the address again when half of its time is over.

        One that nobody confirms stays in use: who hands it to another would have answered, and an
        installation that is given up leaves a disk without a system.
        """
        if self._clock() < self._due_at:
            return
        before = self._address
        try:
            lease = self.refresh(xid, timeout_s=RENEWAL_TIMEOUT_S)
        except (AgentError, OSError) as exc:
            self._due_at = self._clock() + RENEWAL_PAUSE_S
            self._say(f"{exc}; {before} stays in use")
            return
        if lease.address != before:
            self._say(f"{self._interface} has {lease.address} now, before it was {before}")


def _send(sock: socket.socket, datagram: bytes) -> None:
    try:
        sock.sendto(datagram, ("255.255.255.255", 67))
    except OSError:
        # The link went down for a moment; the retransmission is the remedy.
        return


def set_link_up(interface: str) -> None:
    """IFF_UP; the driver starts negotiating."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        _ioctl(sock, SIOCSIFFLAGS, interface, struct.pack("H", _read_flags(sock, interface) | IFF_UP))


def is_running(interface: str) -> bool:
    """True with a carrier (IFF_RUNNING: operationally up)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return bool(_read_flags(sock, interface) & IFF_RUNNING)


def configure(interface: str, lease: Lease) -> None:
    """Set address, netmask and default route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        _ioctl(sock, SIOCSIFADDR, interface, _sockaddr(lease.address))
        _ioctl(sock, SIOCSIFNETMASK, interface, _sockaddr(lease.netmask))
        if lease.router is None:
            return
        nowhere = IPv4Address(0)
        route = _RTENTRY.pack(
            0,
            _sockaddr(nowhere),
            _sockaddr(lease.router),
            _sockaddr(nowhere),
            RTF_UP_GATEWAY,
            *(0, 0, 0, 0, 0, 0, 0, 0),
        )
        try:
            fcntl.ioctl(sock, SIOCADDRT, route)
        except FileExistsError:
            return  # a renewed lease: the route is already there
        except OSError as exc:
            raise AgentError(
                f"{interface}: the default route over {lease.router} can not be set: {exc}",
                "Is the router of the DHCP answer inside the subnet?",
            ) from exc


def _accept_answers_from_anywhere(interface: str) -> None:
    """Without an address the reverse path filter would drop the server's answer; off while we have none."""
    for name in ("all", interface):
        path = Path("/proc/sys/net/ipv4/conf") / name / "rp_filter"
        try:
            path.write_text("0")
        except OSError:
            continue  # read-only /proc: the kernel's default is off


def _sockaddr(address: IPv4Address) -> bytes:
    """struct sockaddr_in: family (host order), port, address, 8 bytes of padding."""
    return struct.pack("=HH4s8x", socket.AF_INET, 0, address.packed)


def _read_flags(sock: socket.socket, interface: str) -> int:
    flags: int = struct.unpack_from("H", _ioctl(sock, SIOCGIFFLAGS, interface, b""), 16)[0]
    return flags


def _ioctl(sock: socket.socket, request: int, interface: str, argument: bytes) -> bytes:
    """An ioctl on struct ifreq: 16 bytes of name, then a union of 24 bytes."""
    try:
        return fcntl.ioctl(sock, request, _IFREQ.pack(interface.encode(), argument))
    except OSError as exc:
        raise AgentError(f"{interface}: network ioctl {request:#x} failed: {exc}", "Is it there?") from exc
