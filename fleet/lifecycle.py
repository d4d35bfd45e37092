"""Which state of a node may follow which: one whitelist, and a time limit for every active state.

Pure. Time is `now`, UTC seconds since 1970, because limits survive a restart of the server. The store is the
only caller of `advance`, so a state never changes without passing this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from fleet.errors import FleetError
from fleet.spec.model import Role

MAX_ATTEMPTS: Final = 3
"""Boots of the installer that one intent allows: a boot-install loop wears flash."""


class State(StrEnum):
    """Where a node is on its way to being a member of the cluster."""

    DECLARED = "declared"
    NETBOOTING = "netbooting"
    PENDING = "pending"
    IMAGING = "imaging"
    FLASHED = "flashed"
    """A person wrote its disk or card; nobody knows when it is switched on."""
    FIRST_BOOT = "first-boot"
    JOINING = "joining"
    READY = "ready"
    DEGRADED = "degraded"
    LOST = "lost"
    FAILED_NETBOOT = "failed-netboot"
    FAILED_IMAGING = "failed-imaging"
    FAILED_FIRST_BOOT = "failed-first-boot"
    FAILED_JOINING = "failed-joining"
    QUARANTINED = "quarantined"
    DECOMMISSIONED = "decommissioned"

    @property
    def is_active(self) -> bool:
        """Something is under way that must end by itself."""
        return self in FAILED_TWIN

    @property
    def awaits_install(self) -> bool:
        """Its disk does not hold our image and may get it: cluster.yaml is the consent to install."""
        return self is State.DECLARED or self in _BEFORE_IMAGE

    @property
    def is_installed(self) -> bool:
        """The node's disk holds our image: from here on it is never installed again without an order."""
        return self in INSTALLED


class Happening(StrEnum):
    """What can move a node: what the servers, the installer, the agent and Kubernetes observe, and people."""

    POWERED_ON = "powered-on"
    """The first sign of a declared board: its first intent opens."""
    BOOT_STARTED = "boot-started"
    """The board took the installer's kernel: an attempt begins."""
    HELD = "held"
    """Its installer asked and a person must approve."""
    ADMITTED = "admitted"
    PROGRESSED = "progressed"
    INSTALL_FAILED = "install-failed"
    INSTALLED = "installed"
    HANDED_OUT = "handed-out"
    """Its own image was written outside of the network boot: onto a card, or into a file."""
    ENROLLED = "enrolled"
    WAITED = "waited"
    """The node reported while it waits for its turn to join: the limit starts anew."""
    BECAME_READY = "became-ready"
    BECAME_UNREADY = "became-unready"
    FELL_ILL = "fell-ill"
    """Its own reports say that something is wrong with it: under-voltage, a failing disk."""
    EXPELLED = "expelled"
    """It can not come back by itself: its etcd member was removed, or its certificate is lost. It joins
    anew."""
    FELL_SILENT = "fell-silent"
    HEARD_AGAIN = "heard-again"
    EXHAUSTED = "exhausted"
    """The attempts of the intent are used up."""
    RELEASED = "released"
    """A person lets a quarantined node try again."""
    TIMED_OUT = "timed-out"
    REMOVED = "removed"
    """The node is no longer in cluster.yaml."""
    RESTORED_BLANK = "restored-blank"
    """The node is in cluster.yaml again and was never installed."""
    RESTORED_INSTALLED = "restored-installed"


FAILED_TWIN: Final[Mapping[State, State]] = {
    State.NETBOOTING: State.FAILED_NETBOOT,
    # Nobody answered within the limit and nothing was touched: for the board that is a network boot without
    # an end.
    State.PENDING: State.FAILED_NETBOOT,
    State.IMAGING: State.FAILED_IMAGING,
    State.FIRST_BOOT: State.FAILED_FIRST_BOOT,
    State.JOINING: State.FAILED_JOINING,
}
"""Every active state, and where its time limit leads."""

INSTALLED: Final = frozenset(
    {
        State.FLASHED,
        State.FIRST_BOOT,
        State.FAILED_FIRST_BOOT,
        State.JOINING,
        State.FAILED_JOINING,
        State.READY,
        State.DEGRADED,
        State.LOST,
    }
)

_BEFORE_IMAGE: Final = (
    State.NETBOOTING,
    State.PENDING,
    State.IMAGING,
    State.FAILED_NETBOOT,
    State.FAILED_IMAGING,
)


def _all_from(*states: State, to: State) -> Mapping[State, State]:
    return {state: to for state in states}


