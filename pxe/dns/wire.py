"""DNS messages: dnslib reads and writes them; this module decides what is a valid query.

Layout of the header (RFC 1035 §4.1.1):

    0–1 id · 2–3 flags (QR, opcode, AA, TC, RD, RA, Z, rcode) · 4–5 questions · 6–7 answers · 8–9 authority
    10–11 additional · 12–… the questions, then the records

Whatever dnslib makes of hostile bytes, what comes out here is a `Query` or a `WireError`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from dnslib import DNSError, DNSRecord

from pxe.errors import WireError

HEADER: Final = struct.Struct("!6H")
MAXIMUM_MESSAGE: Final = 65_535  # RFC 1035 §4.2.2: the length before a message over TCP has 16 bits
MAXIMUM_QUERY: Final = 4096
"""Larger queries are not read: one question with its options takes a few hundred bytes."""
PLAIN_UDP_BYTES: Final = 512  # RFC 1035 §4.2.1
MAXIMUM_LABEL: Final = 63  # RFC 1035 §2.3.4
MAXIMUM_NAME: Final = 255  # RFC 1035 §2.3.4, lengths and the root label included
EDNS_UDP_BYTES: Final = 1232
"""What is sent in one datagram at most; no path fragments it (DNS flag day 2020)."""

QR: Final = 0x8000
OPCODE_MASK: Final = 0x7800
TC: Final = 0x0200

OPT: Final = 41  # RFC 6891 §6.1.1


@dataclass(frozen=True, slots=True)
class Query:
    """One question.

    Args:
        data: the message as it came.
        name: lower case, without a final dot; the root is the empty text.
        qtype, qclass: numbers of RFC 1035 §3.2.
        has_edns: the client sent an OPT record, so it may be given one.
        udp_bytes: how large a datagram the client takes.
    """

    data: bytes
    name: str
    qtype: int
    qclass: int
    opcode: int
    has_edns: bool
    edns_version: int
    udp_bytes: int
    record: DNSRecord = field(repr=False, compare=False)

    @property
    def id(self) -> int:
        return int.from_bytes(self.data[:2])


def parse_query(data: bytes) -> Query:
    """Read a query.

    Raises:
        WireError: it is too long or too short, a response, has not one question, or is damaged.
    """
    if not HEADER.size <= len(data) <= MAXIMUM_QUERY:
        raise WireError(
            f"a DNS query of {len(data)} bytes; between {HEADER.size} and {MAXIMUM_QUERY} are read"
        )
    _id, flags, questions, answers, authority, _additional = HEADER.unpack_from(data)
    if flags & QR:
        raise WireError("a DNS response, not a query")
    if questions != 1 or answers or authority:
        raise WireError(f"{questions} questions and {answers + authority} records; a query has one question")
    _end_of_question(data)
    try:
        record = DNSRecord.parse(data)
        name = str(record.q.qname)
    except (DNSError, ValueError, IndexError, struct.error) as error:
        raise WireError(f"a damaged DNS query: {error}") from error
    options = [extra for extra in record.ar if extra.rtype == OPT]
    if len(options) > 1:
        raise WireError("more than one OPT record (RFC 6891 §6.1.1)")
    return Query(
        data=data,
        name=name.rstrip(".").lower(),
        qtype=record.q.qtype,
        qclass=record.q.qclass,
        opcode=(flags & OPCODE_MASK) >> 11,
        has_edns=bool(options),
        edns_version=options[0].edns_ver if options else 0,
        udp_bytes=max(PLAIN_UDP_BYTES, min(options[0].rclass, EDNS_UDP_BYTES))
        if options
        else PLAIN_UDP_BYTES,
        record=record,
    )


def with_id(data: bytes, message_id: int) -> bytes:
    """The same message under another id."""
    return message_id.to_bytes(2) + data[2:]


def is_answer_to(query: Query, data: bytes, message_id: int) -> bool:
    """Whether ``data`` answers the query that was sent under ``message_id``: id, QR and the same question."""
    if len(data) < HEADER.size:
        return False
    answer_id, flags, questions, *_ = HEADER.unpack_from(data)
    if answer_id != message_id or not flags & QR or questions != 1:
        return False
    question = query.data[HEADER.size : _end_of_question(query.data)]
    # Servers differ in whether they keep the case of a name (RFC 4343); numbers of labels have none.
    return data[HEADER.size : HEADER.size + len(question)].lower() == question.lower()


def truncate(data: bytes) -> bytes:
    """Only header and question of an answer, marked as truncated."""
    message_id, flags, *_ = HEADER.unpack_from(data)
    return HEADER.pack(message_id, flags | TC, 1, 0, 0, 0) + data[HEADER.size : _end_of_question(data)]


def _end_of_question(data: bytes) -> int:
    """Where the first question ends.

    Raises:
        WireError: it has no end, its name is too long, or is compressed: nothing came that it could mean.
    """
    position = HEADER.size
    while position < len(data) and data[position]:
        if data[position] > MAXIMUM_LABEL:
            raise WireError("a compressed name in a question")
        position += 1 + data[position]
    position += 5  # the root label, 2 bytes type, 2 bytes class
    if position - HEADER.size - 4 > MAXIMUM_NAME:
        raise WireError(f"a name of more than {MAXIMUM_NAME} bytes")
    if position > len(data):
        raise WireError("a question that ends before its type and class")
    return position
