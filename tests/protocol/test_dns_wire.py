"""DNS queries: any bytes are a query or a `WireError`, and an answer is recognised as one."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from dnslib import EDNS0, RR, A, DNSRecord
from hypothesis import example, given
from hypothesis import strategies as st

from pxe.dns.core import NameSettings, Reply, Rest, respond
from pxe.dns.wire import HEADER, is_answer_to, parse_query, truncate, with_id
from pxe.dns.zone import Zone
from pxe.errors import WireError

SERVER = IPv4Address("10.0.0.1")
SETTINGS = NameSettings(
    zone=Zone(
        domain="attic.internal",
        server=SERVER,
        hosts={"pi5-1": (IPv4Address("10.0.0.33"),)},
        subnet=IPv4Network("10.0.0.0/24"),
        owns_reverse=True,
    ),
    rest=Rest.FORWARD,
    upstreams=(SERVER,),
    clients=(IPv4Network("10.0.0.0/24"),),
)
GOOD = DNSRecord.question("pi5-1.attic.internal").pack()
WITH_EDNS = DNSRecord.question("pi5-1.attic.internal")
WITH_EDNS.add_ar(EDNS0(udp_len=4096))


@given(st.binary(max_size=600))
@example(b"")
@example(GOOD[:12] + b"\xc0\x0c\x00\x01\x00\x01")  # a name that refers to itself
@example(GOOD[:12] + b"\x3f" * 60)
@example(GOOD + b"\xff" * 40)
def test_any_bytes_are_a_query_or_a_wire_error(data: bytes) -> None:
    try:
        query = parse_query(data)
    except WireError:
        return
    answer = respond(query, SERVER, SETTINGS)
    if isinstance(answer, Reply):
        assert answer.data[:2] == data[:2]
        assert answer.data[2] & 0x80


@given(st.integers(0, len(WITH_EDNS.pack()) - 1), st.integers(0, 255))
def test_changed_byte_is_a_query_or_a_wire_error(place: int, value: int) -> None:
    data = bytearray(WITH_EDNS.pack())
    data[place] = value
    test_any_bytes_are_a_query_or_a_wire_error.hypothesis.inner_test(bytes(data))  # type: ignore[attr-defined]


@pytest.mark.parametrize("length", range(len(GOOD)))
def test_every_shorter_message_is_refused(length: int) -> None:
    with pytest.raises(WireError):
        parse_query(GOOD[:length])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (DNSRecord.parse(GOOD).reply().pack(), "a DNS response"),
        (HEADER.pack(1, 0, 2, 0, 0, 0) + GOOD[12:] * 2, "2 questions"),
        (HEADER.pack(1, 0, 0, 0, 0, 0), "0 questions"),
        (GOOD + bytes(5000), "5038 bytes"),
        (GOOD[:12] + b"\xc0\x0c\x00\x01\x00\x01", "compressed name"),
    ],
    ids=["response", "two-questions", "no-question", "huge", "compressed"],
)
def test_what_is_no_query_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        parse_query(data)


def test_two_opt_records_are_refused() -> None:
    twice = DNSRecord.question("a.b")
    twice.add_ar(EDNS0(udp_len=512), EDNS0(udp_len=512))
    with pytest.raises(WireError, match="more than one OPT"):
        parse_query(twice.pack())


@pytest.mark.parametrize(("announced", "taken"), [(0, 512), (512, 512), (1000, 1000), (65535, 1232)])
def test_size_of_datagrams_is_bounded(announced: int, taken: int) -> None:
    question = DNSRecord.question("a.b")
    question.add_ar(EDNS0(udp_len=announced))
    assert parse_query(question.pack()).udp_bytes == taken


def test_answer_is_known_by_id_and_question() -> None:
    query = parse_query(DNSRecord.question("Example.org").pack())
    reply = query.record.reply()
    reply.add_answer(RR("example.org", rdata=A("192.0.2.1")))
    answer = with_id(reply.pack(), 7)
    assert is_answer_to(query, answer, 7)
    assert not is_answer_to(query, answer, 8)
    assert not is_answer_to(query, with_id(query.data, 7), 7)  # the query itself, sent back
    assert not is_answer_to(query, with_id(DNSRecord.question("example.com").reply().pack(), 7), 7)
    assert not is_answer_to(query, b"\0\7", 7)


def test_truncated_answer_keeps_its_question() -> None:
    reply = DNSRecord.question("example.org").reply()
    reply.add_answer(*(RR("example.org", rdata=A(f"192.0.2.{n}")) for n in range(100)))
    short = DNSRecord.parse(truncate(reply.pack()))
    assert (short.header.tc, short.header.id, short.rr) == (1, reply.header.id, [])
    assert str(short.q.qname) == "example.org."
