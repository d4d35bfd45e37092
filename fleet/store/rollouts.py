"""The store's questions and changes about the fleet lock and rollouts: what several nodes' re-images share.

Parts of `fleet.store.transaction.Reader` and `Transaction`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from fleet.store.records import HoldRecord, RolloutRecord
from fleet.store.tables import holds, rollouts


class RolloutReads:
    """Questions."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def holds(self) -> list[HoldRecord]:
        """Every place of the fleet lock that is taken, the oldest first."""
        query = sa.select(holds).order_by(holds.c.taken_at, holds.c.node)
        return [HoldRecord(**row) for row in self._connection.execute(query).mappings()]

    def open_rollout(self) -> RolloutRecord | None:
        """The rollout that has not ended."""
        query = sa.select(rollouts).where(rollouts.c.closed_at.is_(None)).order_by(rollouts.c.number)
        row = self._connection.execute(query).mappings().first()
        return None if row is None else _from_row(row)

    def last_rollout(self) -> RolloutRecord | None:
        """The newest rollout, ended or not."""
        query = sa.select(rollouts).order_by(rollouts.c.number.desc())
        row = self._connection.execute(query).mappings().first()
        return None if row is None else _from_row(row)


class RolloutWrites(RolloutReads):
    """Changes."""

    def put_hold(self, record: HoldRecord) -> None:
        """Give a node its place, or the place that it has to a newer re-image of it."""
        self.remove_hold(record.node)
        self._connection.execute(
            sa.insert(holds).values(node=record.node, number=record.number, taken_at=record.taken_at)
        )

    def remove_hold(self, node: str) -> bool:
        """Free a node's place; False where it held none."""
        return self._connection.execute(sa.delete(holds).where(holds.c.node == node)).rowcount == 1

    def put_rollout(self, record: RolloutRecord) -> None:
        """Make or replace the row of its number."""
        self._connection.execute(sa.delete(rollouts).where(rollouts.c.number == record.number))
        values = {name: getattr(record, name) for name in RolloutRecord.__dataclass_fields__}
        values |= {"settings": dict(record.settings), "steps": [dict(step) for step in record.steps]}
        self._connection.execute(sa.insert(rollouts).values(**values))


def _from_row(row: Mapping[Any, Any]) -> RolloutRecord:
    values = dict(row)
    values["steps"] = tuple(values["steps"])
    return RolloutRecord(**values)
