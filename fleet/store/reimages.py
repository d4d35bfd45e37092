"""The store's questions and changes about re-images, replacements and decommissions.

Parts of `fleet.store.transaction.Reader` and `Transaction`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from fleet.lifecycle import State
from fleet.reimage.kinds import Outcome, ReimageKind
from fleet.store.records import ReimageRecord
from fleet.store.tables import intents, reimages


class ReimageReads:
    """Questions."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def open_reimage(self, node: str) -> ReimageRecord | None:
        """The order that the node is under."""
        query = sa.select(reimages).where(reimages.c.node == node, reimages.c.closed_at.is_(None))
        row = self._connection.execute(query).mappings().first()
        return None if row is None else _from_row(row)

    def open_reimages(self) -> dict[str, ReimageRecord]:
        """Every node's open order, the oldest first."""
        query = sa.select(reimages).where(reimages.c.closed_at.is_(None)).order_by(reimages.c.requested_at)
        return {row["node"]: _from_row(row) for row in self._connection.execute(query).mappings()}

    def reimage(self, node: str, number: int) -> ReimageRecord | None:
        """One order, open or closed."""
        query = sa.select(reimages).where(reimages.c.node == node, reimages.c.number == number)
        row = self._connection.execute(query).mappings().first()
        return None if row is None else _from_row(row)

    def reimages(self, node: str | None = None, *, limit: int = 100) -> list[ReimageRecord]:
        """The newest orders first; of one node, by number: clocks are set back. Or of all."""
        query = sa.select(reimages)
        if node is None:
            query = query.order_by(reimages.c.requested_at.desc())
        else:
            query = query.where(reimages.c.node == node)
        query = query.order_by(reimages.c.number.desc())
        return [_from_row(row) for row in self._connection.execute(query.limit(limit)).mappings()]

    def newest_reimages(self) -> dict[str, ReimageRecord]:
        """Every node's newest order, open or closed."""
        last = sa.select(reimages.c.node, sa.func.max(reimages.c.number).label("number"))
        newest = last.group_by(reimages.c.node).subquery()
        same = sa.and_(reimages.c.node == newest.c.node, reimages.c.number == newest.c.number)
        query = sa.select(reimages).join(newest, same)
        return {row["node"]: _from_row(row) for row in self._connection.execute(query).mappings()}


class ReimageWrites(ReimageReads):
    """Changes."""

    def add_reimage(self, record: ReimageRecord) -> None:
        """Write an order down; a node has at most one that is open."""
        columns = ReimageRecord.__dataclass_fields__
        values = _plain({name: getattr(record, name) for name in columns})
        self._connection.execute(sa.insert(reimages).values(**values))

    def update_reimage(self, record: ReimageRecord, **changes: Any) -> ReimageRecord:
        """Change columns of an order; the order as it is now."""
        same = sa.and_(reimages.c.node == record.node, reimages.c.number == record.number)
        self._connection.execute(sa.update(reimages).where(same).values(**_plain(changes)))
        found = self.reimage(record.node, record.number)
        if found is None:
            raise KeyError((record.node, record.number))
        return found

    def note_reimage(self, record: ReimageRecord, **progress: Any) -> ReimageRecord:
        """Add to an order's progress, JSON values by name; what else it holds by now is kept."""
        present = self.reimage(record.node, record.number)
        known = present.progress if present is not None else record.progress
        return self.update_reimage(record, progress={**known, **progress})

    def close_reimage(self, record: ReimageRecord, outcome: Outcome, reason: str, now: float) -> None:
        """An order ends; its row stays."""
        self.update_reimage(record, outcome=outcome, reason=reason, closed_at=now)

    def open_reserved_intent(
        self, node: str, number: int, now: float, ttl_s: float, installation: str
    ) -> None:
        """Open the intent whose number was used up for this (`skip_intents`); one that is open is closed."""
        self._connection.execute(
            sa.update(intents)
            .where(intents.c.node == node, intents.c.closed.is_(None), intents.c.number != number)
            .values(closed=now, why="replaced by a re-image")
        )
        same = sa.and_(intents.c.node == node, intents.c.number == number)
        changes = {"opened": now, "expires": now + ttl_s, "closed": None, "why": None}
        self._connection.execute(
            sa.update(intents).where(same).values(**changes, attempts=0, installation=installation)
        )


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As the columns hold them."""
    names = ("kind", "was", "outcome")
    plain = {
        name: value.value if name in names and value is not None else value for name, value in values.items()
    }
    if "progress" in plain:
        plain["progress"] = dict(plain["progress"])
    return plain


def _from_row(row: Mapping[Any, Any]) -> ReimageRecord:
    values = dict(row)
    values["kind"] = ReimageKind(values["kind"])
    values["was"] = State(values["was"])
    values["outcome"] = None if values["outcome"] is None else Outcome(values["outcome"])
    return ReimageRecord(**values)
