"""The messages of etcd's API that Bramble sends and reads. Pure.

A reader takes what it knows and passes over the rest, so that a newer etcd can be read.

Source: etcd 3.5, api/etcdserverpb/rpc.proto (field numbers); the fields that 3.6 added are not needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol, Self

from fleet.etcd.wire import WireError, encode_number, parse_fields

MAX_MEMBERS: Final = 256
"""More than any etcd has: seven is the most that its authors advise."""
_Fields = dict[int, list[int | bytes]]


class Request(Protocol):
    """What can be sent."""

    def encode(self) -> bytes:
        """The message's bytes."""


@dataclass(frozen=True, slots=True)
class MemberListRequest:
    """1 linearizable: the answer is the cluster's, and needs a quorum; else it is the asked member's own."""

    linearizable: bool

    def encode(self) -> bytes:
        return encode_number(1, int(self.linearizable))


@dataclass(frozen=True, slots=True)
class MemberRequest:
    """1 ID of a member: to be removed, or to lead."""

    member_id: int

    def encode(self) -> bytes:
        return encode_number(1, self.member_id)


@dataclass(frozen=True, slots=True)
class EmptyRequest:
    """Status and Snapshot need nothing."""

    def encode(self) -> bytes:
        return b""


@dataclass(frozen=True, slots=True)
class Header:
    """1 cluster_id · 2 member_id (who answers) · 3 revision (not in every answer) · 4 raft_term."""

    cluster_id: int = 0
    member_id: int = 0
    revision: int = 0
    raft_term: int = 0

    @classmethod
    def parse(cls, data: bytes) -> Self:
        fields = _collect(data)
        return cls(*(_number(fields, field) for field in (1, 2, 3, 4)))


@dataclass(frozen=True, slots=True, kw_only=True)
class RawMember:
    """1 ID · 2 name · 3 peerURLs · 4 clientURLs · 5 isLearner. One that never started has no name."""

    id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool

    @classmethod
    def parse(cls, data: bytes) -> Self:
        fields = _collect(data)
        return cls(
            id=_number(fields, 1),
            name=_text(fields, 2),
            peer_urls=_texts(fields, 3),
            client_urls=_texts(fields, 4),
            is_learner=bool(_number(fields, 5)),
        )


@dataclass(frozen=True, slots=True)
class MemberListResponse:
    """1 header · 2 members. MemberRemove answers the same."""

    header: Header
    members: tuple[RawMember, ...]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        fields = _collect(data)
        found = fields.get(2, [])
        if len(found) > MAX_MEMBERS:
            raise WireError(f"etcd lists {len(found)} members")
        return cls(
            Header.parse(_message(fields, 1)), tuple(RawMember.parse(_as_bytes(item)) for item in found)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusResponse:
    """1 header · 2 version · 3 dbSize · 4 leader · 7 raftAppliedIndex · 8 errors · 10 isLearner.

    What a member says of itself, with or without a leader (0).
    """

    header: Header
    version: str
    db_bytes: int
    leader: int
    applied_index: int
    errors: tuple[str, ...]
    is_learner: bool

    @classmethod
    def parse(cls, data: bytes) -> Self:
        fields = _collect(data)
        return cls(
            header=Header.parse(_message(fields, 1)),
            version=_text(fields, 2),
            db_bytes=_number(fields, 3),
            leader=_number(fields, 4),
            applied_index=_number(fields, 7),
            errors=_texts(fields, 8),
            is_learner=bool(_number(fields, 10)),
        )


@dataclass(frozen=True, slots=True)
class HeaderResponse:
    """1 header: what MoveLeader answers."""

    header: Header

    @classmethod
    def parse(cls, data: bytes) -> Self:
        return cls(Header.parse(_message(_collect(data), 1)))


@dataclass(frozen=True, slots=True)
class SnapshotResponse:
    """1 header · 2 remaining_bytes after this one · 3 blob: the next bytes of the file."""

    header: Header
    remaining_bytes: int
    blob: bytes

    @classmethod
    def parse(cls, data: bytes) -> Self:
        fields = _collect(data)
        blob = fields.get(3, [b""])[-1]
        return cls(Header.parse(_message(fields, 1)), _number(fields, 2), _as_bytes(blob))


def _collect(data: bytes) -> _Fields:
    fields: _Fields = {}
    for field, value in parse_fields(data):
        fields.setdefault(field, []).append(value)
    return fields


def _number(fields: _Fields, field: int) -> int:
    """The last one counts, as everywhere in Protocol Buffers; absent is 0."""
    value = fields.get(field, [0])[-1]
    if not isinstance(value, int):
        raise WireError(f"field {field} should be a number")
    return value


def _message(fields: _Fields, field: int) -> bytes:
    return _as_bytes(fields.get(field, [b""])[-1])


def _as_bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise WireError("a message was expected, and there is a number")
    return value


def _text(fields: _Fields, field: int) -> str:
    return _decode(fields.get(field, [b""])[-1])


def _texts(fields: _Fields, field: int) -> tuple[str, ...]:
    return tuple(_decode(value) for value in _iterate(fields, field))


def _iterate(fields: _Fields, field: int) -> Iterable[int | bytes]:
    return fields.get(field, [])


def _decode(value: int | bytes) -> str:
    try:
        return _as_bytes(value).decode()
    except UnicodeDecodeError as error:
        raise WireError("a text is not UTF-8") from error
