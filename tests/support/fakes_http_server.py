"""A web server as a pure model: TCP segments in, TCP segments out, on a virtual clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fakes_boot_server import SERVER_MAC, ModelServer

from lab.frames import Tcp, TcpFlag, parse_frame, render_tcp

SEGMENT_BYTES = 1460
WINDOW_SEGMENTS = 8
ISS = 5000
Responder = Callable[[str, Mapping[str, str]], bytes]


@dataclass
class _Connection:
    """`stream`: what is sent after the request has come, the answer and its end."""

    board: Tcp
    expected: int
    request: bytes = b""
    stream: bytes | None = None
    acked: int = 0
    cut: bool = False


def answer(status: str, body: bytes = b"", **headers: str) -> bytes:
    """An HTTP answer; a `Content-Length` unless one is given."""
    fields = {"Content-Length": str(len(body)), **{k.replace("_", "-"): v for k, v in headers.items()}}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


class ModelWebServer(ModelServer):
    """DHCP, ARP and TFTP like its parent; and HTTP on `port`, from `pages`.

    Attributes:
        pages: Path → content, or a function of path and headers that gives the whole answer.
        asked: Paths with their Range, in order.
        cut_after: The first connection that has sent as many bytes of its answer is closed there.
    """

    def __init__(
        self, pages: Mapping[str, bytes | Responder], *, port: int = 80, offers_boot: bool = False
    ) -> None:
        super().__init__({}, offers_boot=offers_boot)
        self.pages = dict(pages)
        self.port = port
        self.asked: list[str] = []
        self.cut_after: int | None = None
        self._connections: dict[int, _Connection] = {}

    def receive(self, frame: bytes) -> list[bytes]:
        packet = parse_frame(frame)
        if not isinstance(packet, Tcp):
            return super().receive(frame)
        if packet.target_port != self.port:
            return [self._segment(packet, TcpFlag.RST | TcpFlag.ACK, 0, packet.sequence + 1)]
        return self._tcp(packet)

    def resend(self) -> list[bytes]:
        frames = super().resend()
        for connection in self._connections.values():
            if connection.stream is None:
                continue
            frames += self._window(connection)
        return frames

    def find_page(self, path: str) -> bytes | Responder | None:
        """What is served under a path over HTTP; None for 404."""
        return self.pages.get(path)

    def _tcp(self, packet: Tcp) -> list[bytes]:
        if packet.flags & TcpFlag.RST:
            self._connections.pop(packet.source_port, None)
            return []
        if packet.flags & TcpFlag.SYN:
            self._connections[packet.source_port] = _Connection(packet, packet.sequence + 1)
            return [self._segment(packet, TcpFlag.SYN | TcpFlag.ACK, ISS, packet.sequence + 1)]
        connection = self._connections.get(packet.source_port)
        if connection is None:
            return []
        if packet.payload and packet.sequence == connection.expected:
            connection.request += packet.payload
            connection.expected = (packet.sequence + len(packet.payload)) % 2**32
            if connection.request.endswith(b"\r\n\r\n"):
                connection.stream = self._respond(connection)
        if connection.stream is None:
            return []
        acked = packet.acknowledgement - ISS - 1
        if acked > len(connection.stream):
            del self._connections[packet.source_port]
            return []
        moved = acked > connection.acked
        connection.acked = max(acked, connection.acked)
        return self._window(connection) if moved or packet.payload else []

    def _window(self, connection: _Connection) -> list[bytes]:
        """Everything from the first unacknowledged byte on, up to the window; the end closes."""
        stream = connection.stream or b""
        frames = []
        start = connection.acked
        for _ in range(WINDOW_SEGMENTS):
            piece = stream[start : start + SEGMENT_BYTES]
            ends = start + len(piece) == len(stream)
            flags = TcpFlag.ACK | (TcpFlag.FIN if ends else TcpFlag.PSH)
            sequence = ISS + 1 + start
            frames.append(self._segment(connection.board, flags, sequence, connection.expected, piece))
            if ends:
                break
            start += SEGMENT_BYTES
        return frames

    def _respond(self, connection: _Connection) -> bytes:
        line, *rest = connection.request.decode().split("\r\n")
        path = line.split(" ")[1]
        headers = dict(part.lower().split(": ", 1) for part in rest if part)
        wanted = headers.get("range", "")
        self.asked.append(path + (f" {wanted}" if wanted else ""))
        page = self.find_page(path)
        if page is None:
            return answer("404 Not Found", b"no\n")
        if not isinstance(page, bytes):
            return page(path, headers)
        if wanted:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            span = f"bytes {start}-{len(page) - 1}/{len(page)}"
            return answer("206 Partial Content", page[start:], Content_Range=span)
        whole = answer("200 OK", page)
        if self.cut_after is not None and len(whole) > self.cut_after:
            whole, self.cut_after = whole[: self.cut_after], None
        return whole

    @staticmethod
    def _segment(
        board: Tcp, flags: TcpFlag, sequence: int, acknowledgement: int, payload: bytes = b""
    ) -> bytes:
        return render_tcp(
            Tcp(
                source_mac=SERVER_MAC,
                target_mac=board.source_mac,
                source_ip=board.target_ip,
                target_ip=board.source_ip,
                source_port=board.target_port,
                target_port=board.source_port,
                sequence=sequence,
                acknowledgement=acknowledgement % 2**32,
                flags=flags,
                window=65535,
                payload=payload,
            )
        )
