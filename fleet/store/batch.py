"""One transaction for many small changes of many nodes: read in two statements, written in a few.

Means the same as a plain `Transaction`, statement by statement: what was read is kept as values, changes of
nodes and timeline entries wait, and before any other statement runs, what waits is written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields, replace
from typing import Any, Final

import sqlalchemy as sa

from fleet.lifecycle import Standing, State
from fleet.store.records import NodeRecord, node_from_row
from fleet.store.tables import events, kv, nodes
from fleet.store.transaction import Transaction, begins_with
from fleet.timeline import Entry

CHUNK: Final = 400
"""Values in one IN list; SQLite's limit is 32,766, the time to prepare grows with it."""
_COLUMNS: Final = tuple(nodes.c.keys())
_STANDING: Final = frozenset(field.name for field in fields(Standing))


class BatchTransaction(Transaction):
    """Questions and changes about the nodes that were fetched, and about all others as ever."""

    def __init__(self, connection: sa.Connection) -> None:
        self._raw = connection
        self._nodes: dict[str, NodeRecord] = {}
        self._has_all = False
        """`_nodes` holds every node, in the order of `nodes()`."""
        self._of_certificate: dict[str, str] = {}
        self._values: dict[str, str | None] = {}
        self._changes: dict[str, dict[str, Any]] = {}
        self._events: list[dict[str, Any]] = []

    @property
    def _connection(self) -> sa.Connection:  # type: ignore[override]
        """For every statement that is not one of this class: it sees what was changed so far."""
        self.flush()
        return self._raw

    def fetch(self, certificates: Iterable[str], prefixes: Sequence[str]) -> None:
        """Read the nodes of certificates, and their values in `kv`: of each node, one for each prefix."""
        wanted = list(dict.fromkeys(certificates))
        self._fetch_nodes(nodes.c.certificate, wanted)
        # The one before is shown until the newer one was used once: by hardly anybody.
        others = [certificate for certificate in wanted if certificate not in self._of_certificate]
        self._fetch_nodes(nodes.c.previous_certificate, others)
        used = [prefix for prefix in prefixes if self._has_key(prefix)]
        self._values |= dict.fromkeys(f"{prefix}{name}" for name in self._nodes for prefix in prefixes)
        keys = [f"{prefix}{name}" for name in self._nodes for prefix in used]
        for start in range(0, len(keys), CHUNK):
            query = sa.select(kv.c.key, kv.c.value).where(kv.c.key.in_(keys[start : start + CHUNK]))
            self._values |= {key: value for key, value in self._raw.execute(query)}

    def _fetch_nodes(self, column: sa.Column[Any], certificates: Sequence[str]) -> None:
        for start in range(0, len(certificates), CHUNK):
            query = sa.select(nodes).where(column.in_(certificates[start : start + CHUNK]))
            for row in self._raw.execute(query):  # without its mapping, which takes as long again
                self._keep(node_from_row(dict(zip(_COLUMNS, row, strict=True))))

    def _has_key(self, prefix: str) -> bool:
        """Whether any key begins so: mostly none does, and one question tells."""
        query = sa.select(kv.c.key).where(begins_with(kv.c.key, prefix, self._raw)).limit(1)
        return self._raw.execute(query).first() is not None

    def flush(self) -> None:
        """Write what waits."""
        if self._changes:
            changes, self._changes = self._changes, {}
            alike: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
            for name, values in changes.items():
                alike[tuple(sorted(values))].append({"the_node": name, **values})
            statement = sa.update(nodes).where(nodes.c.name == sa.bindparam("the_node"))
            for rows in alike.values():
                self._raw.execute(statement, rows)
        if self._events:
            entries, self._events = self._events, []
            self._raw.execute(sa.insert(events), entries)

    def node(self, name: str) -> NodeRecord | None:
        known = self._nodes.get(name)
        if known is None and (found := super().node(name)) is not None:
            known = self._keep(found)
        return known

    def nodes(self) -> list[NodeRecord]:
        if not self._has_all:
            for node in super().nodes():
                self._nodes.pop(node.name, None)
                self._keep(node)
            self._has_all = True
        return list(self._nodes.values())

    def add_node(self, record: NodeRecord) -> None:
        super().add_node(record)
        self._has_all = False

    def node_of_certificate(self, serial: str) -> NodeRecord | None:
        name = self._of_certificate.get(serial)
        if name is None:
            found = super().node_of_certificate(serial)
            return None if found is None else self._keep(found)
        node = self._nodes[name]
        return node if serial in (node.certificate, node.previous_certificate) else None

    def value(self, key: str) -> str | None:
        return self._values[key] if key in self._values else super().value(key)

    def put_value(self, key: str, value: str) -> None:
        super().put_value(key, value)
        self._values[key] = value

    def remove_value(self, key: str) -> None:
        super().remove_value(key)
        self._values[key] = None

    def claim_value(self, key: str, value: str) -> str:
        self._values[key] = super().claim_value(key, value)
        return self._values[key] or ""

    def add_event(
        self, entry: Entry, at: float, *, node: str | None = None, board: str | None = None
    ) -> None:
        values = {"kind": entry.kind, "text": entry.text, "hint": entry.hint, "detail": dict(entry.detail)}
        self._events.append({"at": at, "node": node, "board": board, **values})

    def _write_node(self, name: str, values: dict[str, Any]) -> None:
        self._changes.setdefault(name, {}).update(values)
        known = self._nodes.get(name)
        if known is None:
            return
        plain = {column: value for column, value in values.items() if column not in _STANDING}
        moved = {column: value for column, value in values.items() if column in _STANDING}
        if moved:
            standing = {**asdict(known.standing), **moved}
            plain["standing"] = Standing(**{**standing, "state": State(standing["state"])})
        self._keep(replace(known, **plain))

    def _keep(self, node: NodeRecord) -> NodeRecord:
        self._nodes[node.name] = node
        for certificate in (node.certificate, node.previous_certificate):
            if certificate is not None:
                self._of_certificate[certificate] = node.name
        return node
