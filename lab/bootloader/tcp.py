"""A TCP client as small as a boot loader's: one connection, one request out, a stream in.

It takes segments in order and drops what comes early, acknowledges every segment, and repeats what is not
acknowledged. Pure: frames and `now` in, frames out.

Source: RFC 9293; the window and the intervals are ours.
"""

from __future__ import annotations

from typing import Final

from lab.bootloader.tftp import Link
from lab.frames import Tcp, TcpFlag, render_tcp

MSS_BYTES: Final = 1460
WINDOW_BYTES: Final = 65535
RESEND_S: Final = 1.0
_MODULUS: Final = 1 << 32


class TcpConnection:
    """One connection, opened at once, closed by the peer.

    Args:
        link: What is below.
        port, server_port: Ours and theirs.
        sequence: Our initial sequence number: random, 32 bits.
        request: Bytes to send once it stands; they fit in one segment.
        now: Seconds, monotonic.

    Attributes:
        to_send: Frames; the owner empties it.
        received: The stream's new bytes; the owner empties it.
        closed: The peer has sent everything that it will.
        refused: The peer has reset the connection.
    """

    def __init__(
        self, link: Link, *, port: int, server_port: int, sequence: int, request: bytes, now: float
    ) -> None:
        self.to_send: list[bytes] = []
        self.received = bytearray()
        self.closed = False
        self.refused = False
        self.port = port
        self._link = link
        self._server_port = server_port
        self._sequence = sequence
        self._unacknowledged: tuple[TcpFlag, bytes] | None = None
        self._expected: int | None = None
        self._request = request
        self._resend_at = now
        self._send_reliably(TcpFlag.SYN, b"", now)

    def next_timeout(self) -> float | None:
        """When something has to be repeated; None where everything was acknowledged."""
        return self._resend_at if self._unacknowledged is not None else None

    def handle_timeout(self, now: float) -> None:
        if self._unacknowledged is not None and now >= self._resend_at:
            self._resend_at = now + RESEND_S
            self._send(*self._unacknowledged)

    def receive(self, segment: Tcp, now: float) -> None:
        """Take a segment of this connection."""
        if self.closed or self.refused:
            if segment.payload or segment.flags & TcpFlag.FIN:
                self._send(TcpFlag.ACK, b"")
            return
        if segment.flags & TcpFlag.RST:
            self.refused = True
            return
        if self._expected is None:
            if segment.flags & (TcpFlag.SYN | TcpFlag.ACK) != TcpFlag.SYN | TcpFlag.ACK:
                return
            if segment.acknowledgement != (self._sequence + 1) % _MODULUS:
                return
            self._expected = (segment.sequence + 1) % _MODULUS
            self._sequence = segment.acknowledgement
            self._send_reliably(TcpFlag.ACK | TcpFlag.PSH, self._request, now)
            return
        if self._unacknowledged is not None and segment.flags & TcpFlag.ACK:
            end = (self._sequence + len(self._unacknowledged[1])) % _MODULUS
            if segment.acknowledgement == end:
                self._sequence = end
                self._unacknowledged = None
        self._take(segment)

    def abort(self) -> None:
        """Give the connection up."""
        if not self.refused:
            self._send(TcpFlag.RST | TcpFlag.ACK, b"")
            self.refused = True

    def _take(self, segment: Tcp) -> None:
        is_ours = segment.payload or segment.flags & TcpFlag.FIN
        if segment.sequence == self._expected:
            self.received += segment.payload
            ends = int(bool(segment.flags & TcpFlag.FIN))
            self._expected = (segment.sequence + len(segment.payload) + ends) % _MODULUS
            if ends:
                self.closed = True
                self._send(TcpFlag.ACK | TcpFlag.FIN, b"")
                return
        if is_ours:
            self._send(TcpFlag.ACK, b"")

    def _send_reliably(self, flags: TcpFlag, payload: bytes, now: float) -> None:
        self._unacknowledged = (flags, payload)
        self._resend_at = now + RESEND_S
        self._send(flags, payload)

    def _send(self, flags: TcpFlag, payload: bytes) -> None:
        link = self._link
        self.to_send.append(
            render_tcp(
                Tcp(
                    source_mac=link.mac,
                    target_mac=link.next_hop_mac,
                    source_ip=link.address,
                    target_ip=link.server,
                    source_port=self.port,
                    target_port=self._server_port,
                    sequence=self._sequence,
                    acknowledgement=self._expected or 0,
                    flags=flags,
                    window=WINDOW_BYTES,
                    payload=payload,
                    mss_bytes=MSS_BYTES if flags & TcpFlag.SYN else None,
                )
            )
        )