TRANSITIONS: Final[Mapping[Happening, Mapping[State, State]]] = {
    Happening.POWERED_ON: {State.DECLARED: State.NETBOOTING},
    Happening.BOOT_STARTED: _all_from(*_BEFORE_IMAGE, to=State.NETBOOTING),
    Happening.HELD: _all_from(*_BEFORE_IMAGE, to=State.PENDING),
    Happening.ADMITTED: _all_from(*_BEFORE_IMAGE, to=State.IMAGING),
    Happening.PROGRESSED: {State.IMAGING: State.IMAGING, State.FAILED_IMAGING: State.IMAGING},
    Happening.INSTALL_FAILED: {State.IMAGING: State.FAILED_IMAGING},
    Happening.INSTALLED: _all_from(State.IMAGING, State.FAILED_IMAGING, to=State.FIRST_BOOT),
    # Not while an installer is at work; and a card that was lost before it ever started may be written again.
    Happening.HANDED_OUT: _all_from(
        State.DECLARED,
        State.NETBOOTING,
        State.PENDING,
        State.FAILED_NETBOOT,
        State.FAILED_IMAGING,
        State.FLASHED,
        State.FIRST_BOOT,
        State.FAILED_FIRST_BOOT,
        to=State.FLASHED,
    ),
    # From before FIRST_BOOT too: power may fail after the disk was committed and before the server heard of
    # it. The ticket on that disk proves that the installation was verified.
    Happening.ENROLLED: _all_from(
        *_BEFORE_IMAGE, State.FLASHED, State.FIRST_BOOT, State.FAILED_FIRST_BOOT, to=State.JOINING
    ),
    Happening.WAITED: {State.JOINING: State.JOINING},
    Happening.BECAME_READY: _all_from(State.JOINING, State.FAILED_JOINING, State.DEGRADED, to=State.READY),
    Happening.BECAME_UNREADY: {State.READY: State.DEGRADED},
    Happening.FELL_ILL: {State.READY: State.DEGRADED},
    Happening.EXPELLED: _all_from(State.READY, State.DEGRADED, State.LOST, to=State.JOINING),
    Happening.FELL_SILENT: _all_from(State.READY, State.DEGRADED, to=State.LOST),
    Happening.HEARD_AGAIN: {State.LOST: State.DEGRADED},
    Happening.EXHAUSTED: _all_from(*_BEFORE_IMAGE, to=State.QUARANTINED),
    Happening.RELEASED: {State.QUARANTINED: State.NETBOOTING},
    Happening.TIMED_OUT: FAILED_TWIN,
    Happening.REMOVED: {state: State.DECOMMISSIONED for state in State if state is not State.DECOMMISSIONED},
    Happening.RESTORED_BLANK: {State.DECOMMISSIONED: State.DECLARED},
    Happening.RESTORED_INSTALLED: {State.DECOMMISSIONED: State.LOST},
}
"""The whitelist: happening → state → next state. What is not here is illegal."""

_MINUTE: Final = 60.0
_LIMITS_S: Final[Mapping[State, float]] = {
    State.NETBOOTING: 10 * _MINUTE,
    State.PENDING: 24 * 60 * _MINUTE,
    State.IMAGING: 30 * _MINUTE,
    State.FIRST_BOOT: 10 * _MINUTE,
    State.JOINING: 10 * _MINUTE,
}
_SERVER_JOIN_LIMIT_S: Final = 20 * _MINUTE
"""A server also joins etcd as a learner and is promoted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A node's place in its life.

    Attributes:
        since: When the state was entered, UTC seconds.
        progressed_at: The last sign of progress within the state; time limits count from here.
        attempt: Boots of the installer under the present intent.
    """

    state: State
    since: float
    progressed_at: float
    attempt: int = 0


class IllegalTransitionError(FleetError):
    """A happening that the whitelist does not allow in the node's state."""

    def __init__(self, state: State, happening: Happening) -> None:
        expected = ", ".join(TRANSITIONS[happening])
        super().__init__(
            f"a node in state '{state}' cannot take '{happening}'; that belongs to a node in: {expected}",
            "This is a mistake in Bramble. Please report it with the output of 'bramble show NODE --json'.",
        )
        self.state = state
        self.happening = happening


def allows(state: State, happening: Happening) -> bool:
    """Whether the whitelist has this step."""
    return state in TRANSITIONS[happening]


def advance(standing: Standing, happening: Happening, now: float) -> Standing:
    """The standing after `happening`.

    Raises:
        IllegalTransitionError: Not in the whitelist.
    """
    if not allows(standing.state, happening):
        raise IllegalTransitionError(standing.state, happening)
    following = TRANSITIONS[happening][standing.state]
    return replace(
        standing,
        state=following,
        since=standing.since if following is standing.state else now,
        progressed_at=now,
        attempt=_attempt_after(standing, happening),
    )


def _attempt_after(standing: Standing, happening: Happening) -> int:
    if happening in (Happening.POWERED_ON, Happening.RELEASED, Happening.RESTORED_BLANK):
        return 0
    # A board that was switched off while it waited for approval has tried nothing yet.
    if happening is Happening.BOOT_STARTED and standing.state is not State.PENDING:
        return standing.attempt + 1
    return standing.attempt


def limit_s(state: State, role: Role) -> float | None:
    """Seconds without progress after which `state` has failed; None where nothing is under way."""
    if state is State.JOINING and role is Role.SERVER:
        return _SERVER_JOIN_LIMIT_S
    return _LIMITS_S.get(state)


def check(standing: Standing, role: Role, now: float) -> Happening | None:
    """TIMED_OUT when the state's limit has passed, else None."""
    limit = limit_s(standing.state, role)
    overdue = limit is not None and now - standing.progressed_at > limit
    return Happening.TIMED_OUT if overdue else None
