"""Every node at a glance: the few columns that change while boards are at work, without their reports.

For what looks once a second at hundreds of nodes: a report is a kilobyte of JSON to unpack, and is left where
it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from fleet.lifecycle import State
from fleet.spec.model import Role
from fleet.store.access import AuditRecord
from fleet.store.records import EventRecord, NodeRecord, node_from_row
from fleet.store.tables import audit, events, nodes
from fleet.store.transaction import Reader


@dataclass(frozen=True, slots=True)
class NodeGlance:
    """One node. `since` is UTC seconds."""

    name: str
    board: str
    role: str
    state: State
    since: float
    attempt: int
    detail: str
    pending_key: str | None


_COLUMNS = (
    nodes.c.name,
    nodes.c.board,
    nodes.c.role,
    nodes.c.state,
    nodes.c.since,
    nodes.c.attempt,
    nodes.c.detail,
    nodes.c.pending_key,
)
_GLANCES = sa.select(*_COLUMNS).order_by(nodes.c.name)
_STATES = {state.value: state for state in State}


def glances(reader: Reader, name: str | None = None) -> list[NodeGlance]:
    """All nodes, by name; or the one with this name."""
    query = _GLANCES if name is None else _GLANCES.where(nodes.c.name == name)
    return [
        NodeGlance(node, board, role, _STATES[state], since, attempt, detail, pending)
        for node, board, role, state, since, attempt, detail, pending in reader.connection.execute(query)
    ]


def nodes_of_role(reader: Reader, role: Role) -> list[NodeRecord]:
    """The whole records of all servers, or of all agents, by name."""
    query = sa.select(nodes).where(nodes.c.role == role.value).order_by(nodes.c.name)
    return [node_from_row(row) for row in reader.connection.execute(query).mappings()]


def newest_event(reader: Reader) -> int:
    """The highest number of an event; 0 where there is none."""
    return int(reader.connection.execute(sa.select(sa.func.max(events.c.id))).scalar() or 0)


def find_events(
    reader: Reader,
    limit: int,
    *,
    before: int | None = None,
    node: str | None = None,
    kinds: Sequence[str] = (),
    text: str = "",
) -> list[EventRecord]:
    """The newest entries of all timelines, the newest first.

    Args:
        before: Only those with a smaller number.
        text: Only those with this in their text, in any case.
    """
    query = sa.select(events).order_by(events.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(events.c.id < before)
    if node:
        query = query.where(sa.or_(events.c.node == node, events.c.board == node))
    if kinds:
        query = query.where(events.c.kind.in_(kinds))
    if text:
        query = query.where(events.c.text.icontains(text, autoescape=True))
    return [EventRecord(**row) for row in reader.connection.execute(query).mappings()]


def owners_of_events(reader: Reader, limit: int) -> list[tuple[int, str | None, str | None]]:
    """Number, node and board of the newest entries of all timelines, the newest first."""
    query = sa.select(events.c.id, events.c.node, events.c.board).order_by(events.c.id.desc()).limit(limit)
    return [(number, node, board) for number, node, board in reader.connection.execute(query)]


def reports_since(reader: Reader, at: float) -> list[tuple[str, float, dict[str, Any] | None]]:
    """Name, time and content of each node's last report, of those that arrived after `at` (UTC seconds)."""
    query = sa.select(nodes.c.name, nodes.c.status_at, nodes.c.status).where(nodes.c.status_at > at)
    return [(name, float(told), status) for name, told, status in reader.connection.execute(query)]


def images_in_use(reader: Reader) -> dict[str, list[str]]:
    """Image id → names of the nodes that were installed from it, by name; decommissioned ones are none."""
    query = (
        sa.select(nodes.c.image_id, nodes.c.name)
        .where(nodes.c.image_id.is_not(None), nodes.c.state != State.DECOMMISSIONED.value)
        .order_by(nodes.c.name)
    )
    found: dict[str, list[str]] = {}
    for image, name in reader.connection.execute(query):
        found.setdefault(image, []).append(name)
    return found


def audit_before(reader: Reader, limit: int, *, before: int | None = None) -> list[AuditRecord]:
    """What people had done, the newest first; of those with a smaller number than `before`."""
    query = sa.select(audit).order_by(audit.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(audit.c.id < before)
    return [AuditRecord(**row) for row in reader.connection.execute(query).mappings()]
