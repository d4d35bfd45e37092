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
    # The way of an installed node back to its installer. Each state is written before its deed is done, and
    # is left when the deed was seen to be done: after a crash the deed is looked for, and done where it is
    # missing.
    REIMAGE_REQUESTED = "reimage-requested"
    PREFLIGHT = "preflight"
    """May it be taken down? Nothing is changed yet."""
    CORDONED = "cordoned"
    DRAINING = "draining"
    LEADER_MOVED = "leader-moved"
    """Servers: another member is to lead etcd."""
    SNAPSHOTTED = "snapshotted"
    """Servers: a snapshot of etcd is to be kept off the node."""
    MEMBER_REMOVED = "member-removed"
    """Servers: its etcd member is to go. Once somebody was asked to remove it there is no way back to Ready
    but a fresh join."""
    NODE_DELETED = "node-deleted"
    REBOOT_TO_INSTALLER = "reboot-to-installer"
    """Its intent is open and its network boot is answered: the board is to start from the network."""
    FAILED_NETBOOT = "failed-netboot"
    FAILED_IMAGING = "failed-imaging"
    FAILED_FIRST_BOOT = "failed-first-boot"
    FAILED_JOINING = "failed-joining"
    FAILED_REIMAGE_REQUESTED = "failed-reimage-requested"
    FAILED_PREFLIGHT = "failed-preflight"
    FAILED_CORDONED = "failed-cordoned"
    FAILED_DRAINING = "failed-draining"
    FAILED_LEADER_MOVED = "failed-leader-moved"
    FAILED_SNAPSHOTTED = "failed-snapshotted"
    FAILED_MEMBER_REMOVED = "failed-member-removed"
    FAILED_NODE_DELETED = "failed-node-deleted"
    FAILED_REBOOT_TO_INSTALLER = "failed-reboot-to-installer"
    QUARANTINED = "quarantined"
    DECOMMISSIONED = "decommissioned"

    @property
    def is_active(self) -> bool:
        """Something is under way that must end by itself."""
        return self in FAILED_TWIN

    @property
    def awaits_install(self) -> bool:
        """Its disk may get our image: cluster.yaml is the consent to install, or an order to re-image is."""
        return self is State.DECLARED or self in _BEFORE_IMAGE or self in ENTERING_INSTALLER

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
    REIMAGE_ORDERED = "reimage-ordered"
    """A person, or the policy, wants it installed again, replaced, or taken out of the cluster."""
    CHECKS_BEGAN = "checks-began"
    CHECKS_PASSED = "checks-passed"
    CORDON_SEEN = "cordon-seen"
    AGENT_DRAINED = "agent-drained"
    SERVER_DRAINED = "server-drained"
    LEADER_ELSEWHERE = "leader-elsewhere"
    SNAPSHOT_KEPT = "snapshot-kept"
    MEMBER_GONE = "member-gone"
    HELD_BACK = "held-back"
    """Its member was to go and nobody was asked yet to remove it: it stays, and the order is undone."""
    NODE_GONE = "node-gone"
    RETRIED = "retried"
    """A step of a re-image that failed is tried once more."""
    BACK_TO_READY = "back-to-ready"
    """The re-image was called off: the node is what it was. So are the next ones."""
    BACK_TO_DEGRADED = "back-to-degraded"
    BACK_TO_LOST = "back-to-lost"
    BACK_TO_FAILED_JOINING = "back-to-failed-joining"
    BACK_TO_FAILED_FIRST_BOOT = "back-to-failed-first-boot"
    EXHAUSTED = "exhausted"
    """The attempts of the intent are used up."""
    RELEASED = "released"
    """A person lets a quarantined node try again."""
    AWAITED_AGAIN = "awaited-again"
    """The same for one whose re-image is open: its board is got into the installer once more."""
    TIMED_OUT = "timed-out"
    STARTED_OVER = "started-over"
    """A person says that its cluster is lost: its board is installed as if it never had been."""
    TAKEN_BACK = "taken-back"
    """A person calls that off, and nothing was written to its disk."""
    REMOVED = "removed"
    """The node is no longer in cluster.yaml."""
    RESTORED_BLANK = "restored-blank"
    """The node is in cluster.yaml again and was never installed."""
    RESTORED_INSTALLED = "restored-installed"


