"""The store's questions and changes about trust: device keys, which board a node is, and what was refused.

Parts of `fleet.store.transaction.Reader` and `Transaction`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import sqlalchemy as sa

from agent.protocol import Outcome
from fleet.store.tables import device_keys, events, node_boards, refusals
from fleet.timeline import Kind

WHOLE_NODE: Final = ""
"""The key in `refusals` that stands for the node itself."""
MAX_REFUSED_KEYS: Final = 64
"""Keys of one node that stay refused; the oldest is forgotten for a newer."""


class KeySource(StrEnum):
    """How a device key came to be known."""

    IMPORTED = "imported"
    """A person brought it, from the line that made the board."""
    FIRST_USE = "first use"
    """A board showed it that a person had vouched for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKeyRecord:
    """A device key that is a board's own. `board` is the low half of its serial."""

    key_sha256: str
    board: str
    node: str | None
    source: KeySource
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeBoard:
    """The board that a node is.

    Attributes:
        intent: Under which its installer claimed it; None where it is an agent's word.
        key: SHA-256 of that installer's session key.
        contested: Another installer claimed the same, under the same intent.
    """

    node: str
    serial: str | None
    macs: tuple[str, ...]
    intent: int | None
    key: str | None
    contested: bool


def _node_board(row: sa.RowMapping) -> NodeBoard:
    return NodeBoard(**{**row, "macs": tuple(row["macs"])})


class TrustReads:
    """Questions."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def device_keys(self, *, board: str | None, node: str | None) -> list[DeviceKeyRecord]:
        """Keys that are on record for a board or for a node; a node's own come first."""
        owners = [
            column == value
            for column, value in ((device_keys.c.board, board), (device_keys.c.node, node))
            if value is not None
        ]
        if not owners:
            return []
        rows = self._connection.execute(sa.select(device_keys).where(sa.or_(*owners))).mappings()
        found = [DeviceKeyRecord(**{**row, "source": KeySource(row["source"])}) for row in rows]
        return sorted(found, key=lambda record: (record.node != node or node is None, record.at))

    def all_device_keys(self) -> list[DeviceKeyRecord]:
        """Every key on record, by board."""
        rows = self._connection.execute(sa.select(device_keys).order_by(device_keys.c.board)).mappings()
        return [DeviceKeyRecord(**{**row, "source": KeySource(row["source"])}) for row in rows]

    def device_key(self, key_sha256: str) -> DeviceKeyRecord | None:
        query = sa.select(device_keys).where(device_keys.c.key_sha256 == key_sha256)
        row = self._connection.execute(query).mappings().first()
        return None if row is None else DeviceKeyRecord(**{**row, "source": KeySource(row["source"])})

    def node_board(self, node: str) -> NodeBoard | None:
        query = sa.select(node_boards).where(node_boards.c.node == node)
        row = self._connection.execute(query).mappings().first()
        return None if row is None else _node_board(row)

    def bound_boards(self) -> dict[str, NodeBoard]:
        """The board that each node was last seen to be, by node."""
        rows = self._connection.execute(sa.select(node_boards)).mappings()
        return {row["node"]: _node_board(row) for row in rows}

    def is_refused(self, node: str, key: str = WHOLE_NODE) -> bool:
        """Whether a person turned this key of the node away; without a key: whether the node is revoked."""
        same = sa.and_(refusals.c.node == node, refusals.c.key == key)
        return self._connection.execute(sa.select(refusals.c.at).where(same)).first() is not None

    def revoked_nodes(self) -> frozenset[str]:
        """The nodes that a person revoked, and did not approve again."""
        query = sa.select(refusals.c.node).where(refusals.c.key == WHOLE_NODE)
        return frozenset(self._connection.execute(query).scalars())

    def enrolled_since(self, at: float) -> frozenset[str]:
        """The nodes that were given a certificate at that time or later, UTC seconds."""
        was_enrolled = sa.and_(
            events.c.kind == Kind.ENROLMENT.value,
            events.c.detail["outcome"].as_string() == Outcome.ENROLLED.value,
        )
        query = sa.select(events.c.node).distinct().where(events.c.at >= at, was_enrolled)
        return frozenset(self._connection.execute(query).scalars())


class TrustWrites(TrustReads):
    """Changes."""

    def put_device_key(self, record: DeviceKeyRecord) -> None:
        """Make or replace the key's row."""
        same = device_keys.c.key_sha256 == record.key_sha256
        self._connection.execute(sa.delete(device_keys).where(same))
        self._connection.execute(
            sa.insert(device_keys).values(
                key_sha256=record.key_sha256,
                board=record.board,
                node=record.node,
                source=record.source.value,
                at=record.at,
            )
        )

    def forget_device_keys(self, *, board: str | None, node: str) -> int:
        """Remove what is on record for a node and for its board; how many keys that were."""
        mine = device_keys.c.node == node
        if board is not None:
            mine = sa.or_(mine, device_keys.c.board == board)
        return self._connection.execute(sa.delete(device_keys).where(mine)).rowcount

    def bind_board(self, bound: NodeBoard) -> None:
        """From now on the node is this board."""
        self.unbind_board(bound.node)
        self._connection.execute(
            sa.insert(node_boards).values(
                node=bound.node,
                serial=bound.serial,
                macs=list(bound.macs),
                intent=bound.intent,
                key=bound.key,
                contested=bound.contested,
            )
        )

    def unbind_board(self, node: str) -> None:
        """The next board that may be the node, is."""
        self._connection.execute(sa.delete(node_boards).where(node_boards.c.node == node))

    def refuse(self, node: str, now: float, key: str = WHOLE_NODE) -> None:
        """Turn a key of the node away; without a key: the node."""
        if self.is_refused(node, key):
            return
        own = sa.and_(refusals.c.node == node, refusals.c.key != WHOLE_NODE)
        query = sa.select(refusals.c.key).where(own).order_by(refusals.c.at.desc())
        too_old = self._connection.execute(query.offset(MAX_REFUSED_KEYS - 1)).scalars().all()
        self._connection.execute(sa.delete(refusals).where(own, refusals.c.key.in_(too_old)))
        self._connection.execute(sa.insert(refusals).values(node=node, key=key, at=now))

    def lift_refusal(self, node: str, key: str = WHOLE_NODE) -> bool:
        """Take a refusal back; False where there was none."""
        same = sa.and_(refusals.c.node == node, refusals.c.key == key)
        return self._connection.execute(sa.delete(refusals).where(same)).rowcount > 0
