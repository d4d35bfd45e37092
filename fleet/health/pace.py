"""How often nodes report, by how many there are: together a fleet reports no more than a core can take. Pure.

What follows from the interval stands here too: how long a node may be silent before it counts as lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

REPORTS_PER_S: Final = 250.0
"""Of a whole fleet. A report costs 1 ms of a core, and 1.2 more for TLS where the node's connection was not
kept (`fleet.api.silence`): together half a core at this rate."""
STEADY_INTERVAL_S: Final = 10.0
JOINING_INTERVAL_S: Final = 3.0
MAX_INTERVAL_S: Final = 60.0
"""Of 15,000 nodes, and of more. Health wants three reports within `fleet.health.conditions.LATELY_S`, and a
connection that is kept may be silent for `fleet.api.silence.SILENCE_S`."""
RETURN_S: Final = 300.0
"""In which every agent that lives is heard by a server that was away: so long agents of older releases pause
at most when nobody answers, and today's a fifth of that (`agent.service`)."""
MISSED_REPORTS: Final = 3
SLACK_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What a fleet of one size is told, and what is expected of it.

    Attributes:
        steady_s: Between two reports of a node.
        queue_s: Between two reports of one that waits for its turn to join.
        silence_s: Three missed intervals and some slack: then a node is lost.
    """

    steady_s: float
    queue_s: float
    silence_s: float

    @property
    def return_s(self) -> float:
        """How long a server that was away itself listens before a node's silence tells anything."""
        return max(RETURN_S, self.silence_s)


def pace_of(installed: int) -> Pace:
    """For so many nodes that have a certificate.

    A node that was told an interval keeps to it once more after the fleet has shrunk; three of the new one
    are longer than that, unless two thirds of thousands of nodes go at once.
    """
    fair_s = min(installed / REPORTS_PER_S, MAX_INTERVAL_S)
    steady_s = max(STEADY_INTERVAL_S, fair_s)
    return Pace(
        steady_s=steady_s,
        queue_s=max(JOINING_INTERVAL_S, fair_s),
        silence_s=MISSED_REPORTS * steady_s + SLACK_S,
    )


SMALL_FLEET: Final = pace_of(0)
"""Of up to 750 nodes that all wait for their turn to join, and of up to 2,500 that have joined."""
