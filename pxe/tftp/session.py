"""One read transfer as a state machine: packets and the time go in, packets and one outcome come out.

No socket, no clock, no path: the shell owns those. Rules and where they come from:

* what was agreed on (`pxe.tftp.options`) holds to the end;
* in lock-step (a window of one block) a duplicate ACK never causes a send (RFC 1123 §4.2.3.1); with a larger
  window an ACK short of its end means loss and the window goes on behind it (RFC 7440 §4), but for one and
  the same block only once, so that a duplicating network can not double the traffic for ever;
* a packet of a stranger gets ERROR 5 and changes nothing (RFC 1350 §4);
* a client that ends the transfer by itself has seen what it wanted: bootloaders ask for a file's size that
  way.

Nearly every packet is the ACK that ends the window in flight, and the answer to it is always the next window.
So that answer is made beforehand, while the client works: `expected` is that ACK, `reply` what it brings
about. An owner that gets `expected` may send `reply` and call `advance`, which is the same as
`receive_datagram` and `datagrams_to_send`, and takes a third of the time; nobody has to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, NamedTuple, TypeAlias

from pxe.boot.content import Content
from pxe.events import TransferStatistics
from pxe.tftp.frames import Chunk, FrameStore
from pxe.tftp.options import SessionLimits, negotiate
from pxe.tftp.wire import (
    BLOCKS,
    DATA_HEADER,
    Ack,
    Data,
    Error,
    ErrorCode,
    Opcode,
    OptionAck,
    Request,
    TftpWireError,
    parse_packet,
)

Address: TypeAlias = tuple[str, int]

EARLY_TERMINATE: Final = (
    "early terminate"  # text of the bootloaders; others end with code 0 or 8 and any text
)
_ACK: Final = Opcode.ACK.to_bytes(2, "big")
_PACK: Final = DATA_HEADER.pack
_ACK_OPCODE: Final = int(Opcode.ACK)  # packing an enum's member takes three times as long
_NO_CHUNK: Final = Chunk(0, 0, 0, memoryview(b""))


@dataclass(frozen=True, slots=True)
class Finished:
    """Every byte is with the client."""

    size_bytes: int


@dataclass(frozen=True, slots=True)
class Probed:
    """The client only wanted to know whether the file is there, or how large it is."""

    size_bytes: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The transfer has ended without success. `sent_bytes`: what the client has acknowledged."""

    reason: str
    sent_bytes: int
    size_bytes: int


Outcome: TypeAlias = Finished | Probed | Failed


class Datagrams(NamedTuple):
    """Packets to one peer, side by side: each `size` bytes long, only the last may be shorter."""

    peer: Address
    packets: bytes | memoryview
    size: int


class _State(Enum):
    NEGOTIATING = auto()  # the OACK is out, ACK 0 has not come
    SENDING = auto()
    ENDED = auto()


