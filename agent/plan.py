"""What to do next, from what is seen and what is wanted. Pure.

Orders are numbered: `Desired.generation`. One that is not newer than what is known does nothing; one that
was carried out is never carried out again.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.protocol import Desired, K3sState, NodeFile, Problem
from agent.state import JoinRecord


@dataclass(frozen=True)
class Enrol:
    """Ask for a certificate, with the ticket if there is one."""


@dataclass(frozen=True)
class ForgetTicket:
    """Remove the used ticket from node.json."""


@dataclass(frozen=True)
class Renew:
    """Get a new certificate for the old one."""


@dataclass(frozen=True)
class WriteEeprom:
    """A person ordered bootloader settings that were not written yet."""

    number: int


@dataclass(frozen=True)
class Reboot:
    """The board is to be restarted into the installer."""

    number: int


@dataclass(frozen=True)
class Update:
    """Another release of the agent is to run here."""

    number: int


@dataclass(frozen=True)
class DoErrand:
    """A person waits for log lines, or for the output of a command."""

    number: int


@dataclass(frozen=True)
class FetchDesired:
    """The server has a newer order than the one that is known.

    `again`: or perhaps another one of the same number.
    """

    again: bool = False


@dataclass(frozen=True)
class Join:
    """Fetch join material, put it in place, start k3s. `restart` when an earlier attempt still runs."""

    generation: int
    restart: bool


@dataclass(frozen=True)
class Adopt:
    """Take k3s as it is for joined: the record of its join was lost with the state file."""

    generation: int
    files: tuple[NodeFile, ...]


@dataclass(frozen=True)
class StartK3s:
    """The material is in place, but the agent ended before it told systemd."""

    record: JoinRecord


@dataclass(frozen=True)
class FinishJoin:
    """k3s runs: take the token out of its configuration, then off the disk."""

    record: JoinRecord


@dataclass(frozen=True)
class Configure:
    """Put the settings of a joined node in place; `restart` where k3s does not run but should."""

    files: tuple[NodeFile, ...]
    restart: bool


@dataclass(frozen=True)
class MarkDone:
    """Remember that the order was carried out."""

    generation: int


Action = (
    Enrol
    | ForgetTicket
    | Renew
    | WriteEeprom
    | Update
    | Reboot
    | DoErrand
    | FetchDesired
    | Join
    | Adopt
    | StartK3s
    | FinishJoin
    | Configure
    | MarkDone
)


@dataclass(frozen=True, kw_only=True)
class Observed:
    """Everything that a decision depends on."""

    enrolled: bool
    has_ticket: bool = False
    renewal_due: bool = False
    k3s: K3sState = K3sState.INACTIVE
    gates: tuple[Problem, ...] = ()
    """What must not be so before k3s starts: clock, memory cgroup, supply voltage."""
    desired: Desired | None = None
    newest_generation: int = 0
    """What the server named last; 0 while it has not been heard."""
    done_generation: int = 0
    newest_eeprom: int = 0
    done_eeprom: int = 0
    newest_update: int = 0
    done_update: int = 0
    newest_errand: int = 0
    done_errand: int = 0
    newest_reboot: int = 0
    done_reboot: int = 0
    join: JoinRecord | None = None
    has_joined: bool = False
    """k3s holds what only a join gives it."""
    reread_due: bool = False
    """The order was not read for a while."""


_TRIES = (K3sState.STARTING, K3sState.FAILED)
"""k3s is to run and does not: one that a person stopped stays stopped."""


def plan(observed: Observed) -> tuple[Action, ...]:
    """The actions of this round, in order; empty when there is nothing to do."""
    if not observed.enrolled:
        return (Enrol(),)
    actions: list[Action] = []
    if observed.has_ticket:
        actions.append(ForgetTicket())
    if observed.renewal_due:
        actions.append(Renew())
    if observed.newest_eeprom > observed.done_eeprom:
        actions.append(WriteEeprom(observed.newest_eeprom))
    if observed.newest_errand > observed.done_errand:
        actions.append(DoErrand(observed.newest_errand))
    if observed.newest_reboot > observed.done_reboot:
        # Nothing else matters to a system that is about to be overwritten.
        return (*actions, Reboot(observed.newest_reboot))
    if observed.newest_update > observed.done_update:
        # Last: the process ends with it, and its successor goes on from the state file.
        return (*actions, Update(observed.newest_update))
    desired = observed.desired
    if observed.newest_generation > (desired.generation if desired else 0):
        # Decide on the newest order only: the next round sees it.
        return (*actions, FetchDesired())
    if desired is None:
        return tuple(actions)
    if desired.join:
        actions.extend(_plan_join(observed, desired))
    elif observed.done_generation < desired.generation:
        actions.append(MarkDone(desired.generation))
    return tuple(actions)


def _plan_join(observed: Observed, desired: Desired) -> tuple[Action, ...]:
    record = observed.join
    running = observed.k3s is K3sState.RUNNING
    newest = desired.material or desired.generation
    if lost_membership(observed):
        # Asking would be refused each time. Whether it joins anew is the server's word, or a person's.
        return (FetchDesired(again=True),) if observed.reread_due else ()
    if record is None and desired.files:
        return (Adopt(newest, desired.files),)
    if record is None or (record.generation < newest and not running):
        return () if observed.gates else (Join(newest, restart=record is not None),)
    if not running and (record.pending == "restart" or (record.pending and observed.k3s not in _TRIES)):
        return (StartK3s(record),)
    actions: list[Action] = []
    if running and not record.cleaned:
        actions.append(FinishJoin(record))
    is_new = observed.done_generation < desired.generation
    if desired.files and is_new and (running or record.cleaned):
        actions.append(Configure(desired.files, restart=not running and observed.k3s in _TRIES))
    if is_new and (running or (record.cleaned and desired.files)):
        actions.append(MarkDone(desired.generation))
    return tuple(actions)


def lost_membership(observed: Observed) -> bool:
    """Whether the node has joined by the server's record, and neither k3s nor its disk knows of it.

    Only who has joined is told what it is to keep: the server would give it no material.
    """
    desired = observed.desired
    if not observed.enrolled or desired is None or not (desired.join and desired.files):
        return False
    knows = observed.has_joined or observed.k3s is K3sState.RUNNING
    return observed.join is None and not knows


def newer(known: Desired | None, offered: Desired) -> Desired | None:
    """The order to keep: a stale or repeated one changes nothing."""
    return offered if known is None or offered.generation > known.generation else known


def problem_code(action: Action) -> str:
    """What the report calls it when the action fails."""
    codes = {
        Renew: "renewal",
        Join: "join",
        Adopt: "join",
        StartK3s: "join",
        Update: "agent_update",
        FinishJoin: "join_cleanup",
        Configure: "settings",
        FetchDesired: "desired",
        WriteEeprom: "eeprom",
        Reboot: "reboot",
        DoErrand: "errand",
    }
    return codes.get(type(action), "state_not_saved")
