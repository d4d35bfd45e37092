"""How long does a switch port keep silent after link-up? Measured: the first packet that comes through.

While a port listens and learns (spanning tree), nothing passes but the switch's own messages to the group
addresses 01:80:c2:00:00:00–0f, which bridges never forward (IEEE 802.1D-2004 §7.12.6). DISCOVERs are sent all
the time so that there is something to answer. A switch may need a moment to notice that the link was gone:
what slips through before is not counted, packets count from where they come steadily.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pxe.dhcp.probe import make_discover
from pxe.errors import PxeError
from pxe.net.dhcp_probe import client_socket, send_question

RESERVED: Final = bytes.fromhex("0180c20000")
ASK_EVERY_S: Final = 0.5
STEADY_S: Final = 2.5
GAP_S: Final = 1.2  # of silence, with a question every half second: the port is shut
CARRIER_S: Final = 20.0
_ETH_P_ALL: Final = 3  # linux/if_ether.h
_PACKET_OUTGOING: Final = 4  # linux/if_packet.h
_MAXIMUM_FRAME: Final = 2048


def measure_link_delay(
    interface: str, mac: bytes, xid: int, bounce: Callable[[], None], limit_s: float
) -> float | None:
    """Seconds from link-up until packets come steadily; None where they did not within `limit_s`.

    Args:
        interface: its name.
        mac: six bytes, the client that asks.
        xid: 32 bits.
        bounce: switches the interface off and on; called once everything listens.
        limit_s: seconds to wait for a packet.

    Raises:
        PxeError: a right is missing, the port of DHCP clients is taken, or the link does not come back.
    """
    question = make_discover(mac, xid, is_pxe=False).encode()
    with client_socket(interface) as asking, _listener(interface) as listening:
        bounce()
        up_at = _wait_for_carrier(interface)
        _drain(listening)
        ask_at = up_at
        first_at = last_at = 0.0
        while (now := time.monotonic()) < up_at + limit_s:
            if first_at and now - first_at >= STEADY_S:
                return first_at - up_at
            if now >= ask_at:
                send_question(asking, question, interface)
                ask_at = now + ASK_EVERY_S
            if select.select([listening], [], [], max(min(ask_at, up_at + limit_s) - now, 0))[0]:
                frame, (_name, _protocol, kind, *_rest) = listening.recvfrom(_MAXIMUM_FRAME)
                if kind != _PACKET_OUTGOING and frame[:5] != RESERVED:
                    last_at = time.monotonic()
                    first_at = first_at or last_at
            if first_at and time.monotonic() - last_at > GAP_S:
                first_at = 0.0
    return None


def _listener(interface: str) -> socket.socket:
    try:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        sock.bind((interface, _ETH_P_ALL))
    except OSError as error:
        raise PxeError(
            f"packets of {interface} can not be read: {error.strerror}",
            "This takes root, or the capability cap_net_raw.",
        ) from error
    return sock


def _wait_for_carrier(interface: str) -> float:
    deadline = time.monotonic() + CARRIER_S
    carrier = Path(f"/sys/class/net/{interface}/carrier")
    while time.monotonic() < deadline:
        try:
            if carrier.read_text("ascii").strip() == "1":
                return time.monotonic()
        except OSError:  # the interface is still off
            pass
        time.sleep(0.02)
    raise PxeError(f"the link of {interface} did not come back within {CARRIER_S:.0f} s", "Is the cable in?")


def _drain(sock: socket.socket) -> None:
    """Frames from before the link was up say nothing."""
    while select.select([sock], [], [], 0)[0]:
        try:
            sock.recv(_MAXIMUM_FRAME)
        except OSError:  # ENETDOWN, once, of the moment when the interface was off
            return
