"""TFTP wire format: requests as Raspberry Pi bootloaders send them, broken packets, and any bytes at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxe.tftp.wire import (
    Ack,
    Data,
    Error,
    ErrorCode,
    Opcode,
    OptionAck,
    Packet,
    Request,
    TftpWireError,
    parse_packet,
)

PI4_REQUEST = b"\0\x01d9780558/start4.elf\0octet\0tsize\x000\0blksize\x001024\0"
PI5_REQUEST = b"\0\x01da591740/config.txt\0octet\0tsize\x000\0blksize\x001468\0"
EARLY_TERMINATE = b"\0\x05\0\0Early terminate\0"

TEXTS = st.binary(max_size=40).map(lambda data: data.replace(b"\0", b"x").decode("utf-8", "surrogateescape"))
NAMES = TEXTS.filter(bool)
OPTIONS = st.lists(st.tuples(NAMES, TEXTS), max_size=3, unique_by=lambda pair: pair[0].lower()).map(tuple)
PACKETS: st.SearchStrategy[Packet] = st.one_of(
    st.builds(Request, NAMES, OPTIONS, NAMES, st.sampled_from([Opcode.RRQ, Opcode.WRQ])),
    st.builds(Data, st.integers(0, 65535), st.binary(max_size=100)),
    st.builds(Ack, st.integers(0, 65535)),
    st.builds(Error, st.integers(0, 65535), TEXTS),
    st.builds(OptionAck, OPTIONS.filter(bool)),
)


@pytest.mark.parametrize(
    ("data", "name", "blksize"),
    [(PI4_REQUEST, "d9780558/start4.elf", "1024"), (PI5_REQUEST, "da591740/config.txt", "1468")],
    ids=["pi4", "pi5"],
)
def test_requests_of_bootloaders_are_read_and_written(data: bytes, name: str, blksize: str) -> None:
    request = parse_packet(data)
    assert request == Request(name, (("tsize", "0"), ("blksize", blksize)))
    assert request.encode() == data


def test_the_published_request_has_49_bytes() -> None:
    assert len(PI4_REQUEST) == 49


def test_early_terminate_is_read() -> None:
    assert parse_packet(EARLY_TERMINATE) == Error(0, "Early terminate")
    assert Error(0, "Early terminate").encode() == EARLY_TERMINATE


def test_option_names_compare_without_case() -> None:
    request = parse_packet(b"\0\x01a\0OCTET\0BlkSize\x00512\0")
    assert isinstance(request, Request)
    assert request.option("blksize") == "512"
    assert request.option("tsize") is None


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        pytest.param(b"", None, id="empty"),
        pytest.param(b"\0\x01\0", None, id="three bytes"),
        pytest.param(b"\0\x01name\0octet", ErrorCode.ILLEGAL_OPERATION, id="no NUL at the end"),
        pytest.param(b"\0\x01name\0", ErrorCode.ILLEGAL_OPERATION, id="no mode"),
        pytest.param(b"\0\x01\0octet\0", ErrorCode.ILLEGAL_OPERATION, id="no name"),
        pytest.param(b"\0\x01name\0octet\0blksize\0", ErrorCode.BAD_OPTIONS, id="option without value"),
        pytest.param(b"\0\x01n\0octet\0a\x001\0A\x002\0", ErrorCode.BAD_OPTIONS, id="option twice"),
        pytest.param(b"\0\x01n\0octet\0\x001\0", ErrorCode.BAD_OPTIONS, id="option without name"),
        pytest.param(
            b"\0\x01n\0octet\0" + b"".join(b"%d\0\0" % n for n in range(17)), ErrorCode.BAD_OPTIONS, id="17"
        ),
        pytest.param(b"\0\x01" + b"n" * 600 + b"\0octet\0", ErrorCode.ILLEGAL_OPERATION, id="600-byte name"),
        pytest.param(b"\0\x09abcd", ErrorCode.ILLEGAL_OPERATION, id="opcode 9"),
    ],
)
def test_broken_packets_carry_their_answer(data: bytes, answer: ErrorCode | None) -> None:
    with pytest.raises(TftpWireError) as caught:
        parse_packet(data)
    assert caught.value.answer is answer


def test_an_error_without_nul_is_still_an_error() -> None:
    assert parse_packet(b"\0\x05\0\x01gone") == Error(1, "gone")


@given(st.one_of(st.binary(max_size=120), st.binary(max_size=120).map(lambda tail: b"\0\x01" + tail)))
def test_any_bytes_parse_or_raise_wire_error(data: bytes) -> None:
    try:
        packet = parse_packet(data)
    except TftpWireError:
        return
    assert parse_packet(packet.encode()) == packet


@given(PACKETS)
def test_packets_survive_a_round_trip(packet: Packet) -> None:
    assert parse_packet(packet.encode()) == packet
