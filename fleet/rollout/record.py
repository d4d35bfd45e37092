"""A rollout as a value, and as its row in the store.

settings  {"k3s_version", "canary", "max_parallel", "soak_s", "epoch", "order"}
steps     [{"node", "role", "state", "number", "began", "ended", "reason"}, …] in their order
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from fleet.reimage.guards import ROLLOUT
from fleet.spec.model import Role
from fleet.store.records import RolloutRecord


class Phase(StrEnum):
    """Where a rollout stands."""

    RUNNING = "running"
    PAUSED = "paused"
    """A person wants no further node taken."""
    STOPPED = "stopped"
    """A node failed: no further one is taken before a person looked."""
    DONE = "done"
    ABORTED = "aborted"

    @property
    def is_open(self) -> bool:
        return self in (Phase.RUNNING, Phase.PAUSED, Phase.STOPPED)


class StepState(StrEnum):
    """Where one node stands in it."""

    WAITING = "waiting"
    RUNNING = "running"
    """Its re-image is ordered."""
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"
    """It left the cluster meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One node. Times are UTC seconds.

    Attributes:
        number: Of its re-image; None: it was not ordered, or had the image already.
    """

    node: str
    role: Role
    state: StepState = StepState.WAITING
    number: int | None = None
    began: float | None = None
    ended: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One image on its way through the fleet.

    Attributes:
        canary: The node that goes first and alone; the others wait until it was Ready for `soak_s`.
        max_parallel: Agents at a time.
        epoch: The record's, `fleet.restored.epoch_of`: a rollout from a backup does not go on by itself.
        order: Why the nodes go in this order, for people.
        reason: What it waits for, or why it stopped or ended.
    """

    number: int
    image_id: str
    k3s_version: str
    requested_at: float
    by: str
    canary: str
    max_parallel: int
    soak_s: float
    epoch: int
    order: str
    steps: tuple[Step, ...]
    phase: Phase = Phase.RUNNING
    reason: str = ""
    closed_at: float | None = None

    @property
    def orders_by(self) -> str:
        """Who its re-images are ordered by."""
        return f"{ROLLOUT} {self.number}"

    def step(self, node: str) -> Step | None:
        return next((step for step in self.steps if step.node == node), None)

    def with_step(self, step: Step) -> Rollout:
        """The same with another step in the place of its node's."""
        steps = tuple(step if one.node == step.node else one for one in self.steps)
        return replace(self, steps=steps)


_SETTINGS = ("k3s_version", "canary", "max_parallel", "soak_s", "epoch", "order")


def to_record(rollout: Rollout) -> RolloutRecord:
    """As its row."""
    return RolloutRecord(
        number=rollout.number,
        image_id=rollout.image_id,
        requested_at=rollout.requested_at,
        by=rollout.by,
        settings={name: getattr(rollout, name) for name in _SETTINGS},
        steps=tuple(_plain(step) for step in rollout.steps),
        phase=rollout.phase.value,
        reason=rollout.reason,
        closed_at=rollout.closed_at,
    )


def from_record(record: RolloutRecord) -> Rollout:
    """A row as a value."""
    return Rollout(
        number=record.number,
        image_id=record.image_id,
        requested_at=record.requested_at,
        by=record.by,
        steps=tuple(_step(values) for values in record.steps),
        phase=Phase(record.phase),
        reason=record.reason,
        closed_at=record.closed_at,
        **{name: record.settings[name] for name in _SETTINGS},
    )


def _plain(step: Step) -> dict[str, Any]:
    return {**asdict(step), "role": step.role.value, "state": step.state.value}


def _step(values: Mapping[str, Any]) -> Step:
    return Step(**{**values, "role": Role(values["role"]), "state": StepState(values["state"])})
