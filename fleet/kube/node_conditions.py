"""A node's conditions as conditions of its Kubernetes Node object, where schedulers, alerts and people look.

Pure but for what was published last. A condition is written when it begins (`True`) and when it ends
(`False`), and again now and then: the object may have been deleted and made anew. One that never held is not
written. The kubelet's own conditions are left alone: a strategic merge patch goes by the `type`.

Source: Kubernetes API conventions, "typical status properties"; node-problem-detector writes the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from fleet.health.conditions import TRAITS, Condition
from fleet.health.desk import Held

REPEAT_S: Final = 300.0
RETRY_S: Final = 60.0


class Announcer:
    """Remembers what each Node object was told."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[frozenset[Condition], float]] = {}
        self._ended: dict[str, dict[Condition, float]] = {}
        self._refused: dict[str, float] = {}

    def due(self, name: str, held: Iterable[Held], now: float) -> dict[str, Any] | None:
        """The patch of the node's status that is due now; None where the object is up to date."""
        active = {entry.condition: entry for entry in held}
        told, at = self._told.get(name, (frozenset(), 0.0))
        ended = self._ended.setdefault(name, {})
        for condition in told - active.keys():
            ended.setdefault(condition, now)
        for condition in active:
            ended.pop(condition, None)
        if not active and not ended:
            return None
        if (told == active.keys() and now - at < REPEAT_S) or now - self._refused.get(name, 0.0) < RETRY_S:
            return None
        conditions = [render(entry, now) for entry in active.values()]
        conditions += [render_ended(condition, since, now) for condition, since in ended.items()]
        return {"status": {"conditions": sorted(conditions, key=lambda entry: str(entry["type"]))}}

    def refused(self, name: str, now: float) -> None:
        """The patch was not taken: not a word for a while, the poll must go on."""
        self._refused[name] = now

    def told(self, name: str, held: Iterable[Held], now: float) -> None:
        """The patch was taken."""
        self._refused.pop(name, None)
        self._told[name] = (frozenset(entry.condition for entry in held), now)


def render(held: Held, now: float) -> Mapping[str, Any]:
    """A condition that holds."""
    trait = TRAITS[held.condition]
    return {
        "type": held.condition.value,
        "status": "True",
        "reason": "ReportedByNode",
        "message": f"{trait.words}: {held.evidence}. {trait.hint}",
        "lastTransitionTime": _stamp(held.since),
        "lastHeartbeatTime": _stamp(now),
    }


def render_ended(condition: Condition, since: float, now: float) -> Mapping[str, Any]:
    """A condition that held and does not any more."""
    return {
        "type": condition.value,
        "status": "False",
        "reason": "NoLongerReported",
        "message": f"no longer so: {TRAITS[condition].words}",
        "lastTransitionTime": _stamp(since),
        "lastHeartbeatTime": _stamp(now),
    }


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