class ReadSession:
    """Sends one file to one client.

    Blocks count from 1 without an end in here; on the wire they are that number modulo 65536. A file has
    ``size // blksize + 1`` blocks, the last one shorter than all others and maybe empty.

    Args:
        request: the read request.
        peer: who sent it.
        content: what to send; stays the shell's own.
        limits: bounds.
        store: shares packets between transfers.
        now: monotonic seconds.

    Attributes:
        negotiated: the options that hold.
        expected: the ACK that ends the window in flight; None where its answer is not known beforehand.
        reply: what that ACK brings about: pieces of packets side by side, `packet_bytes` each.
        packet_bytes: length of every DATA packet but the last.
        retransmitted: blocks that were sent again.
        timeouts: how often the client was silent for so long that something was sent again.

    Raises:
        TftpWireError: the options can not be agreed on.
    """

    def __init__(
        self,
        request: Request,
        peer: Address,
        content: Content,
        limits: SessionLimits,
        store: FrameStore,
        now: float,
    ) -> None:
        self.negotiated = negotiate(request, content.size, limits)
        self.expected: bytes | None = None
        self.reply: tuple[memoryview, ...] = ()
        self.packet_bytes = DATA_HEADER.size + self.negotiated.blksize
        self._peer = peer
        self._content = content
        self._store = store
        self._blksize = self.negotiated.blksize
        self._windowsize = self.negotiated.windowsize
        self._last_block = content.size // self._blksize + 1
        self._acked = 0
        self._heard = False
        self._sent = 0  # highest block that was ever sent
        self._rewound_at = -1  # position of the last loss that a duplicate ACK has told
        self._chunk = _NO_CHUNK
        self.retransmitted = 0
        self.timeouts = 0
        self._retries = 0
        self._retries_allowed = limits.retries
        self._first_timeout_s = float(self.negotiated.timeout_s or limits.first_timeout_s)
        self._max_timeout_s = max(limits.max_timeout_s, self._first_timeout_s)
        self._ends_at = now + limits.total_s
        self._retransmit_at = now
        self._outbox: list[Datagrams] = []
        self._outcome: Outcome | None = None
        self._outcome_taken = False
        if self.negotiated.options:
            self._state = _State.NEGOTIATING
            self._put(OptionAck(self.negotiated.options).encode())
        else:
            self._state = _State.SENDING
            self._send_window()
        self._arm(now)

    @property
    def acknowledged_bytes(self) -> int:
        """What the client has for sure."""
        return min(self._acked * self._blksize, self._content.size)

    @property
    def is_untouched(self) -> bool:
        """Whether the client has not answered at all yet."""
        return not self._heard and self._state is not _State.ENDED

    @property
    def is_silent(self) -> bool:
        """Whether the client owes an answer since a retransmission or from the beginning."""
        return not self._heard or self._retries > 0

    def statistics(self, queued_s: float) -> TransferStatistics:
        """How it went; `queued_s` is what the owner knows about the time before."""
        return TransferStatistics(
            blksize=self._blksize,
            windowsize=self._windowsize,
            retransmitted=self.retransmitted,
            timeouts=self.timeouts,
            queued_s=queued_s,
        )

    def receive_datagram(self, data: bytes, peer: Address, now: float) -> None:
        """Take in one packet. Anything that is not part of this transfer changes nothing."""
        if peer != self._peer:
            error = Error(ErrorCode.UNKNOWN_TRANSFER_ID, "unknown transfer id")
            self._put(error.encode(), peer)
            return
        if self._state is _State.ENDED:
            return
        if len(data) == DATA_HEADER.size and data.startswith(_ACK):
            self._receive_ack(data[2] << 8 | data[3], now)  # nearly every packet, so without an object
            return
        try:
            packet = parse_packet(data)
        except TftpWireError:
            return
        match packet:
            case Error(code, text):
                self._receive_error(code, text)
            case Ack(block):
                self._receive_ack(block, now)  # one with bytes behind it
            case Request() if not self._heard:
                self._answer_again()  # the client repeats its request: our answer was lost
            case Request() | Data() | OptionAck():
                pass

    def handle_timeout(self, now: float) -> None:
        """Do what is due at `now`: send again, or give up."""
        if self._state is _State.ENDED or now < self._deadline:
            return
        if now >= self._ends_at:
            self._fail("it took too long")
        elif self._retries >= self._retries_allowed:
            self._fail(f"no answer to {self._retries + 1} attempts")
        else:
            self._retries += 1
            self.timeouts += 1
            self._rewound_at = -1
            if self._state is _State.NEGOTIATING:
                self.retransmitted += 1
                self._put(OptionAck(self.negotiated.options).encode())
            else:
                self._send_window()
            self._arm(now)

    def next_timeout(self) -> float | None:
        """When `handle_timeout` wants to be called; None after the end."""
        return None if self._state is _State.ENDED else self._deadline

    def datagrams_to_send(self) -> Sequence[Datagrams]:
        """Packets that have become due, once."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def next_event(self) -> Outcome | None:
        """The outcome, once."""
        if self._outcome is None or self._outcome_taken:
            return None
        self._outcome_taken = True
        return self._outcome

    @property
    def _deadline(self) -> float:
        return min(self._retransmit_at, self._ends_at)

    def advance(self, now: float) -> None:
        """`expected` has come and `reply` was sent."""
        self._heard = True
        self._acked = acked = self._sent
        last = self._last_block
        sent = acked + self._windowsize
        if sent > last:
            sent = last
        self._sent = sent
        self._retries = 0
        self._retransmit_at = now + self._first_timeout_s
        chunk = self._chunk
        first, end = sent + 1, sent + self._windowsize + 1
        if end <= chunk.end and end <= last:  # as `_anticipate`, for all but the last of a chunk
            start = (first - chunk.first) * chunk.stride
            self.reply = (chunk.packets[start : start + (end - first) * chunk.stride],)
            self.expected = _PACK(_ACK_OPCODE, sent & 0xFFFF)
        else:
            self._anticipate(sent)

    def _receive_ack(self, number: int, now: float) -> None:
        self._heard = True
        if self._state is _State.NEGOTIATING:
            if number == 0:
                self._state = _State.SENDING
                self._progress(now)
            return
        forward = (number - self._acked) % BLOCKS
        if forward > self._sent - self._acked:
            return  # older than what is acknowledged already, or never sent
        if forward:
            self._acked += forward
            if self._acked == self._last_block:
                self._end(Finished(self._content.size))
            else:
                self._progress(now)
        elif self._windowsize > 1 and self._sent > self._acked != self._rewound_at:
            self._rewound_at = self._acked
            self._progress(now)

    def _receive_error(self, code: int, text: str) -> None:
        unread = self._acked * self._blksize < self._content.size
        refused_options = self._state is _State.NEGOTIATING and code == ErrorCode.BAD_OPTIONS
        if EARLY_TERMINATE in text.lower() or refused_options or (code == 0 and self._acked == 0 and unread):
            self._end(Probed(self._content.size))
        else:
            self._fail(f"the client ended it with error {code}")

    def _answer_again(self) -> None:
        if self._state is _State.NEGOTIATING:
            self._put(OptionAck(self.negotiated.options).encode())
        else:
            self._send_window()

    def _progress(self, now: float) -> None:
        """The client is there: the next window, with a fresh count of retries."""
        self._retries = 0
        self._send_window()
        self._arm(now)

    def _arm(self, now: float) -> None:
        self._retransmit_at = now + min(self._first_timeout_s * 2**self._retries, self._max_timeout_s)

    def _put(self, packet: bytes, peer: Address | None = None) -> None:
        self._outbox.append(Datagrams(peer or self._peer, packet, len(packet)))

    def _send_window(self) -> None:
        """Queue the window behind the last acknowledged block."""
        first = self._acked + 1
        end = min(self._acked + self._windowsize, self._last_block) + 1
        try:
            pieces = self._packets(first, end)
        except OSError as error:
            text = "the file can not be read"
            self._put(Error(ErrorCode.NOT_DEFINED, text).encode())
            self._fail(f"{text}: {error.strerror or error}")
            return
        for piece in pieces:
            self._outbox.append(Datagrams(self._peer, piece, self.packet_bytes))
        self.retransmitted += max(0, min(self._sent, end - 1) - first + 1)
        self._sent = max(self._sent, end - 1)
        if self._sent == end - 1:
            self._anticipate(self._sent)
        else:
            self.expected = None  # an earlier window went further: its ACK may come too

    def _anticipate(self, sent: int) -> None:
        """Make the answer to the ACK of the window that ends with `sent`."""
        if sent == self._last_block:
            self.expected = None
            return
        first = sent + 1
        end = min(sent + self._windowsize, self._last_block) + 1
        chunk = self._chunk
        if chunk.first <= first and end <= chunk.end:
            self.reply = (chunk.part(first, end),)
        else:
            try:
                self.reply = self._packets(first, end)
            except OSError:
                self.expected = None  # tried again, and told, when the ACK comes
                return
        self.expected = _ACK + (sent % BLOCKS).to_bytes(2, "big")

    def _packets(self, first: int, end: int) -> tuple[memoryview, ...]:
        """The packets of these blocks, in pieces that each lie in one chunk."""
        pieces = []
        while first < end:
            if not self._chunk.first <= first < self._chunk.end:
                self._chunk = self._store.chunk(self._content, self._blksize, first)
            part_end = min(end, self._chunk.end)
            pieces.append(self._chunk.part(first, part_end))
            first = part_end
        return tuple(pieces)

    def _fail(self, reason: str) -> None:
        self._end(Failed(reason, self.acknowledged_bytes, self._content.size))

    def _end(self, outcome: Outcome) -> None:
        self._state = _State.ENDED
        self._outcome = outcome
        self._chunk = _NO_CHUNK
        self.expected, self.reply = None, ()
