"""Which nodes are told to run another release of the agent, and when. Pure.

A rollout goes in waves: one node, a tenth of the rest, everybody else; servers one at a time, after the
agents. The next wave begins when every node of those before reports the release and has done well with it for
a while. One node that refuses it or gives it up halts the rollout for all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from agent.protocol import Problem
from fleet.lifecycle import State
from fleet.spec.model import Role

SOAK_S: Final = 60.0
"""How long a node must have reported the release before it counts."""
PATIENCE_S: Final = 20 * 60.0
"""A node that was told and reports, but not the release, is a failure after this time: longer than three
starts and the trial's ten minutes."""
SECOND_WAVE_PART: Final = 0.1
REFUSALS: Final = ("agent_rolled_back", "agent_update_refused")
"""Problem codes of an agent that did not take the release, or went back."""
_WELL: Final = (State.READY,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A release of the agent that this server can hand out."""

    version: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One order to many nodes.

    Attributes:
        targets: names, in no order.
        told: name → when it was told, UTC seconds.
        taken: name → since when it reports the release.
        halted: why nobody else is told any more; empty while it goes on.
    """

    number: int
    release: Release
    targets: tuple[str, ...]
    allow_downgrade: bool = False
    told: Mapping[str, float] = field(default_factory=dict)
    taken: Mapping[str, float] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    """Name → code with which its agent said that it did not take the release, or went back."""
    halted: str = ""

    @property
    def is_done(self) -> bool:
        return all(name in self.taken for name in self.targets)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSight:
    """What counts of a node for a rollout.

    Attributes:
        release: digest that its agent reports; empty before it has.
        obstacle: why nothing may be written to it now.
    """

    name: str
    role: Role
    state: State
    release: str
    obstacle: str | None = None


def advance(rollout: Rollout, nodes: Iterable[NodeSight], now: float) -> Rollout:
    """The rollout after a look at the nodes: who has taken it, whether it halts, who is told next."""
    sights = {node.name: node for node in nodes if node.name in rollout.targets}
    # A node that left cluster.yaml is waited for no longer.
    rollout = replace(rollout, targets=tuple(name for name in rollout.targets if name in sights))
    taken = {
        name: rollout.taken.get(name, now)
        for name, node in sights.items()
        if node.release == rollout.release.sha256
    }
    rollout = replace(rollout, taken=taken)
    if rollout.halted:
        return rollout
    fault = _find_fault(rollout, sights, now)
    if fault is not None:
        return replace(rollout, halted=fault)
    if any(not _has_proved(rollout, sights[name], now) for name in rollout.told if name in sights):
        return rollout
    wave = next_wave(rollout, list(sights.values()))
    return replace(rollout, told={**rollout.told, **dict.fromkeys(wave, now)})


def next_wave(rollout: Rollout, nodes: Sequence[NodeSight]) -> list[str]:
    """Who is told next, when all that were told before have proved it."""
    open_nodes = [node for node in nodes if node.name not in rollout.told and node.name not in rollout.taken]
    fit = [node for node in open_nodes if node.obstacle is None and node.state is not State.LOST]
    agents = sorted(node.name for node in fit if node.role is Role.AGENT and node.state in _WELL)
    if agents:
        if not rollout.told:
            return agents[:1]
        if len(rollout.told) == 1:
            return agents[: max(1, math.ceil(len(rollout.targets) * SECOND_WAVE_PART))]
        return agents
    servers = sorted(node.name for node in fit if node.role is Role.SERVER and node.state in _WELL)
    if servers:
        return servers[:1]
    # Last, those that are not well for another reason: a newer agent may be what they need.
    return sorted(node.name for node in fit)[:1]


def _has_proved(rollout: Rollout, node: NodeSight, now: float) -> bool:
    """A node that is lost is not waited for: it takes the release when it is back."""
    since = rollout.taken.get(node.name)
    return (since is not None and now - since >= SOAK_S) or node.state is State.LOST


def _find_fault(rollout: Rollout, sights: Mapping[str, NodeSight], now: float) -> str | None:
    for name, told_at in sorted(rollout.told.items()):
        node = sights.get(name)
        if node is None or name in rollout.taken:
            continue
        if name in rollout.refused:
            return f"{name} did not keep it ({rollout.refused[name]})"
        if node.state is not State.LOST and now - told_at > PATIENCE_S:
            return f"{name} reports another release {PATIENCE_S / 60:.0f} min after it was told"
    return None


def find_refusal(rollout: Rollout, problems: Iterable[Problem]) -> str | None:
    """The code with which a report says that this order was not kept."""
    marker = f"order {rollout.number}: "
    found = (entry.code for entry in problems if entry.code in REFUSALS and entry.message.startswith(marker))
    return next(found, None)


def render(rollout: Rollout) -> str:
    """For the store."""
    return json.dumps(asdict(rollout), sort_keys=True)


def parse(text: str) -> Rollout:
    """What `render` wrote."""
    value: dict[str, Any] = json.loads(text)
    release = Release(**value.pop("release"))
    return Rollout(release=release, targets=tuple(value.pop("targets")), **value)
