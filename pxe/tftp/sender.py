"""Sending a window of packets in few system calls."""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Sequence
from typing import Final

from pxe.tftp.session import Datagram

log = logging.getLogger(__name__)

UDP_SEGMENT: Final = 103  # linux/udp.h
MAXIMUM_SEGMENTS: Final = 64  # UDP_MAX_SEGMENTS of kernels before 6.9
MAXIMUM_GSO_BYTES: Final = 65_000
SMALLEST_WINDOW: Final = 3  # below, plain packets cost no more


class PacketSender:
    """Sends datagrams on connected sockets; gathers windows into one packet that the kernel cuts
    (UDP_SEGMENT).

    Args:
        use_gso: whether to try; off for good after the first refusal of the kernel or of the device.
    """

    def __init__(self, use_gso: bool) -> None:
        self._use_gso = use_gso

    def send(self, sock: socket.socket, datagrams: Sequence[Datagram], segment_bytes: int) -> None:
        """Send packets, of which all but the last are `segment_bytes` long if there are several.

        What the kernel does not take now counts as lost on the way: the client or the timer asks again.
        """
        try:
            if len(datagrams) >= SMALLEST_WINDOW and self._use_gso:
                self._send_segmented(sock, datagrams, segment_bytes)
            else:
                for datagram in datagrams:
                    sock.sendmsg(datagram.buffers)
        except OSError as error:
            log.debug("TFTP packet not sent", extra={"error": error.strerror})

    def _send_segmented(self, sock: socket.socket, datagrams: Sequence[Datagram], segment_bytes: int) -> None:
        step = max(1, min(MAXIMUM_SEGMENTS, MAXIMUM_GSO_BYTES // segment_bytes))
        control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", segment_bytes))]
        for start in range(0, len(datagrams), step):
            part = datagrams[start : start + step]
            buffers = [buffer for datagram in part for buffer in datagram.buffers]
            try:
                sock.sendmsg(buffers, control if len(part) > 1 else [])
            except (BlockingIOError, ConnectionRefusedError):
                raise
            except OSError as error:  # EINVAL, EIO, EOPNOTSUPP or EMSGSIZE, by kernel and device
                log.info("UDP segmentation is not available", extra={"error": error.strerror})
                self._use_gso = False
                for datagram in datagrams[start:]:
                    sock.sendmsg(datagram.buffers)
                return
