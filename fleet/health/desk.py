"""Keeps every node's conditions: fed by status reports, read by the timeline, the tables and the metrics.

What holds is stored (kv `health.<node>`) whenever it changes, in the transaction of the report that changed
it; how close a condition is to beginning or ending is remembered in memory only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from agent.protocol import Status
from fleet import events
from fleet.health.conditions import (
    TRAITS,
    Condition,
    Course,
    Streak,
    causes_text,
    degrading,
    observe,
    restore_course,
    write_obstacles,
)
from fleet.lifecycle import Happening, State
from fleet.printable import printable
from fleet.store.records import NodeRecord
from fleet.store.transaction import Reader, Transaction

PREFIX: Final = "health."


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A condition that holds: since when (UTC seconds), and what was read."""

    condition: Condition
    since: float
    evidence: str


class HealthDesk:
    """Turns reports into conditions. One per controller."""

    def __init__(self) -> None:
        self._courses: dict[str, Course] = {}
        self._before: dict[str, Course | None] = {}

    def begin(self) -> None:
        """A transaction begins in which reports are taken."""
        self._before = {}

    def take_back(self) -> None:
        """Nothing of that transaction was kept: what it taught is not known either."""
        for name, course in self._before.items():
            if course is None:
                self._courses.pop(name, None)
            else:
                self._courses[name] = course
        self._before = {}

    def take(self, tx: Transaction, node: NodeRecord, status: Status, now: float) -> NodeRecord:
        """Take a report into account; a READY node becomes DEGRADED when a condition says so."""
        course = self._courses.get(node.name)
        self._before.setdefault(node.name, course)
        if course is None:
            known = {held.condition: (held.since, held.evidence) for held in held_by(tx, node.name)}
            course = restore_course(known)
        course, changes = observe(course, status.health, boot_id=status.boot_id, k3s=status.k3s, now=now)
        self._courses[node.name] = course
        for change in changes:
            entry = events.condition_changed(change.condition, change.began, change.evidence)
            tx.add_event(entry, now, node=node.name, board=node.board_id)
        if changes:
            _store(tx, node.name, course.active)
        causes = degrading(course.active)
        if node.state is State.READY and causes:
            entry = events.degraded(causes_text(causes), TRAITS[causes[0]].hint)
            return tx.move(node, Happening.FELL_ILL, entry, now, detail=causes_text(causes))
        if changes and causes and node.state is State.DEGRADED:
            return tx.update_node(node, detail=causes_text(causes))
        return node


def held_by(reader: Reader, name: str) -> tuple[Held, ...]:
    """The conditions of one node, in the catalogue's order."""
    return parse_held(reader.value(PREFIX + name))


def held_by_all(reader: Reader) -> dict[str, tuple[Held, ...]]:
    """The conditions of every node that has any."""
    values = reader.values(PREFIX)
    return {key.removeprefix(PREFIX): held for key, text in values.items() if (held := parse_held(text))}


def is_kept_degraded(reader: Reader, name: str) -> bool:
    """Whether a node's own health keeps it from being Ready, whatever Kubernetes says."""
    return bool(degrading(held.condition for held in held_by(reader, name)))


def find_write_obstacle(reader: Reader, name: str) -> str | None:
    """Why no image may be written to the node now; None where nothing is in the way."""
    held = {entry.condition: entry.evidence for entry in held_by(reader, name)}
    found = write_obstacles(held)
    return f"{causes_text(found)} ({held[found[0]]})" if found else None


def parse_held(text: str | None) -> tuple[Held, ...]:
    """From the store. A condition that another version wrote and this one does not know is left out."""
    value: Mapping[str, Any] = json.loads(text) if text else {}
    known = {condition.value: condition for condition in Condition}
    found = [
        Held(condition=known[name], since=float(entry["since"]), evidence=str(entry["evidence"]))
        for name, entry in value.items()
        if name in known
    ]
    order = list(Condition)
    return tuple(sorted(found, key=lambda held: order.index(held.condition)))


def _store(tx: Transaction, name: str, active: Mapping[Condition, Streak]) -> None:
    if not active:
        tx.remove_value(PREFIX + name)
        return
    value = {
        condition.value: {"since": streak.since, "evidence": printable(streak.evidence, 200)}
        for condition, streak in active.items()
    }
    tx.put_json(PREFIX + name, value)
