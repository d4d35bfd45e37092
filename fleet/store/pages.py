"""Long lists in pieces: each begins after the last of the piece before, in an order that never changes."""

from __future__ import annotations

import sqlalchemy as sa

from fleet.store.records import BoardRecord, EventRecord, NodeRecord, board_from_row, node_from_row
from fleet.store.tables import boards, events, nodes
from fleet.store.transaction import Reader


def nodes_after(reader: Reader, name: str, limit: int) -> list[NodeRecord]:
    """By name."""
    query = sa.select(nodes).where(nodes.c.name > name).order_by(nodes.c.name).limit(limit)
    return [node_from_row(row) for row in reader.connection.execute(query).mappings()]


def boards_after(reader: Reader, key: str, limit: int, *, held: bool) -> list[BoardRecord]:
    """By their key in `boards`; all that were seen, or the held ones only."""
    query = sa.select(boards).where(boards.c.id > key).order_by(boards.c.id).limit(limit)
    if held:
        query = query.where(boards.c.held_reason.is_not(None))
    return [board_from_row(row) for row in reader.connection.execute(query).mappings()]


def events_after(reader: Reader, number: int, limit: int, *, node: str | None) -> list[EventRecord]:
    """By their number, which grows in the order of the commits: a follower misses nothing."""
    query = sa.select(events).where(events.c.id > number).order_by(events.c.id).limit(limit)
    if node is not None:
        query = query.where(events.c.node == node)
    return [EventRecord(**row) for row in reader.connection.execute(query).mappings()]
