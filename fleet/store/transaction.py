"""What can be asked of the store, and changed in it.

`Transaction.move` is the only way to change a node's state: it passes `fleet.lifecycle.advance` and writes
the timeline entry in the same transaction.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Final

import sqlalchemy as sa

from fleet.lifecycle import Happening, advance
from fleet.store.access import AccessReads, AccessWrites
from fleet.store.records import (
    BoardRecord,
    EventRecord,
    IntentRecord,
    NodeRecord,
    TicketRecord,
    board_from_row,
    node_from_row,
)
from fleet.store.reimages import ReimageReads, ReimageWrites
from fleet.store.rollouts import RolloutReads, RolloutWrites
from fleet.store.tables import boards, events, intents, kv, nodes, tickets
from fleet.store.trust import TrustReads, TrustWrites
from fleet.store.watching import WatchReads
from fleet.timeline import Entry

_LIFECYCLE_COLUMNS: Final = frozenset({"name", "state", "since", "progressed_at", "attempt", "standing"})
TIMELINE_LIMIT: Final = 1000
"""Entries that one question answers at most; the newest."""


def begins_with(column: sa.Column[str], prefix: str, connection: sa.Connection) -> sa.ColumnElement[bool]:
    """Whether a text begins so; on SQLite as a range, which an index answers, and LIKE there does not.

    PostgreSQL's order of texts is its locale's, in which that range means something else.
    """
    if connection.dialect.name != "sqlite":
        return column.startswith(prefix, autoescape=True)
    return sa.and_(column >= prefix, column < prefix[:-1] + chr(ord(prefix[-1]) + 1))


class Reader(TrustReads, AccessReads, ReimageReads, RolloutReads, WatchReads):
    """Questions. Every answer is a frozen value."""

    @property
    def connection(self) -> sa.Connection:
        """For what looks at tables as such: backup and restore."""
        return self._connection

    def node(self, name: str) -> NodeRecord | None:
        row = self._connection.execute(sa.select(nodes).where(nodes.c.name == name)).mappings().first()
        return None if row is None else node_from_row(row)

    def require_node(self, name: str) -> NodeRecord:
        """The node's record; it must exist."""
        found = self.node(name)
        if found is None:
            raise KeyError(name)
        return found

    def nodes(self) -> list[NodeRecord]:
        """All nodes, by name."""
        rows = self._connection.execute(sa.select(nodes).order_by(nodes.c.name)).mappings()
        return [node_from_row(row) for row in rows]

    def node_of_certificate(self, serial: str) -> NodeRecord | None:
        """Whose certificate it is: the one in force, or the one before it that is still accepted."""
        matches = sa.or_(nodes.c.certificate == serial, nodes.c.previous_certificate == serial)
        row = self._connection.execute(sa.select(nodes).where(matches)).mappings().first()
        return None if row is None else node_from_row(row)

    def board(self, key: str) -> BoardRecord | None:
        row = self._connection.execute(sa.select(boards).where(boards.c.id == key)).mappings().first()
        return None if row is None else board_from_row(row)

    def held_boards(self) -> list[BoardRecord]:
        """Boards that are no node's, in the order in which they were first seen."""
        query = sa.select(boards).where(boards.c.held_reason.is_not(None)).order_by(boards.c.first_seen)
        return [board_from_row(row) for row in self._connection.execute(query).mappings()]

    def boards_with_mac(self, mac: str) -> list[BoardRecord]:
        """Boards that have shown a MAC address, the one that was seen last first."""
        query = sa.select(boards).where(sa.cast(boards.c.macs, sa.Text).contains(f'"{mac}"'))
        rows = self._connection.execute(query.order_by(boards.c.last_seen.desc())).mappings()
        return [record for row in rows if mac in (record := board_from_row(row)).macs]

    def board_count(self) -> int:
        """How many boards were ever recorded, held or not."""
        return int(self._connection.execute(sa.select(sa.func.count()).select_from(boards)).scalar() or 0)

    def open_intent(self, node: str) -> IntentRecord | None:
        query = sa.select(intents).where(intents.c.node == node, intents.c.closed.is_(None))
        row = self._connection.execute(query.order_by(intents.c.number.desc())).mappings().first()
        return None if row is None else IntentRecord(**row)

    def events_since(self, last: int) -> tuple[int, dict[tuple[str, str], int]]:
        """Number of the newest entry, and how many came after `last`, of each node and kind."""
        newest = self._connection.execute(sa.select(sa.func.max(events.c.id))).scalar() or last
        since = sa.and_(events.c.id > last, events.c.id <= newest, events.c.node.is_not(None))
        columns = events.c.node, events.c.kind
        query = sa.select(*columns, sa.func.count()).where(since).group_by(*columns)
        return newest, {(node, kind): count for node, kind, count in self._connection.execute(query)}

    def open_intents(self) -> dict[str, IntentRecord]:
        """Every node's open intent."""
        rows = self._connection.execute(sa.select(intents).where(intents.c.closed.is_(None))).mappings()
        return {row["node"]: IntentRecord(**row) for row in rows}

    def intent_of_token(self, token_sha256: str) -> IntentRecord | None:
        query = sa.select(intents).where(intents.c.token_sha256 == token_sha256)
        row = self._connection.execute(query).mappings().first()
        return None if row is None else IntentRecord(**row)

    def next_intent_number(self, node: str) -> int:
        """The number that the node's next intent will have; numbers count from 1 for each node."""
        query = sa.select(sa.func.max(intents.c.number)).where(intents.c.node == node)
        return int(self._connection.execute(query).scalar() or 0) + 1

    def last_intent_numbers(self) -> dict[str, int]:
        """Every node's highest intent number; nodes without an intent are absent."""
        query = sa.select(intents.c.node, sa.func.max(intents.c.number)).group_by(intents.c.node)
        return {name: int(number) for name, number in self._connection.execute(query)}

    def tickets(self, node: str) -> list[TicketRecord]:
        """The node's tickets, the newest first."""
        query = sa.select(tickets).where(tickets.c.node == node)
        rows = self._connection.execute(query.order_by(tickets.c.intent.desc(), tickets.c.attempt.desc()))
        return [TicketRecord(**row) for row in rows.mappings()]

    def timeline(
        self,
        *,
        node: str | None = None,
        board: str | None = None,
        since: int = 0,
        limit: int = TIMELINE_LIMIT,
    ) -> list[EventRecord]:
        """The newest `limit` entries with an id above `since`, in order; of one node, one board, or all."""
        query = sa.select(events).where(events.c.id > since)
        owners = [
            column == value for column, value in ((events.c.node, node), (events.c.board, board)) if value
        ]
        if owners:
            query = query.where(sa.or_(*owners))
        rows = self._connection.execute(query.order_by(events.c.id.desc()).limit(limit)).mappings().all()
        # By time: stages of the firmware are written in batches, a moment after they happened.
        return sorted((EventRecord(**row) for row in rows), key=lambda event: (event.at, event.id))

    def value(self, key: str) -> str | None:
        answer: str | None = self._connection.execute(sa.select(kv.c.value).where(kv.c.key == key)).scalar()
        return answer

    def json_value(self, key: str) -> dict[str, Any] | None:
        """A value that was written by `put_json`."""
        text = self.value(key)
        found: dict[str, Any] | None = None if text is None else json.loads(text)
        return found

    def values(self, prefix: str) -> dict[str, str]:
        """All values whose key begins with `prefix`."""
        query = sa.select(kv.c.key, kv.c.value).where(begins_with(kv.c.key, prefix, self._connection))
        return {key: value for key, value in self._connection.execute(query)}


