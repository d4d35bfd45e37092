"""How a board gets into the installer: by its own agent, by its power, on its own, or by a hand. Pure.

A re-image opens an intent and answers on the network; somebody has to make the board start from there. What
is tried, in this order, each at most so often:

1. Its agent restarts it. A Pi 5 is told to start from the network this once, others do when their boot order
   begins with it. A board that comes up in its old system again is told again.
2. Its power is cut and given back, where something can. What comes up may be the old system: then its agent
   is told, which is the first way again.
3. A person is told exactly what to do.

Every way waits for the board before the next is taken: a restart takes minutes, and a cut in the middle of
one would only make it longer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from fleet.boards import BoardModel, Soc
from fleet.health.pace import SMALL_FLEET, Pace

PATIENCE_S: Final = 300.0
"""From an attempt to the board's first sign on the network: shutting down, firmware, DHCP."""
OVERDUE_S: Final = 120.0
"""An agent that still reports from the same start so long after its order was not restarted."""
MAX_REBOOTS: Final = 3
MAX_CYCLES: Final = 2


class Way(StrEnum):
    """What was tried last."""

    NOTHING = "nothing"
    REBOOT = "reboot"
    CYCLE = "cycle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What was done so far for one order; kept in its record.

    Attributes:
        boot_id: The start of the system that the agent reported from when it was told last.
        at: When the last thing was tried, UTC seconds.
        refused: Why the agent did not restart it; empty where it did, or was not told.
        power_failed: Why the power could not be cycled.
    """

    reboots: int = 0
    cycles: int = 0
    last: Way = Way.NOTHING
    at: float = 0.0
    boot_id: str | None = None
    order: int = 0
    refused: str = ""
    power_failed: str = ""

    def with_reboot(self, order: int, boot_id: str | None, now: float) -> Tried:
        return replace(
            self, reboots=self.reboots + 1, last=Way.REBOOT, at=now, order=order, boot_id=boot_id, refused=""
        )

    def with_cycle(self, boot_id: str | None, now: float) -> Tried:
        return replace(self, cycles=self.cycles + 1, last=Way.CYCLE, at=now, boot_id=boot_id, power_failed="")

    @classmethod
    def from_json(cls, value: object) -> Tried:
        """What an order's record holds; nothing was tried where it holds none."""
        if not isinstance(value, Mapping):
            return cls()
        known = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
        return cls(**{**known, "last": Way(known.get("last", Way.NOTHING))})

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """What is heard of the node's agent.

    Attributes:
        heard_at: Its last report, UTC seconds; None: none since it was installed, or it has no certificate.
        boot_id: The start of the system that it reported from.
        forbids_writing: Why nothing may be written to this board's disk now; empty where it may.
        listened_since: When this server began to listen to it, UTC seconds; None: it has no agent that could
            report.
        pace: How often it reports.
    """

    heard_at: float | None = None
    boot_id: str | None = None
    forbids_writing: str = ""
    listened_since: float | None = None
    pace: Pace = SMALL_FLEET

    def is_alive(self, now: float) -> bool:
        return self.heard_at is not None and now - self.heard_at <= self.pace.silence_s

    def is_awaited(self, now: float) -> bool:
        """Whether its silence tells nothing yet: this server was away itself, and has not heard it since."""
        since = self.listened_since
        if since is None or (self.heard_at is not None and self.heard_at >= since):
            return False
        return 0 <= now - since < self.pace.return_s

    @property
    def overdue_s(self) -> float:
        """An order is heard with the next report, and who restarts counts as alive for a while."""
        return max(OVERDUE_S, self.pace.steady_s + self.pace.silence_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """What can be done to the board's power.

    Attributes:
        can_switch: Something can switch it, and knows nothing against it.
        refusal: Why it can not be cut now, which ends by itself; empty where it can.
        is_busy: An order is under way.
    """

    can_switch: bool = False
    refusal: str = ""
    is_busy: bool = False


@dataclass(frozen=True, slots=True)
class RebootByAgent:
    """Tell the agent, which knows whether its firmware can be told a boot order for one start."""


@dataclass(frozen=True, slots=True)
class PowerCycle:
    """Cut its power and give it back."""

    why: str


@dataclass(frozen=True, slots=True)
class WaitForNetworkBoot:
    """Something is under way."""

    why: str


@dataclass(frozen=True, slots=True)
class AskPerson:
    """Nothing more can be done from here; `text` says what a hand has to do."""

    text: str


WayIn = RebootByAgent | PowerCycle | WaitForNetworkBoot | AskPerson


def way_in(name: str, board: BoardModel, agent: Agent, power: Power, tried: Tried, now: float) -> WayIn:
    """The next thing to do for a board whose intent is open and that was not seen on the network yet."""
    if power.is_busy:
        return WaitForNetworkBoot(f"{name} is being power-cycled")
    waiting = _still_waiting(agent, tried, now)
    if waiting is not None:
        return WaitForNetworkBoot(f"{name} {waiting}")
    alive = agent.is_alive(now)
    if not alive and agent.is_awaited(now):
        return WaitForNetworkBoot(
            f"{name} is silent, and this server started a moment ago: it is given "
            f"{agent.pace.return_s / 60:.0f} min to report before anything else is tried"
        )
    if alive and agent.forbids_writing:
        return AskPerson(
            f"{name} is not restarted into the installer: {agent.forbids_writing}. Writing its disk now "
            "could damage it; mend that first"
        )
    if alive and not tried.refused and tried.reboots < MAX_REBOOTS:
        return RebootByAgent()
    if alive and tried.refused:
        # A cut would only start the same system again.
        return AskPerson(f"{name} can not restart into the installer: {tried.refused}")
    # A plug that does not answer may do so a little later.
    is_due = not tried.power_failed or now - tried.at >= PATIENCE_S
    if power.can_switch and is_due and tried.cycles < MAX_CYCLES:
        if power.refusal:
            return WaitForNetworkBoot(f"{name}: {power.refusal}")
        return PowerCycle("it comes up in its old system again and again" if alive else "it does not answer")
    return AskPerson(_what_a_hand_does(name, board, power, tried, is_alive=alive))


def _still_waiting(agent: Agent, tried: Tried, now: float) -> str | None:
    """Why nothing new is tried yet; None: it is time for something."""
    if tried.last is Way.NOTHING or (tried.last is Way.REBOOT and tried.refused):
        return None
    if tried.last is Way.CYCLE and tried.power_failed:
        return None
    since = now - tried.at
    heard_since = agent.heard_at is not None and agent.heard_at > tried.at
    if heard_since and agent.boot_id != tried.boot_id:
        return None  # it came up in its old system
    if heard_since and tried.last is Way.REBOOT and since >= agent.overdue_s and agent.is_alive(now):
        return None  # it took the order and is still there
    if 0 <= since < PATIENCE_S:
        did = "was told to restart into the installer" if tried.last is Way.REBOOT else "was power-cycled"
        return f"{did} {since:.0f} s ago and is awaited on the network"
    return None


def _what_a_hand_does(name: str, board: BoardModel, power: Power, tried: Tried, *, is_alive: bool) -> str:
    """Each step, for somebody who stands in front of the board."""
    done = []
    if tried.reboots:
        done.append(f"was told {tried.reboots} times to restart")
    if tried.cycles:
        done.append(f"was power-cycled {tried.cycles} times")
    if tried.power_failed:
        done.append(f"could not be power-cycled ({tried.power_failed})")
    elif power.can_switch and power.refusal:
        done.append(f"may not be power-cycled ({power.refusal})")
    elif not power.can_switch:
        done.append("has no switch that Bramble could use")
    past = f"{name} {', '.join(done)}" if done else name
    state = "still runs its old system" if is_alive else "does not answer"
    if board.soc is Soc.BCM2712:
        steps = (
            "pull its plug for five seconds with the network cable plugged in. If its old system starts, its "
            "agent is told again by itself. If nothing comes up, take its disk out: without one the firmware "
            "goes on to the network where its boot order has it; or set the boot order with a card made by "
            "Raspberry Pi Imager ('Misc utility images')"
        )
    else:
        steps = (
            "pull its plug for five seconds with the network cable plugged in. If its boot order begins with "
            "the network, that is all. If it does not, start it without its card or disk once, or put the "
            f"network first with 'bramble eeprom apply {name}' while its system still runs"
        )
    return f"{past} and {state}: {steps}"
