"""Run by tests inside a network namespace of its own: a switch with spanning tree, a foreign DHCP server
behind
it, a firewall that drops, and the doctor at the other end of a cable.

``unshare --user --map-root-user --net --mount python doctor_in_namespace.py WORD…``

Words: ``stp`` switches spanning tree on, ``foreign`` starts the other DHCP server, ``firewall`` drops DHCP
and TFTP, ``bounce`` switches the doctor's link off and on, ``tftpd`` lets a program hold port 69. Prints the
checks as JSON.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from bramble.doctor.checks import run_checks
from bramble.doctor.facts import Wanted
from bramble.doctor.gather import bounce_link, gather
from bramble.doctor.report import as_json
from fleet.spec.model import DhcpMode
from pxe.dhcp.wire import DhcpMessage, MessageType, Op, Option, parse_request

ROUTER = IPv4Address("10.77.0.254")
RULES = """
table inet filter {
    chain input {
        type filter hook input priority 0; policy accept;
        ct state vmap { established : accept, invalid : drop }
        iifname "d0" udp dport { 67, 69 } counter drop
    }
}
"""


def run(command: str) -> None:
    subprocess.run(command.split(), check=True)


def wait_until_forwarding() -> None:
    """Listening and learning take the switch's port four seconds. Source: linux/if_bridge.h."""
    state = Path("/sys/class/net/d1/brport/state")
    deadline = time.monotonic() + 20
    while state.read_text().strip() != "3":
        if time.monotonic() > deadline:
            raise TimeoutError("the switch's port does not forward")
        time.sleep(0.05)


def answer_for_ever(sock: socket.socket) -> None:
    """A router that gives addresses, and names a boot server of its own."""
    while True:
        question = parse_request(sock.recv(2048))
        offer = DhcpMessage(
            op=Op.REPLY,
            message_type=MessageType.OFFER,
            xid=question.xid,
            chaddr=question.chaddr,
            flags=question.flags,
            yiaddr=ROUTER - 1,
            options=((Option.SERVER_ID, ROUTER.packed), (Option.TFTP_SERVER, b"10.77.0.66")),
        )
        sock.sendto(offer.encode(300), ("255.255.255.255", 68))


def main(words: list[str]) -> None:
    for command in (
        "mount -t sysfs sysfs /sys",  # of this namespace's interfaces
        "ip link set lo up",
        "ip link add sw0 type bridge",
        f"ip address add {ROUTER}/24 dev sw0",
        "ip link add d0 type veth peer name d1",
        "ip link set d1 master sw0",
        "ip address add 10.77.0.1/24 dev d0",
    ):
        run(command)
    # Both ends of the cable are in one namespace: a sender's address that is local is no forgery here.
    for interface in ("all", "d0", "sw0"):
        settings = Path(f"/proc/sys/net/ipv4/conf/{interface}")
        (settings / "accept_local").write_text("1")
        (settings / "rp_filter").write_text("0")
    if "stp" in words:
        run("ip link set sw0 type bridge stp_state 1 hello_time 100 forward_delay 200")
    for name in ("sw0", "d1", "d0"):
        run(f"ip link set {name} up")
    wait_until_forwarding()
    with contextlib.ExitStack() as stack:
        if "foreign" in words:
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"sw0")
            sock.bind(("", 67))
            threading.Thread(target=answer_for_ever, args=(sock,), daemon=True).start()
        if "tftpd" in words:
            other = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            other.bind(("", 69))
        if "firewall" in words:
            subprocess.run(["nft", "-f", "-"], input=RULES.encode(), check=True)
        wanted = Wanted(
            interface="d0",
            dhcp=DhcpMode.FULL,
            subnet=IPv4Network("10.77.0.0/24"),
            server_address=IPv4Address("10.77.0.1"),
        )
        delay = bounce_link("d0", 15.0) if "bounce" in words else None
        facts = replace(gather(wanted, None, Path("/"), 5.0), link_delay=delay)
        print(json.dumps(as_json(run_checks(facts))))


if __name__ == "__main__":
    main(sys.argv[1:])
