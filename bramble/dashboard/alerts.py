"""What the cluster as a whole needs a person for, beside its nodes; judged by `fleet.attention`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from fleet.attention import Fault, Finding, findings
from fleet.lock import read_holds
from fleet.reimage.views import unsteady_views
from fleet.store.transaction import Reader
from fleet.views import FleetView, RolloutView, rollout_view

EVERY_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class ClusterGlance:
    """What is the matter with the cluster, what is urgent first, and the rollout that has not ended."""

    findings: tuple[Finding, ...] = ()
    rollout: RolloutView | None = None


class ClusterGlances:
    """Looks at it.

    Args:
        snapshot_problem: What is wrong with etcd's snapshots; reads their files, so it is asked now and then.
        faults: What else is wrong as it was seen last; asks nobody.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        snapshot_problem: Callable[[], str],
        faults: Callable[[], Sequence[Fault]],
        clock: Callable[[], float],
    ) -> None:
        self._snapshot_problem = snapshot_problem
        self._faults = faults
        self._clock = clock
        self._asked = float("-inf")
        self._told = ""

    def faults(self) -> tuple[Fault, ...]:
        """What the record does not say. No commit tells that it changed."""
        return tuple(self._faults())

    def ask(self) -> None:
        """Ask for the snapshots' problem unless that was done lately."""
        now = self._clock()
        if now - self._asked < EVERY_S:
            return
        self._asked = now
        try:
            self._told = self._snapshot_problem()
        except OSError as error:
            self._told = f"they cannot be read: {error.strerror or error}"

    def look(self, reader: Reader) -> ClusterGlance:
        """Nodes are left out: what each of them needs stands on its own card."""
        rollout = rollout_view(reader.open_rollout())
        stuck = tuple(hold.node for hold in read_holds(reader) if hold.stuck)
        unsteady = unsteady_views(reader)
        view = FleetView(nodes=(), held=(), stuck=stuck, unsteady=unsteady, rollout=rollout)
        return ClusterGlance(findings(view, self._told, self.faults()), rollout)