_REIMAGE_TWINS: Final[Mapping[State, State]] = {
    State.REIMAGE_REQUESTED: State.FAILED_REIMAGE_REQUESTED,
    State.PREFLIGHT: State.FAILED_PREFLIGHT,
    State.CORDONED: State.FAILED_CORDONED,
    State.DRAINING: State.FAILED_DRAINING,
    State.LEADER_MOVED: State.FAILED_LEADER_MOVED,
    State.SNAPSHOTTED: State.FAILED_SNAPSHOTTED,
    State.MEMBER_REMOVED: State.FAILED_MEMBER_REMOVED,
    State.NODE_DELETED: State.FAILED_NODE_DELETED,
    State.REBOOT_TO_INSTALLER: State.FAILED_REBOOT_TO_INSTALLER,
}

FAILED_TWIN: Final[Mapping[State, State]] = {
    State.NETBOOTING: State.FAILED_NETBOOT,
    # Nobody answered within the limit and nothing was touched: for the board that is a network boot without
    # an end.
    State.PENDING: State.FAILED_NETBOOT,
    State.IMAGING: State.FAILED_IMAGING,
    State.FIRST_BOOT: State.FAILED_FIRST_BOOT,
    State.JOINING: State.FAILED_JOINING,
    **_REIMAGE_TWINS,
}
"""Every active state, and where its time limit leads."""

_UNTIL_REMOVAL: Final = (
    State.REIMAGE_REQUESTED,
    State.PREFLIGHT,
    State.CORDONED,
    State.DRAINING,
    State.LEADER_MOVED,
    State.SNAPSHOTTED,
)
LEAVING: Final = frozenset({*_UNTIL_REMOVAL, *(_REIMAGE_TWINS[state] for state in _UNTIL_REMOVAL)})
"""A re-image is under way that can still be called off."""
_GOING: Final = (State.MEMBER_REMOVED, State.NODE_DELETED)
GONE: Final = frozenset({*_GOING, *(_REIMAGE_TWINS[state] for state in _GOING)})
"""A re-image is under way that cannot be called off any more; the disk is as it was."""
ENTERING_INSTALLER: Final = frozenset({State.REBOOT_TO_INSTALLER, State.FAILED_REBOOT_TO_INSTALLER})
"""A re-image is under way, and the board is wanted on the network. Its disk is as it was, and may go."""
REIMAGING: Final = LEAVING | GONE | ENTERING_INSTALLER
"""From the order until the board starts from the network."""

