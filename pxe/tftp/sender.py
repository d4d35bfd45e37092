"""The ways out: packets of one transfer, in as few system calls as there can be.

Packets that lie side by side go to the kernel as one piece, which it (or the network card) cuts
(UDP_SEGMENT). What the kernel does not take now counts as lost on the way: the client or the timer asks
again.
"""

from __future__ import annotations

import logging
import socket
import struct
from ipaddress import IPv4Address
from typing import Final, Protocol

from pxe.net.ports import from_address

log = logging.getLogger(__name__)

UDP_SEGMENT: Final = 103  # linux/udp.h
SEGMENT: Final = struct.Struct("=H")
SEND_BUFFER_BYTES: Final = 1024 * 1024


class Segmentation:
    """Whether the kernel cuts packets; off for good after its first refusal, which depends on kernel and
    device."""

    __slots__ = ("is_on",)

    def __init__(self, is_on: bool) -> None:
        self.is_on = is_on

    def refused(self, error: OSError) -> None:
        log.info("UDP segmentation is not available", extra={"error": error.strerror})
        self.is_on = False


class Channel(Protocol):
    """Sends the packets of one transfer."""

    def send(self, packets: bytes | memoryview, size: int) -> None:
        """Send packets that lie side by side, `size` bytes each but the last.

        Raises:
            ConnectionRefusedError: the client has closed its port.
        """

    def close(self) -> None:
        """Give back what it holds open."""


class ConnectedChannel:
    """A socket of its own, connected to the client: the kernel finds the transfer of a packet.

    Args:
        sock: connected; belongs to the channel.
        segmentation: shared by all channels of a worker.
        segment_bytes: of a DATA packet, where several go out at a time; None in lock-step.
    """

    __slots__ = ("_segmentation", "sock")

    def __init__(self, sock: socket.socket, segmentation: Segmentation, segment_bytes: int | None) -> None:
        self.sock = sock
        self._segmentation = segmentation
        if segment_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            if segmentation.is_on:
                try:
                    sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, segment_bytes)
                except OSError as error:
                    segmentation.refused(error)

    def send(self, packets: bytes | memoryview, size: int) -> None:
        try:
            if len(packets) <= size or self._segmentation.is_on:
                self.sock.send(packets)
                return
        except (BlockingIOError, ConnectionRefusedError):
            raise
        except OSError as error:
            if len(packets) <= size:
                raise
            self._segmentation.refused(error)
            self.sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
        for start in range(0, len(packets), size):
            self.sock.send(packets[start : start + size])

    def close(self) -> None:
        self.sock.close()


class SharedChannel:
    """The listening socket, for networks where only one port of the server can be reached.

    Args:
        sock: stays the worker's own.
        peer: the client.
        ours: the address that it asked at.
        segmentation: as above.
    """

    __slots__ = ("_ancillary", "_peer", "_segmentation", "_sock")

    def __init__(
        self,
        sock: socket.socket,
        peer: tuple[str, int],
        ours: IPv4Address | None,
        segmentation: Segmentation,
    ) -> None:
        self._sock = sock
        self._peer = peer
        self._ancillary = [from_address(ours)] if ours is not None else []
        self._segmentation = segmentation

    def send(self, packets: bytes | memoryview, size: int) -> None:
        if len(packets) <= size:
            self._sock.sendmsg((packets,), self._ancillary, 0, self._peer)
            return
        if self._segmentation.is_on:
            cut = (socket.IPPROTO_UDP, UDP_SEGMENT, SEGMENT.pack(size))
            try:
                self._sock.sendmsg((packets,), [*self._ancillary, cut], 0, self._peer)
                return
            except BlockingIOError:
                raise
            except OSError as error:
                self._segmentation.refused(error)
        for start in range(0, len(packets), size):
            self._sock.sendmsg((packets[start : start + size],), self._ancillary, 0, self._peer)

    def close(self) -> None:
        pass  # the socket is everybody's
