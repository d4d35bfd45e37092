"""Messages of etcd on the wire: known bytes, anybody's bytes, and what follows from a list of members."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.etcd.call import Endpoint
from fleet.etcd.errors import EtcdError
from fleet.etcd.messages import (
    MAX_MEMBERS,
    EmptyRequest,
    HeaderResponse,
    MemberListRequest,
    MemberListResponse,
    MemberRequest,
    SnapshotResponse,
    StatusResponse,
)
from fleet.etcd.view import EtcdMember, EtcdView, node_of
from fleet.etcd.wire import (
    WireError,
    encode_bytes,
    encode_number,
    encode_varint,
    parse_fields,
)

CLUSTER, MEMBER = 0xCDF818194E3A8C32, 0x8E9E05C52164694D
HEADER = encode_number(1, CLUSTER) + encode_number(2, MEMBER) + encode_number(3, 7) + encode_number(4, 2)


def test_numbers_are_encoded_as_the_documentation_shows() -> None:
    assert encode_varint(1) == b"\x01"
    assert encode_varint(150) == b"\x96\x01"
    assert encode_number(1, 150) == b"\x08\x96\x01"
    assert encode_bytes(2, b"testing") == b"\x12\x07testing"
    assert encode_number(1, 0) == b""
    assert encode_varint((1 << 64) - 1) == b"\xff" * 9 + b"\x01"


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_a_number_that_does_not_fit_is_not_sent(value: int) -> None:
    with pytest.raises(WireError):
        encode_varint(value)


@given(st.integers(1, (1 << 64) - 1), st.integers(1, 1000))
def test_every_number_comes_back(value: int, field: int) -> None:
    assert list(parse_fields(encode_number(field, value))) == [(field, value)]


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_wire_error(data: bytes) -> None:
    for response in (MemberListResponse, StatusResponse, HeaderResponse, SnapshotResponse):
        try:
            response.parse(data)
        except WireError:
            continue


@pytest.mark.parametrize(
    "data",
    [b"\x08", b"\x08" + b"\xff" * 10, b"\x08" + b"\xff" * 9 + b"\x02", b"\x12\x05abc", b"\x0b", b"\x00\x00",
     b"\x09\x00", b"\x0d\x00"],
    ids=["no value", "endless", "65 bits", "too short", "group", "field 0", "fixed64", "fixed32"],
)  # fmt: skip
def test_what_is_cut_off_or_never_was_a_message_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        list(parse_fields(data))


def test_fields_of_a_newer_etcd_are_passed_over() -> None:
    newer = b"\x09" + bytes(8) + b"\x0d" + bytes(4) + encode_bytes(99, b"new") + encode_number(98, 5)
    answer = StatusResponse.parse(newer[14:] + encode_bytes(1, HEADER) + encode_number(4, MEMBER))
    assert answer.leader == MEMBER
    assert [field for field, _ in parse_fields(newer)] == [99, 98]


def test_a_list_of_members_is_read_with_one_that_never_started() -> None:
    started = b"".join(
        [encode_number(1, MEMBER), encode_bytes(2, b"s1-0a1b2c3d"), encode_bytes(3, b"https://10.0.0.1:2380"),
         encode_bytes(4, b"https://10.0.0.1:2379"), encode_bytes(4, b"https://10.0.0.2:2379")]
    )  # fmt: skip
    added = encode_number(1, 5) + encode_bytes(3, b"https://10.0.0.3:2380") + encode_number(5, 1)
    body = encode_bytes(1, HEADER) + encode_bytes(2, started) + encode_bytes(2, added)
    answer = MemberListResponse.parse(body)
    assert (answer.header.cluster_id, answer.header.member_id, answer.header.raft_term) == (
        CLUSTER,
        MEMBER,
        2,
    )
    first, second = answer.members
    assert (first.name, first.client_urls[1], first.is_learner) == (
        "s1-0a1b2c3d",
        "https://10.0.0.2:2379",
        False,
    )
    assert (second.name, second.client_urls, second.is_learner) == ("", (), True)


@pytest.mark.parametrize(
    "body",
    [encode_number(2, 5), encode_bytes(2, encode_bytes(1, b"x")), encode_bytes(2, encode_bytes(2, b"\xff")),
     encode_bytes(2, b"") * (MAX_MEMBERS + 1), encode_number(1, 9)],
    ids=["member is a number", "id is text", "not UTF-8", "too many", "header is a number"],
)  # fmt: skip
def test_a_list_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        MemberListResponse.parse(body)


def test_requests_say_what_is_asked() -> None:
    assert MemberListRequest(True).encode() == b"\x08\x01"
    assert MemberListRequest(False).encode() == b""
    assert MemberRequest(300).encode() == b"\x08\xac\x02"
    assert EmptyRequest().encode() == b""


@pytest.mark.parametrize(
    ("name", "node"),
    [("s1-0a1b2c3d", "s1"), ("rack-a-3-ffffffff", "rack-a-3"), ("s1", ""), ("s1-0A1B2C3D", ""),
     ("s1-0a1b2c3", ""), ("-0a1b2c3d", ""), ("", "")],
)  # fmt: skip
def test_a_members_name_tells_its_node(name: str, node: str) -> None:
    assert node_of(name) == node


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1:2379", "https://", "https://10.0.0.1:x", "unix:///run/etcd", ""]
)
def test_an_address_that_is_none_is_an_error_and_not_a_connection(url: str) -> None:
    with pytest.raises(EtcdError, match="ADDRESS:2379"):
        Endpoint.parse(url)


def test_an_address_of_either_family_is_understood() -> None:
    assert str(Endpoint.parse("https://[fd00::1]:2379")) == "[fd00::1]:2379"
    assert Endpoint.parse("https://10.0.0.1") == Endpoint("10.0.0.1", 2379)


def test_a_view_tells_voters_learners_and_the_leader() -> None:
    one = EtcdMember(id=1, name="s1-00000001", node="s1", healthy=True)
    two = EtcdMember(id=2, name="", node="", is_learner=True)
    view = EtcdView(cluster_id=9, leader_id=1, members=(one, two))
    assert (view.voters, view.learners, view.leader) == ((one,), (two,), one)
    assert view.of_node("s1") == (one,)
    assert EtcdView(cluster_id=9, leader_id=None, members=(one,)).leader is None
