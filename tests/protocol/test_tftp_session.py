"""One transfer: options, retransmission, windows, strangers, and a link that loses, doubles and reorders."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pxe.boot.content import BytesContent
from pxe.tftp.frames import FrameStore
from pxe.tftp.options import SessionLimits
from pxe.tftp.session import Datagrams, Failed, Finished, Outcome, Probed, ReadSession
from pxe.tftp.wire import (
    BLOCKS,
    Ack,
    Data,
    Error,
    ErrorCode,
    OptionAck,
    Packet,
    Request,
    TftpWireError,
    parse_packet,
)

PEER = ("192.0.2.7", 40084)
STRANGER = ("192.0.2.8", 40084)
LIMITS = SessionLimits()
PI_OPTIONS = (("tsize", "0"), ("blksize", "1468"))


class Link:
    """A session with its outgoing packets, read."""

    def __init__(
        self, size: int, options: tuple[tuple[str, str], ...] = (), limits: SessionLimits = LIMITS
    ) -> None:
        self.data = bytes(index * 7 % 251 for index in range(min(size, 70_000)))
        self.data = (self.data * (size // max(len(self.data), 1) + 1))[:size]
        self.now = 0.0
        self.session = ReadSession(
            Request("kernel8.img", options), PEER, BytesContent(self.data), limits, FrameStore(), self.now
        )

    def sent(self) -> list[Packet]:
        return [parse_packet(each) for each in cut(self.session.datagrams_to_send())]

    def hear(self, packet: Packet, peer: tuple[str, int] = PEER) -> list[Packet]:
        self.session.receive_datagram(packet.encode(), peer, self.now)
        return self.sent()

    def pass_time(self) -> list[Packet]:
        deadline = self.session.next_timeout()
        assert deadline is not None
        self.now = deadline
        self.session.handle_timeout(self.now)
        return self.sent()


def cut(sent: Sequence[Datagrams]) -> list[bytes]:
    """The packets as the kernel sends them."""
    return [
        bytes(packets[start : start + size])
        for _peer, packets, size in sent
        for start in range(0, len(packets), size)
    ]


def blocks(packets: list[Packet]) -> list[int]:
    """Block numbers, when all packets are DATA."""
    numbers = []
    for packet in packets:
        assert isinstance(packet, Data)
        numbers.append(packet.block)
    return numbers


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1024, 3000])
def test_a_file_arrives_in_lock_step_and_ends_with_a_short_block(size: int) -> None:
    link = Link(size)
    received = b""
    packets = link.sent()
    while True:
        assert len(packets) == 1
        packet = packets[0]
        assert isinstance(packet, Data)
        received += packet.payload
        packets = link.hear(Ack(packet.block))
        if len(packet.payload) < 512:
            break
    assert received == link.data
    assert packets == []
    assert link.session.next_event() == Finished(size)
    assert link.session.next_event() is None
    assert link.session.next_timeout() is None


def test_a_bootloader_gets_the_options_that_it_asked_for_with_the_true_size() -> None:
    link = Link(3000, PI_OPTIONS)
    assert link.sent() == [OptionAck((("tsize", "3000"), ("blksize", "1468")))]
    assert blocks(link.hear(Ack(0))) == [1]


def test_no_options_asked_none_acknowledged() -> None:
    assert blocks(Link(10).sent()) == [1]
    assert blocks(Link(10, (("multicast", ""), ("x", "1"))).sent()) == [1]


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        (("blksize", "65464"), ("blksize", "1468")),
        (("blksize", "99999999999999999999"), ("blksize", "1468")),
        (("BLKSIZE", "8"), ("blksize", "8")),
        (("windowsize", "65535"), ("windowsize", "64")),
        (("timeout", "255"), ("timeout", "255")),
        (("blksize", "00512"), ("blksize", "512")),
    ],
    ids=str,
)
def test_values_are_lowered_to_the_limits(asked: tuple[str, str], answered: tuple[str, str]) -> None:
    assert Link(10, (asked,)).sent() == [OptionAck((answered,))]


@pytest.mark.parametrize("reverse", [False, True], ids=["blksize first", "windowsize first"])
@pytest.mark.parametrize(
    ("blksize", "windowsize"), [(512, 64), (1468, 64), (8192, 11), (32768, 2), (65464, 1)]
)
def test_a_window_fits_into_a_clients_receive_buffer(blksize: int, windowsize: int, reverse: bool) -> None:
    asked = [("blksize", str(blksize)), ("windowsize", "64")]
    answered = [("blksize", str(blksize)), ("windowsize", str(windowsize))]
    if reverse:
        asked.reverse()
        answered.reverse()
    link = Link(10**6, tuple(asked), SessionLimits(max_blksize=65464))
    assert link.sent() == [OptionAck(tuple(answered))]
    assert len(link.hear(Ack(0))) == windowsize


@pytest.mark.parametrize(
    "asked",
    [("blksize", value) for value in ("0", "7", "-1", "abc", "", "1e20", "٣٣", " 512", "9" * 21)]
    + [("windowsize", "0"), ("tsize", "x"), ("timeout", "")],
    ids=str,
)
def test_values_that_mean_nothing_get_error_8(asked: tuple[str, str]) -> None:
    with pytest.raises(TftpWireError) as caught:
        Link(10, (asked,))
    assert caught.value.answer is ErrorCode.BAD_OPTIONS


@pytest.mark.parametrize("seconds", ["0", "256"])
def test_a_timeout_out_of_range_is_as_if_not_asked(seconds: str) -> None:
    assert blocks(Link(10, (("timeout", seconds),)).sent()) == [1]


@pytest.mark.parametrize("mode", ["netascii", "mail", "bogus"])
def test_only_octet_is_served(mode: str) -> None:
    with pytest.raises(TftpWireError) as caught:
        ReadSession(Request("a", (), mode), PEER, BytesContent(b""), LIMITS, FrameStore(), 0)
    assert caught.value.answer is ErrorCode.ILLEGAL_OPERATION


def test_mode_compares_without_case() -> None:
    assert ReadSession(
        Request("a", (), "OcTeT"), PEER, BytesContent(b""), LIMITS, FrameStore(), 0
    ).next_timeout()


def test_a_duplicate_ack_never_causes_a_send_in_lock_step() -> None:
    link = Link(3000)
    link.sent()
    assert blocks(link.hear(Ack(1))) == [2]
    for _ in range(5):
        assert link.hear(Ack(1)) == []
    assert blocks(link.hear(Ack(2))) == [3]
    assert link.hear(Ack(1)) == []


def test_acks_of_blocks_never_sent_change_nothing() -> None:
    link = Link(3000)
    link.sent()
    for number in (2, 3, 65535, 30000):
        assert link.hear(Ack(number)) == []
    assert blocks(link.hear(Ack(1))) == [2]


def test_a_stranger_gets_error_5_and_the_transfer_goes_on() -> None:
    link = Link(3000)
    link.sent()
    link.session.receive_datagram(Ack(1).encode(), STRANGER, 0)
    answers = list(link.session.datagrams_to_send())
    assert [answer.peer for answer in answers] == [STRANGER]
    error = parse_packet(cut(answers)[0])
    assert isinstance(error, Error)
    assert error.code == ErrorCode.UNKNOWN_TRANSFER_ID
    link.session.receive_datagram(Error(0, "stop").encode(), STRANGER, 0)
    link.sent()
    assert blocks(link.hear(Ack(1))) == [2]


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\4", b"\0\x09ab", b"\xff" * 20, b"\0\2x\0octet"])
def test_garbage_changes_nothing(data: bytes) -> None:
    link = Link(3000)
    link.sent()
    link.session.receive_datagram(data, PEER, 0)
    assert link.sent() == []
    assert blocks(link.hear(Ack(1))) == [2]


@pytest.mark.parametrize("options", [(), PI_OPTIONS], ids=["data", "oack"])
def test_a_repeated_request_gets_its_answer_again_until_the_client_has_answered(
    options: tuple[tuple[str, str], ...],
) -> None:
    link = Link(3000, options)
    first = link.sent()
    assert link.hear(Request("kernel8.img", options)) == first
    link.hear(Ack(1 if not options else 0))
    assert link.hear(Request("kernel8.img", options)) == []


def test_the_answer_made_beforehand_is_the_one_that_the_ack_brings_about() -> None:
    for options in ((), PI_OPTIONS, (("windowsize", "4"),), (("blksize", "8"), ("windowsize", "64"))):
        told, anticipating = Link(70_000, options), Link(70_000, options)
        for link in (told, anticipating):
            link.sent()
            if options:
                link.hear(Ack(0))
        rounds = 0
        while (expected := anticipating.session.expected) is not None:
            size = anticipating.session.packet_bytes
            reply = cut([Datagrams(PEER, piece, size) for piece in anticipating.session.reply])
            anticipating.session.advance(0.25)
            told.session.receive_datagram(expected, PEER, 0.25)
            assert cut(told.session.datagrams_to_send()) == reply
            assert told.session.next_timeout() == anticipating.session.next_timeout()
            assert told.session.acknowledged_bytes == anticipating.session.acknowledged_bytes
            rounds += 1
        assert rounds > 30
        assert told.session.expected is None


@pytest.mark.parametrize("options", [(), PI_OPTIONS], ids=["after data", "after oack"])
def test_early_terminate_is_a_probe_and_ends_at_once(options: tuple[tuple[str, str], ...]) -> None:
    link = Link(3000, options)
    link.sent()
    assert link.hear(Error(0, "Early terminate")) == []
    assert link.session.next_event() == Probed(3000)
    assert link.session.next_timeout() is None


def test_early_terminate_after_ack_0_is_a_probe() -> None:
    link = Link(3000, PI_OPTIONS)
    link.sent()
    link.hear(Ack(0))
    link.hear(Error(0, "Early terminate"))
    assert link.session.next_event() == Probed(3000)


def test_another_error_of_the_client_is_a_failure() -> None:
    link = Link(3000)
    link.sent()
    link.hear(Ack(1))
    link.hear(Error(3, "disk full"))
    outcome = link.session.next_event()
    assert isinstance(outcome, Failed)
    assert outcome.sent_bytes == 512


def test_retransmissions_back_off_and_end() -> None:
    link = Link(3000)
    link.sent()
    times = []
    while link.session.next_timeout() is not None:
        packets = link.pass_time()
        times.append(link.now)
        assert blocks(packets) == ([1] if len(times) <= LIMITS.retries else [])
    assert times == [1, 3, 7, 15, 23, 31]
    outcome = link.session.next_event()
    assert isinstance(outcome, Failed)
    assert "no answer" in outcome.reason


def test_the_oack_is_retransmitted_too() -> None:
    link = Link(10, PI_OPTIONS)
    first = link.sent()
    assert link.pass_time() == first


def test_an_answer_renews_the_retries() -> None:
    link = Link(512 * 20)
    link.sent()
    for block in range(1, 15):
        assert blocks(link.pass_time()) == [block]
        assert blocks(link.hear(Ack(block))) == [block + 1]


def test_the_total_time_is_limited() -> None:
    link = Link(10**6, limits=SessionLimits(total_s=10))
    link.sent()
    link.now = 9.5
    link.hear(Ack(1))
    assert link.session.next_timeout() == 10
    link.pass_time()
    assert isinstance(link.session.next_event(), Failed)


@pytest.mark.parametrize(("size", "ends"), [(512 * 20, Finished), (10**7, Failed)])
def test_a_client_that_acknowledges_every_5_seconds_gets_a_small_file_and_no_endless_one(
    size: int, ends: type[Finished] | type[Failed]
) -> None:
    link = Link(size)
    packets, block = link.sent(), 0
    sent = 0
    while link.session.next_timeout() is not None:
        sent += len(packets)
        block += 1
        heard_at = link.now + 4.9
        while (deadline := link.session.next_timeout()) is not None and deadline < heard_at:
            sent += len(link.pass_time())
        link.now = heard_at
        packets = link.hear(Ack(block))
    assert isinstance(link.session.next_event(), ends)
    assert link.now <= LIMITS.total_s + 4.9
    assert sent <= 3 * block  # each block once, and again after 1 and 3 seconds() -> None:
    link = Link(3000)
    link.sent()
    link.session.handle_timeout(0.5)
    assert link.sent() == []


def test_the_clients_timeout_is_kept() -> None:
    link = Link(3000, (("timeout", "3"),))
    link.sent()
    assert link.session.next_timeout() == 3


def test_block_numbers_roll_over_to_0() -> None:
    size = 8 * (BLOCKS + 3)
    link = Link(size, (("blksize", "8"),))
    link.sent()
    packets = link.hear(Ack(0))
    seen = 0
    while packets:
        (packet,) = packets
        assert isinstance(packet, Data)
        assert packet.block == (seen + 1) % BLOCKS
        assert packet.payload == link.data[8 * seen : 8 * seen + 8]
        seen += 1
        packets = link.hear(Ack(packet.block))
    assert seen == BLOCKS + 4
    assert link.session.next_event() == Finished(size)


def windowed(size: int, windowsize: int) -> Link:
    link = Link(size, (("windowsize", str(windowsize)),))
    link.sent()
    return link


def test_a_window_is_sent_at_once_and_the_next_after_its_ack() -> None:
    link = windowed(512 * 6, 4)
    assert blocks(link.hear(Ack(0))) == [1, 2, 3, 4]
    assert blocks(link.hear(Ack(4))) == [5, 6, 7]
    assert link.hear(Ack(7)) == []
    assert link.session.next_event() == Finished(512 * 6)


def test_an_ack_inside_the_window_means_loss_behind_it() -> None:
    link = windowed(512 * 20, 4)
    link.hear(Ack(0))
    assert blocks(link.hear(Ack(2))) == [3, 4, 5, 6]
    assert blocks(link.hear(Ack(6))) == [7, 8, 9, 10]


def test_a_repeated_ack_repeats_a_window_only_once() -> None:
    link = windowed(512 * 20, 4)
    link.hear(Ack(0))
    assert blocks(link.hear(Ack(4))) == [5, 6, 7, 8]
    assert blocks(link.hear(Ack(4))) == [5, 6, 7, 8]
    assert link.hear(Ack(4)) == []
    assert blocks(link.pass_time()) == [5, 6, 7, 8]


def test_a_lost_last_window_is_sent_again() -> None:
    link = windowed(512 * 4 + 100, 4)
    link.hear(Ack(0))
    assert blocks(link.hear(Ack(4))) == [5]
    assert blocks(link.pass_time()) == [5]
    link.hear(Ack(5))
    assert link.session.next_event() == Finished(512 * 4 + 100)
    assert (link.session.retransmitted, link.session.timeouts) == (1, 1)


class ShrinkingContent(BytesContent):
    """A file that is cut off while it is served."""

    def read_into(self, buffers: Sequence[memoryview], offset: int) -> None:
        if offset:
            raise OSError("the file became shorter while it was served")
        super().read_into(buffers, offset)


def test_a_file_that_shrinks_ends_in_an_error_and_not_in_a_short_block() -> None:
    content = ShrinkingContent(bytes(300_000))
    session = ReadSession(Request("a", (("blksize", "1468"),)), PEER, content, LIMITS, FrameStore(), 0)
    session.datagrams_to_send()
    number = 0
    packet: Packet = Ack(0)
    while isinstance(packet, Data | Ack):
        session.receive_datagram(Ack(number).encode(), PEER, 0)
        (data,) = cut(session.datagrams_to_send())
        packet = parse_packet(data)
        number += 1
    assert isinstance(packet, Error)
    outcome = session.next_event()
    assert isinstance(outcome, Failed)
    assert "shorter" in outcome.reason


class ModelClient:
    """A receiver after RFC 1350 and 7440, written apart from the session: keeps a file, acknowledges, gives
    up."""

    def __init__(self, blksize: int, windowsize: int) -> None:
        self.blksize, self.windowsize = blksize, windowsize
        self.received = bytearray()
        self.expected = 1
        self.in_window = 0
        self.gap_told = False
        self.done = False

    def hear(self, packet: Packet) -> Packet | None:
        match packet:
            case OptionAck():
                return Ack(0) if self.expected == 1 else None
            case Data(block, payload):
                return self.take(block, payload)
            case _:
                return None

    def take(self, block: int, payload: bytes) -> Packet | None:
        last = Ack((self.expected - 1) % BLOCKS)
        if block != self.expected % BLOCKS:
            if self.windowsize == 1:
                return last if block == last.block else None
            if self.gap_told:
                return None
            self.gap_told, self.in_window = True, 0
            return last
        if self.done:
            return last
        self.gap_told = False
        self.received += payload
        self.expected += 1
        self.in_window += 1
        self.done = len(payload) < self.blksize
        if self.done or self.in_window == self.windowsize:
            self.in_window = 0
            return Ack((self.expected - 1) % BLOCKS)
        return None


def play(link: Link, client: ModelClient, rng: random.Random, loss: float) -> Outcome:
    """Let both talk over a bad link until the session has an outcome; time moves only when nothing is on
    its way."""
    to_client: list[bytes] = []
    to_server: list[bytes] = []

    def over_the_link(data: bytes) -> Iterator[bytes]:
        if rng.random() >= loss:
            yield data
            if rng.random() < loss:
                yield data

    for _step in range(200_000):
        for data in cut(link.session.datagrams_to_send()):
            to_client.extend(over_the_link(data))
        outcome = link.session.next_event()
        if outcome is not None:
            return outcome
        if to_client:
            answer = client.hear(parse_packet(take_one(to_client, rng, loss)))
            if answer is not None:
                to_server.extend(over_the_link(answer.encode()))
        elif to_server:
            link.session.receive_datagram(take_one(to_server, rng, loss), PEER, link.now)
        else:
            deadline = link.session.next_timeout()
            assert deadline is not None
            assert deadline > link.now or link.now == 0
            link.now = deadline
            link.session.handle_timeout(link.now)
    raise AssertionError("the transfer never ends")


def take_one(queue: list[bytes], rng: random.Random, disorder: float) -> bytes:
    late = len(queue) > 1 and rng.random() < disorder
    return queue.pop(rng.randrange(len(queue)) if late else 0)


@settings(max_examples=150)
@given(
    size=st.integers(0, 6000),
    blksize=st.sampled_from([8, 100, 512]),
    windowsize=st.sampled_from([1, 1, 2, 5, 16]),
    loss=st.sampled_from([0.0, 0.05, 0.2, 0.5]),
    seed=st.integers(0, 2**32),
)
def test_over_a_bad_link_a_transfer_arrives_intact_or_fails(
    size: int, blksize: int, windowsize: int, loss: float, seed: int
) -> None:
    link = Link(size, (("blksize", str(blksize)), ("windowsize", str(windowsize))))
    client = ModelClient(blksize, windowsize)
    outcome = play(link, client, random.Random(seed), loss)
    assert link.data.startswith(bytes(client.received))
    if isinstance(outcome, Finished):
        assert bytes(client.received) == link.data
    else:
        assert isinstance(outcome, Failed)
        assert loss > 0
    assert link.session.next_timeout() is None


@given(st.lists(st.binary(max_size=40), max_size=20), st.sampled_from([(), PI_OPTIONS]))
def test_any_packets_leave_the_session_in_order(
    packets: list[bytes], options: tuple[tuple[str, str], ...]
) -> None:
    link = Link(5000, options)
    for data in packets:
        link.session.receive_datagram(data, PEER, link.now)
        link.sent()
    outcome = link.session.next_event()
    assert (outcome is None) == (link.session.next_timeout() is not None)
