"""Does the switch port run spanning tree? Its BPDUs say so, and how long a port waits after link-up.

Layout behind the Ethernet and LLC headers (42 42 03):

    0–1 protocol 0 · 2 version · 3 type · 4 flags · 5–12 root · 13–16 cost · 17–24 bridge · 25–26 port
    27–28 message age · 29–30 maximum age · 31–32 hello time · 33–34 forward delay (1/256 s)

Source: IEEE 802.1D-2004 §9.3.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from dataclasses import dataclass
from typing import Final

from pxe.errors import PxeError

GROUP: Final = bytes.fromhex("0180c2000000")  # bridge group address
LLC: Final = bytes.fromhex("424203")
ETHERNET_BYTES: Final = 14
CONFIGURATION_BYTES: Final = 35
_SOL_PACKET: Final = 263  # linux/socket.h
_PACKET_ADD_MEMBERSHIP: Final = 1  # linux/if_packet.h
_PACKET_MR_MULTICAST: Final = 0
_ETH_P_ALL: Final = 3
_MAXIMUM_FRAME: Final = 2048


@dataclass(frozen=True, slots=True)
class Bpdu:
    """A configuration message of a bridge. `version`: 0 STP, 2 RSTP, 3 MSTP."""

    version: int
    forward_delay_s: float

    @property
    def name(self) -> str:
        return {0: "STP", 2: "RSTP", 3: "MSTP"}.get(self.version, f"version {self.version}")

    @property
    def wait_s(self) -> float:
        """How long a port that is no edge port (portfast) waits: listening, then learning."""
        return 2 * self.forward_delay_s


def parse_bpdu(frame: bytes) -> Bpdu | None:
    """The message in an Ethernet frame; None for other frames, and for notes without timers."""
    body = frame[ETHERNET_BYTES + len(LLC) :]
    if frame[:6] != GROUP or frame[ETHERNET_BYTES : ETHERNET_BYTES + len(LLC)] != LLC:
        return None
    if len(body) < CONFIGURATION_BYTES or body[:2] != b"\0\0":
        return None
    (delay,) = struct.unpack_from("!H", body, 33)
    return Bpdu(body[2], delay / 256)


def listen_for_bpdus(interface: str, listen_s: float) -> tuple[Bpdu, ...]:
    """The BPDUs of an interface within some seconds; a bridge sends one every two. Listens, sends nothing.

    Raises:
        PxeError: packets can not be read: that takes root, or the capability cap_net_raw.
    """
    found: list[Bpdu] = []
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)) as sock:
            sock.bind((interface, _ETH_P_ALL))
            index = socket.if_nametoindex(interface)
            member = struct.pack("iHH8s", index, _PACKET_MR_MULTICAST, len(GROUP), GROUP)
            sock.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, member)
            until = time.monotonic() + listen_s
            while (left_s := until - time.monotonic()) > 0 and not found:
                if select.select([sock], [], [], left_s)[0]:
                    bpdu = parse_bpdu(sock.recv(_MAXIMUM_FRAME))
                    if bpdu is not None:
                        found.append(bpdu)
    except OSError as error:
        raise PxeError(
            f"packets of {interface} can not be read: {error.strerror}",
            "This takes root, or the capability cap_net_raw.",
        ) from error
    return tuple(found)
