"""The store's questions of every second: which nodes may have run out of time, and is anybody joining?

Parts of `fleet.store.transaction.Reader`. The database picks the few rows that may matter: of thousands of
nodes that are well, none is made a value.
"""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from fleet.lifecycle import State
from fleet.store.records import NodeRecord, node_from_row
from fleet.store.tables import nodes


class WatchReads:
    """Questions."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def nodes_at_risk(
        self, timed: Iterable[State], reporting: Iterable[State], silent_since: float
    ) -> list[NodeRecord]:
        """Nodes in a state that has a time limit, and those that should report and were not heard since."""
        silent = sa.and_(
            nodes.c.state.in_([state.value for state in reporting]),
            nodes.c.since < silent_since,
            sa.or_(nodes.c.status_at.is_(None), nodes.c.status_at < silent_since),
        )
        limited = nodes.c.state.in_([state.value for state in timed])
        query = sa.select(nodes).where(sa.or_(limited, silent)).order_by(nodes.c.name)
        return [node_from_row(row) for row in self._connection.execute(query).mappings()]

    def installed_count(self) -> int:
        """How many nodes have a certificate to report with."""
        return int(self._connection.execute(sa.select(sa.func.count(nodes.c.certificate))).scalar() or 0)

    def has_node_in(self, states: Iterable[State], *, join_allowed: bool | None = None) -> bool:
        """Whether any node is in one of the states, and (where that is given) may or may not join."""
        query = sa.select(nodes.c.name).where(nodes.c.state.in_([state.value for state in states]))
        if join_allowed is not None:
            query = query.where(nodes.c.join_allowed.is_(join_allowed))
        return self._connection.execute(query.limit(1)).first() is not None