class Transaction(Reader, TrustWrites, AccessWrites, ReimageWrites, RolloutWrites):
    """Questions and changes; all become durable together."""

    def add_node(self, record: NodeRecord) -> None:
        standing = asdict(record.standing)
        values = {key: getattr(record, key) for key in record.__dataclass_fields__ if key != "standing"}
        values["node_password"] = record.node_password.reveal()
        self._connection.execute(sa.insert(nodes).values(**values, **standing))

    def move(
        self, node: NodeRecord, happening: Happening, entry: Entry, now: float, **changes: Any
    ) -> NodeRecord:
        """Take the node along the lifecycle, with its timeline entry.

        Args:
            changes: Other columns that change with the state. `detail` is emptied unless given.

        Raises:
            IllegalTransitionError: The whitelist does not have this step.
        """
        standing = advance(node.standing, happening, now)
        self._write_node(node.name, {"detail": "", **changes, **asdict(standing)})
        self.add_event(entry, now, node=node.name, board=node.board_id)
        return self.require_node(node.name)

    def note_progress(self, node: NodeRecord, happening: Happening, now: float, detail: str) -> NodeRecord:
        """Progress within a state or back into it, without a timeline entry: percentages would drown it."""
        standing = advance(node.standing, happening, now)
        self._write_node(node.name, {"detail": detail, **asdict(standing)})
        return replace(node, standing=standing, detail=detail)

    def update_node(self, node: NodeRecord, **changes: Any) -> NodeRecord:
        """Change columns that are not the lifecycle's."""
        forbidden = _LIFECYCLE_COLUMNS & changes.keys()
        if forbidden:
            raise ValueError(f"{sorted(forbidden)} belong to the lifecycle: use move()")
        self._write_node(node.name, changes)
        return self.require_node(node.name)

    def _write_node(self, name: str, values: dict[str, Any]) -> None:
        self._connection.execute(sa.update(nodes).where(nodes.c.name == name).values(**values))

    def put_board(self, record: BoardRecord) -> None:
        """Make or replace the board's row."""
        values = asdict(record)
        values["macs"] = list(record.macs)
        changed = self._connection.execute(sa.update(boards).where(boards.c.id == record.id).values(**values))
        if changed.rowcount == 0:
            self._connection.execute(sa.insert(boards).values(**values))

    def open_new_intent(self, node: str, now: float, ttl_s: float, installation: str) -> IntentRecord:
        """Open an intent; one that is still open is closed first, so that a node has at most one."""
        self._connection.execute(
            sa.update(intents)
            .where(intents.c.node == node, intents.c.closed.is_(None))
            .values(closed=now, why="replaced by a newer intent")
        )
        intent = IntentRecord(
            number=self.next_intent_number(node),
            node=node,
            opened=now,
            expires=now + ttl_s,
            attempts=0,
            closed=None,
            why=None,
            token_sha256=None,
            installation=installation,
            occupant=None,
        )
        self._connection.execute(sa.insert(intents).values(**asdict(intent)))
        return intent

    def skip_intents(self, node: str, number: int, why: str, now: float) -> None:
        """Use up a number, and all below it, without an installation."""
        values = {"node": node, "number": number, "opened": now, "expires": now, "attempts": 0}
        self._connection.execute(sa.insert(intents).values(**values, closed=now, why=why))

    def update_intent(self, intent: IntentRecord, **changes: Any) -> None:
        same = sa.and_(intents.c.node == intent.node, intents.c.number == intent.number)
        self._connection.execute(sa.update(intents).where(same).values(**changes))

    def close_intent(self, intent: IntentRecord, why: str, now: float) -> None:
        self.update_intent(intent, closed=now, why=why)

    def add_ticket(self, sha256: str, node: str, intent: int, attempt: int, now: float) -> None:
        """Record a ticket; one that is known already is left as it is."""
        if self._connection.execute(sa.select(tickets.c.sha256).where(tickets.c.sha256 == sha256)).first():
            return
        values = {"sha256": sha256, "node": node, "intent": intent, "attempt": attempt, "minted_at": now}
        self._connection.execute(sa.insert(tickets).values(**values))

    def burn_ticket(self, sha256: str, by: str, now: float) -> bool:
        """Use the ticket up; False when it was used already (the check and the mark are one statement)."""
        unused = sa.update(tickets).where(tickets.c.sha256 == sha256, tickets.c.used_at.is_(None))
        return self._connection.execute(unused.values(used_at=now, used_by=by)).rowcount == 1

    def add_event(
        self, entry: Entry, at: float, *, node: str | None = None, board: str | None = None
    ) -> None:
        """Append to the timeline of a node, of a board, or both."""
        values = {"kind": entry.kind, "text": entry.text, "hint": entry.hint, "detail": dict(entry.detail)}
        self._connection.execute(sa.insert(events).values(at=at, node=node, board=board, **values))

    def trim_events(self, node: str, kind: str, keep: int) -> None:
        """Delete the node's entries of one kind but for the newest `keep`."""
        own = sa.and_(events.c.node == node, events.c.kind == kind)
        query = sa.select(events.c.id).where(own).order_by(events.c.id.desc()).offset(keep).limit(1)
        newest_too_many = self._connection.execute(query).scalar()
        if newest_too_many is not None:
            self._connection.execute(sa.delete(events).where(own, events.c.id <= newest_too_many))

    def trim_strangers(self, keep: int) -> None:
        """Delete the entries of boards that are no node's, but for the newest `keep` of them all."""
        own = events.c.node.is_(None)
        query = sa.select(events.c.id).where(own).order_by(events.c.id.desc()).offset(keep).limit(1)
        newest_too_many = self._connection.execute(query).scalar()
        if newest_too_many is not None:
            self._connection.execute(sa.delete(events).where(own, events.c.id <= newest_too_many))

    def put_value(self, key: str, value: str) -> None:
        changed = self._connection.execute(sa.update(kv).where(kv.c.key == key).values(value=value))
        if changed.rowcount == 0:
            self._connection.execute(sa.insert(kv).values(key=key, value=value))

    def put_json(self, key: str, value: Mapping[str, Any]) -> None:
        """One object, its keys in order: equal values are equal texts."""
        self.put_value(key, json.dumps(value, sort_keys=True))

    def remove_value(self, key: str) -> None:
        self._connection.execute(sa.delete(kv).where(kv.c.key == key))

    def claim_value(self, key: str, value: str) -> str:
        """Set `key` if it is not set, and tell what it holds: who comes first, wins for ever."""
        held = self.value(key)
        if held is None:
            self._connection.execute(sa.insert(kv).values(key=key, value=value))
            return value
        return held
