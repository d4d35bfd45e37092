"""A transfer and its client as a state machine: Hypothesis decides what the network does to every packet.

Both directions can lose, double and reorder packets, and time can pass at any moment. Whatever happens, the
client has a prefix of the file and never anything else; and once the network is good again the transfer ends,
with the whole file or with a failure that the session tells.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pxe.boot.content import BytesContent
from pxe.tftp.frames import FrameStore
from pxe.tftp.options import SessionLimits
from pxe.tftp.session import Failed, Finished, ReadSession
from pxe.tftp.wire import BLOCKS, Ack, Data, Error, OptionAck, Request, parse_packet

PEER = ("192.0.2.7", 40084)
STRANGER = ("192.0.2.8", 1)
MOST_IN_FLIGHT = 200
FATES = st.sampled_from(["arrives", "late", "lost", "twice"])


class Client:
    """A receiver as RFC 1350 and RFC 7440 describe it, which repeats itself when it hears nothing."""

    def __init__(self, request: Request) -> None:
        self.blksize, self.windowsize = 512, 1
        self.received = bytearray()
        self.block = 0
        self.in_window = 0
        self.gap_told = False
        self.finished = False
        self.last = request.encode()

    def hear(self, data: bytes) -> bytes | None:
        """The answer to a packet, if there is one."""
        match parse_packet(data):
            case OptionAck() as oack:
                self.blksize = int(oack.option("blksize") or 512)
                self.windowsize = int(oack.option("windowsize") or 1)
                return self._ack() if self.block == 0 else None
            case Data(number, payload):
                return self._take(number, payload)
            case _:
                return None

    def _take(self, number: int, payload: bytes) -> bytes | None:
        if self.finished or number != (self.block + 1) % BLOCKS:
            if self.windowsize == 1:  # a duplicate: our ACK was lost
                return self._ack() if number == self.block % BLOCKS else None
            if self.gap_told:
                return None
            self.gap_told = True
            return self._ack()
        self.gap_told = False
        self.received += payload
        self.block += 1
        self.in_window += 1
        self.finished = len(payload) < self.blksize
        return self._ack() if self.finished or self.in_window >= self.windowsize else None

    def _ack(self) -> bytes:
        self.in_window = 0
        self.last = Ack(self.block % BLOCKS).encode()
        return self.last


class Transfer(RuleBasedStateMachine):
    """The session on one side, the client on the other, and the network between them."""

    @initialize(
        size=st.integers(0, 3000),
        blksize=st.sampled_from([8, 64, 512]),
        windowsize=st.sampled_from([1, 1, 2, 4, 16]),
        options=st.booleans(),
    )
    def begin(self, size: int, blksize: int, windowsize: int, options: bool) -> None:
        self.content = bytes(index * 7 % 251 for index in range(size))
        asked = (("blksize", str(blksize)), ("windowsize", str(windowsize))) if options else ()
        request = Request("kernel8.img", asked)
        self.now = 0.0
        limits = SessionLimits(total_s=10**6)
        self.session = ReadSession(request, PEER, BytesContent(self.content), limits, FrameStore(), self.now)
        self.client = Client(request)
        self.to_client: list[bytes] = []
        self.to_server: list[bytes] = []
        self.outcome: object = None
        self.data_sent = 0
        self.acks_taken = 0
        self.collect()

    def collect(self) -> None:
        for peer, packets, size in self.session.datagrams_to_send():
            if peer != PEER:
                continue
            for start in range(0, len(packets), size):
                self.to_client.append(bytes(packets[start : start + size]))
        del self.to_client[MOST_IN_FLIGHT:]
        self.outcome = self.session.next_event() or self.outcome

    def deliver_to_client(self, index: int) -> None:
        answer = self.client.hear(self.to_client.pop(index))
        if answer is not None:
            self.to_server.append(answer)

    def deliver_to_server(self, index: int) -> None:
        data = self.to_server.pop(index)
        if data == self.session.expected:  # the shell's shorter way
            for piece in self.session.reply:
                size = self.session.packet_bytes
                for start in range(0, len(piece), size):
                    self.to_client.append(bytes(piece[start : start + size]))
            self.session.advance(self.now)
        else:
            self.session.receive_datagram(data, PEER, self.now)
        self.collect()

    @precondition(lambda self: self.to_client)
    @rule(chance=st.randoms(use_true_random=False), fate=FATES)
    def network_to_client(self, chance: Any, fate: str) -> None:
        index = chance.randrange(len(self.to_client)) if fate == "late" else 0
        if fate == "lost":
            self.to_client.pop(0)
            return
        if fate == "twice":
            self.to_client.append(self.to_client[0])
        self.deliver_to_client(index)

    @precondition(lambda self: self.to_server)
    @rule(chance=st.randoms(use_true_random=False), fate=FATES)
    def network_to_server(self, chance: Any, fate: str) -> None:
        index = chance.randrange(len(self.to_server)) if fate == "late" else 0
        if fate == "lost":
            self.to_server.pop(0)
            return
        if fate == "twice":
            self.to_server.append(self.to_server[0])
        self.deliver_to_server(index)

    @rule()
    def time_passes(self) -> None:
        deadline = self.session.next_timeout()
        if deadline is not None:
            self.now = max(self.now, deadline)
            self.session.handle_timeout(self.now)
            self.collect()

    @rule()
    def client_repeats_itself(self) -> None:
        if not self.client.finished:
            self.to_server.append(self.client.last)

    @rule(data=st.binary(max_size=20))
    def a_stranger_speaks(self, data: bytes) -> None:
        before = self.session.acknowledged_bytes
        for packet in (data, Ack(1).encode(), Error(0, "stop").encode()):
            self.session.receive_datagram(packet, STRANGER, self.now)
        self.collect()
        assert self.session.acknowledged_bytes == before

    @invariant()
    def the_client_has_a_prefix_of_the_file(self) -> None:
        if hasattr(self, "client"):
            assert self.content.startswith(self.client.received)
            if self.client.finished:
                assert self.client.received == self.content

    @invariant()
    def the_session_never_believes_more_than_the_client_has(self) -> None:
        if hasattr(self, "client"):
            assert self.session.acknowledged_bytes <= len(self.client.received)
            if isinstance(self.outcome, Finished):
                assert self.client.received == self.content
            assert (self.session.next_timeout() is None) == (self.outcome is not None)

    def teardown(self) -> None:
        """The network is good from now on."""
        if not hasattr(self, "client"):
            return
        for _ in range(20_000):
            if self.outcome is not None:
                break
            if self.to_server:
                self.deliver_to_server(0)
            elif self.to_client:
                self.deliver_to_client(0)
            else:
                self.time_passes()
        assert isinstance(self.outcome, Finished | Failed)
        if isinstance(self.outcome, Finished):
            assert self.client.received == self.content


TestTransfer = Transfer.TestCase
TestTransfer.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
