"""For how long a node has failed, by its agent's silence and by Kubernetes together. Pure.

Seconds are counted from look to look and never read off a clock, because clocks lie: a look adds at most
`MAX_STEP_S`, whatever `now` says. So a clock that is set forward by a day, a machine that slept and a
server that was away add nothing, one set back takes nothing away, and a server that starts counts anew. A
sign of life from either side sets the count to zero; while Kubernetes does not answer nothing is learned,
and nothing is forgotten.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

MAX_STEP_S: Final = 15.0
"""Longer than the controller's round is ever apart while it waits for a server's API."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was seen of one node up to `seen_at`, the `now` of the last look."""

    failing_s: float = 0.0
    seen_at: float | None = None


def look(evidence: Evidence, *, silent: bool, ready: bool | None, now: float) -> Evidence:
    """Take one look into account.

    Args:
        silent: Its agent has not reported for so long that it counts as lost.
        ready: What Kubernetes says of the node; None: Kubernetes did not answer lately.
        now: UTC seconds.
    """
    if not silent or ready:
        return Evidence(0.0, now)
    if ready is None or evidence.seen_at is None:
        return Evidence(evidence.failing_s, now)
    step = min(max(now - evidence.seen_at, 0.0), MAX_STEP_S)
    return Evidence(evidence.failing_s + step, now)


class Course:
    """The evidence of every node, in memory only: a server that starts counts anew."""

    def __init__(self) -> None:
        self._known: dict[str, Evidence] = {}

    def look(
        self,
        silent: Mapping[str, bool],
        ready: Mapping[str, bool] | None,
        now: float,
        excused: Collection[str] = (),
    ) -> None:
        """Take a look at all nodes into account.

        Args:
            silent: Every node, and whether its agent is silent. Nodes that are not in it are forgotten.
            ready: What Kubernetes says of the nodes that it knows; one that it does not know is not ready.
                None: it did not answer lately.
            excused: Nodes whose silence is not their own, `fleet.policy.judge.excused`.
        """
        self._known = {
            name: look(
                self._known.get(name, Evidence()),
                silent=is_silent and name not in excused,
                ready=None if ready is None else ready.get(name, False),
                now=now,
            )
            for name, is_silent in silent.items()
        }

    def failing_s(self, name: str) -> float:
        """For how long the node has failed."""
        return self._known.get(name, Evidence()).failing_s