INSTALLED: Final = frozenset(
    {
        *LEAVING,
        *GONE,
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


WAY_BACK: Final[Mapping[State, Happening]] = {
    State.READY: Happening.BACK_TO_READY,
    State.DEGRADED: Happening.BACK_TO_DEGRADED,
    State.LOST: Happening.BACK_TO_LOST,
    State.FAILED_JOINING: Happening.BACK_TO_FAILED_JOINING,
    State.FAILED_FIRST_BOOT: Happening.BACK_TO_FAILED_FIRST_BOOT,
}
"""What a node was when its re-image was ordered, and how it becomes that again when it is called off."""
REIMAGE_FROM: Final = tuple(WAY_BACK)


def _all_from(*states: State, to: State) -> Mapping[State, State]:
    return {state: to for state in states}


TRANSITIONS: Final[Mapping[Happening, Mapping[State, State]]] = {
    Happening.POWERED_ON: {State.DECLARED: State.NETBOOTING},
    # From ENTERING_INSTALLER too: a re-image. Its installer may speak before its boot was recorded.
    Happening.BOOT_STARTED: _all_from(*_BEFORE_IMAGE, *ENTERING_INSTALLER, to=State.NETBOOTING),
    Happening.HELD: _all_from(*_BEFORE_IMAGE, *ENTERING_INSTALLER, to=State.PENDING),
    Happening.ADMITTED: _all_from(*_BEFORE_IMAGE, *ENTERING_INSTALLER, to=State.IMAGING),
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
    Happening.REIMAGE_ORDERED: _all_from(*REIMAGE_FROM, to=State.REIMAGE_REQUESTED),
    Happening.CHECKS_BEGAN: {State.REIMAGE_REQUESTED: State.PREFLIGHT},
    Happening.CHECKS_PASSED: {State.PREFLIGHT: State.CORDONED},
    Happening.CORDON_SEEN: {State.CORDONED: State.DRAINING},
    Happening.AGENT_DRAINED: {State.DRAINING: State.NODE_DELETED},
    Happening.SERVER_DRAINED: {State.DRAINING: State.LEADER_MOVED},
    Happening.LEADER_ELSEWHERE: {State.LEADER_MOVED: State.SNAPSHOTTED},
    Happening.SNAPSHOT_KEPT: {State.SNAPSHOTTED: State.MEMBER_REMOVED},
    Happening.MEMBER_GONE: {State.MEMBER_REMOVED: State.NODE_DELETED},
    # Only while the order's row does not say that the removal was asked for.
    Happening.HELD_BACK: _all_from(
        State.MEMBER_REMOVED, State.FAILED_MEMBER_REMOVED, to=State.FAILED_SNAPSHOTTED
    ),
    Happening.NODE_GONE: {State.NODE_DELETED: State.REBOOT_TO_INSTALLER},
    Happening.RETRIED: {twin: state for state, twin in _REIMAGE_TWINS.items()},
    **{back: _all_from(*LEAVING, to=state) for state, back in WAY_BACK.items()},
    Happening.EXHAUSTED: _all_from(*_BEFORE_IMAGE, *ENTERING_INSTALLER, to=State.QUARANTINED),
    Happening.RELEASED: {State.QUARANTINED: State.NETBOOTING},
    Happening.AWAITED_AGAIN: {State.QUARANTINED: State.REBOOT_TO_INSTALLER},
    Happening.TIMED_OUT: FAILED_TWIN,
    Happening.STARTED_OVER: {
        state: State.DECLARED for state in State if state not in (State.DECLARED, State.DECOMMISSIONED)
    },
    Happening.TAKEN_BACK: _all_from(
        State.DECLARED, State.NETBOOTING, State.PENDING, State.FAILED_NETBOOT, to=State.LOST
    ),
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
    State.REIMAGE_REQUESTED: _MINUTE,
    State.PREFLIGHT: _MINUTE,
    State.CORDONED: 15 * _MINUTE,
    State.DRAINING: 15 * _MINUTE,
    State.LEADER_MOVED: _MINUTE,
    State.SNAPSHOTTED: 5 * _MINUTE,
    State.MEMBER_REMOVED: 2 * _MINUTE,
    # With the time that k3s takes to delete the node's password.
    State.NODE_DELETED: 2 * _MINUTE,
    # All ways in that `fleet.entry.ways` knows, of five minutes each, and some for a hand.
    State.REBOOT_TO_INSTALLER: 30 * _MINUTE,
}
TIMED: Final = frozenset(_LIMITS_S)
"""States that end by themselves when nothing happens."""
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


_NEW_INTENT: Final = frozenset(
    {
        Happening.POWERED_ON,
        Happening.RELEASED,
        Happening.AWAITED_AGAIN,
        Happening.RESTORED_BLANK,
        Happening.NODE_GONE,
        Happening.STARTED_OVER,
    }
)


def _attempt_after(standing: Standing, happening: Happening) -> int:
    if happening in _NEW_INTENT:
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
