"""Orders to take nodes down, as plain values for people and programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fleet.lifecycle import FAILED_TWIN, State
from fleet.reimage import progress
from fleet.store.records import ReimageRecord
from fleet.store.transaction import Reader


@dataclass(frozen=True, slots=True, kw_only=True)
class ReimageView:
    """One order. Times are UTC seconds.

    Attributes:
        state: Of the node now.
        was: Of the node when it was ordered.
        steps: State → when it was entered.
        outcome: `done`, `cancelled`, `failed` or `abandoned`; null while it is open.
        reason: Of the outcome, or what an open one waits for.
    """

    node: str
    number: int
    kind: str
    requested_at: float
    by: str
    why: str
    image_id: str | None
    force_drain: bool
    was: str
    state: str
    steps: Mapping[str, float]
    closed_at: float | None
    outcome: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsteadyView:
    """A step of an order that is neither done nor given up, because what keeps it back comes and goes.

    Attributes:
        count: How often it was taken up, from `since` to `last`, UTC seconds.
        said: What kept it back last.
    """

    node: str
    step: str
    count: int
    since: float
    last: float
    said: str


def reimage_view(order: ReimageRecord, state: str) -> ReimageView:
    steps = order.progress.get(progress.STEPS)
    return ReimageView(
        node=order.node,
        number=order.number,
        kind=order.kind.value,
        requested_at=order.requested_at,
        by=order.by,
        why=order.why,
        image_id=order.image_id,
        force_drain=order.force_drain,
        was=order.was.value,
        state=state,
        steps={str(name): float(at) for name, at in steps.items()} if isinstance(steps, Mapping) else {},
        closed_at=order.closed_at,
        outcome=order.outcome.value if order.outcome else None,
        reason=order.reason,
    )


def reimage_views(reader: Reader, node: str | None, limit: int) -> list[ReimageView]:
    """The newest orders first; of one node, or of all."""
    records = reader.nodes() if node is None else filter(None, [reader.node(node)])
    states = {record.name: record.state.value for record in records}
    return [reimage_view(order, states[order.node]) for order in reader.reimages(node, limit=limit)]


def unsteady_views(reader: Reader) -> tuple[UnsteadyView, ...]:
    """Open orders whose step a person has to look at, though it goes on by itself."""
    found = []
    for name, order in reader.open_reimages().items():
        unsteady, node = progress.unsteady(order), reader.node(name)
        if unsteady is None or node is None:
            continue
        if node.state.value in (unsteady.state, FAILED_TWIN[State(unsteady.state)].value):
            found.append(
                UnsteadyView(
                    node=name,
                    step=unsteady.state,
                    count=unsteady.count,
                    since=unsteady.since,
                    last=unsteady.last,
                    said=unsteady.said,
                )
            )
    return tuple(found)
