"""Orders to switch a board's power: taken, limited, carried out beside everything else, and written down.

An order is durable before the device hears of it. A cut that a server did not see through (it was killed
between off and on) is found at its next start, or by another server, and the board is switched on
(`fleet.power.debts`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from fleet.ground import Ground
from fleet.lifecycle import State
from fleet.power.cycle import Pace, PowerAction, cycle, switch_off, switch_on
from fleet.power.debts import NOBODY, RENEW_S, History, Owner
from fleet.power.driver import PowerDriver, PowerError, PowerState
from fleet.power.limits import refusal
from fleet.power.open import describe_outlet, is_switchable, open_driver
from fleet.quorum import quorum_of
from fleet.refusal import RefusedError, no_such_node
from fleet.spec.model import NodeSpec, Role
from fleet.spec.power import DEFAULT_OFF_S, ManualPower
from fleet.store.database import StoreError
from fleet.store.records import NodeRecord
from fleet.store.transaction import Reader
from fleet.timeline import Entry, Kind

log = logging.getLogger(__name__)

MAX_AT_ONCE: Final = 8
"""Devices that are talked to at the same time; the rest waits."""
OpenDriver = Callable[[NodeSpec, Mapping[str, str]], PowerDriver]


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerJob:
    """One order and what became of it; in memory, the timeline has it for good.

    Attributes:
        ended_at: UTC seconds; None while it is under way.
        error: Why it failed; empty where it did not.
        found: What was seen, where it succeeded.
    """

    number: int
    node: str
    action: PowerAction
    by: str
    started_at: float
    ended_at: float | None = None
    error: str = ""
    hint: str = ""
    found: str = ""

    def as_json(self) -> dict[str, Any]:
        names = ("number", "action", "by", "started_at", "ended_at", "error", "hint", "found")
        return {name: getattr(self, name) for name in names}


@dataclass(slots=True)
class PowerDesk:
    """Takes orders on the event loop's thread; `run` carries them out.

    Attributes:
        environ: Of the process: passwords and commands need it. Set by the composition root.
        pace: How waiting is done.
    """

    ground: Ground
    environ: Mapping[str, str] = field(default_factory=dict)
    pace: Pace = field(default_factory=Pace)
    open_driver: OpenDriver = open_driver
    _jobs: dict[str, PowerJob] = field(default_factory=dict)
    _queue: asyncio.Queue[str] = field(default_factory=lambda: asyncio.Queue(maxsize=1024))
    _number: int = 0
    _owner: Owner = field(init=False)

    def __post_init__(self) -> None:
        self._owner = Owner(self.ground.store, self.ground.random_hex(8))

    # --- what people and the re-image ask

    def order(
        self, name: str, action: PowerAction, *, by: str, why: str = "", force: bool = False
    ) -> PowerJob:
        """Take an order; it is durable, and begins as soon as `run` gets to it.

        Args:
            force: Against what is done for the node's and the cluster's sake; never against the limit.

        Raises:
            RefusedError: No such node, nothing that could be switched, one under way, too often, or harmful.
        """
        spec, now = self._require_spec(name), self.ground.clock()
        with self.ground.store.write() as tx:
            record = tx.require_node(name)
            self._require_possible(tx, spec, record, action, now, force=force)
            if action.cuts:
                history = History.load(tx, name).cut(now)
                if action is PowerAction.CYCLE:
                    self._owner.renew(tx, now)  # before the debt: no other server takes it for a dead one's
                    history = history.lend(self._owner.me)
                history.save(tx, name)
            because = f": {why}" if why else ""
            text = f"{_NOUN[action]} was ordered by {by}, {describe_outlet(spec.power)}{because}"
            tx.add_event(Entry(kind=Kind.POWER, text=text), now, node=name, board=record.board_id)
        return self._put(name, action, by, now)

    def preview(self, name: str, action: PowerAction, *, force: bool = False) -> list[str]:
        """What an order would do, step by step; nothing is sent and nothing is written down.

        Raises:
            RefusedError: What `order` would refuse.
        """
        spec = self._require_spec(name)
        with self.ground.store.read() as reader:
            self._require_possible(
                reader, spec, reader.require_node(name), action, self.ground.clock(), force=force
            )
        outlet = describe_outlet(spec.power)
        if action is not PowerAction.CYCLE:
            return [f"switch {name} {action.value}: {outlet}", f"wait until the device says '{action.value}'"]
        return [
            f"switch {name} off: {outlet}",
            "wait until the device says 'off'",
            f"wait {_off_s(spec)} s",
            f"switch {name} on, and wait until the device says 'on'",
        ]

    async def state(self, name: str) -> PowerState:
        """Ask the device.

        Raises:
            RefusedError: There is no such node, or the device does not answer as it should.
        """
        spec = self._require_spec(name)
        try:
            return await self.open_driver(spec, self.environ).state()
        except PowerError as error:
            raise RefusedError(502, "power", error.message, error.hint) from error

    def job(self, name: str) -> PowerJob | None:
        """The node's last order since the start of this server."""
        return self._jobs.get(name)

    def is_busy(self, name: str) -> bool:
        job = self._jobs.get(name)
        return job is not None and job.ended_at is None

    def refusal_of(self, name: str) -> str | None:
        """Why its power may not be cut now, as far as its own past says; None: it may."""
        with self.ground.store.read() as reader:
            return refusal(History.load(reader, name).cuts, self.ground.clock())

    # --- carrying out

    async def run(self) -> None:
        """Carry orders out until cancelled; first what an earlier server left undone."""
        self._resume(at_start=True)
        limit = asyncio.Semaphore(MAX_AT_ONCE)
        try:
            async with asyncio.TaskGroup() as tasks:
                if not self._owner.is_alone:
                    tasks.create_task(self._watch_others(), name="power of other servers")
                while True:
                    name = await self._queue.get()
                    await limit.acquire()
                    tasks.create_task(self._carry_out_one(name, limit), name=f"power of {name}")
        finally:
            if not self._owner.is_alone:
                with contextlib.suppress(StoreError), self.ground.store.write() as tx:
                    self._owner.resign(tx)

    async def _watch_others(self) -> None:
        """Say that this server lives, and take over what one that died left undone."""
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                self._resume()
            except StoreError as error:
                log.warning("what other servers left undone is not known: %s", error.message)

    def _resume(self, *, at_start: bool = False) -> None:
        """Boards that may have been left without power are switched on."""
        now = self.ground.clock()
        with self.ground.store.read() as reader:
            if not self._owner.has_work(reader):
                return
        ours = [node.name for node in self.ground.spec.nodes if not self.is_busy(node.name)]
        with self.ground.store.write() as tx:
            if not self._owner.is_alone:
                self._owner.renew(tx, now)
            owed = self._owner.take_over(tx, ours, now, at_start=at_start)
            for name in owed:
                record = tx.require_node(name)
                text = "how its power-cycle ended is not on record; it is switched on"
                tx.add_event(Entry(kind=Kind.POWER, text=text), now, node=name, board=record.board_id)
        for name in owed:
            by = "the server's start" if at_start else "another server's end"
            self._put(name, PowerAction.ON, by, now)

    def _put(self, name: str, action: PowerAction, by: str, now: float) -> PowerJob:
        self._number += 1
        job = PowerJob(number=self._number, node=name, action=action, by=by, started_at=now)
        self._queue.put_nowait(name)
        self._jobs[name] = job
        return job

    async def _carry_out_one(self, name: str, limit: asyncio.Semaphore) -> None:
        job = self._jobs[name]
        try:
            spec = self._require_spec(name)
            driver = self.open_driver(spec, self.environ)
            if job.action is PowerAction.ON:
                found = await switch_on(driver, self.pace)
            elif job.action is PowerAction.OFF:
                found = await switch_off(driver, self.pace)
            else:
                found = await cycle(driver, _off_s(spec), self.pace)
        except (PowerError, RefusedError) as error:
            self._end(job, error=error.message, hint=error.hint)
        except Exception as error:
            # The other orders go on; what it was is in the log.
            log.exception("the power of %s could not be switched", name)
            self._end(job, error=f"{type(error).__name__}", hint="The server's log has more.")
        else:
            self._end(job, found=found)
        finally:
            limit.release()

    def _end(self, job: PowerJob, *, found: str = "", error: str = "", hint: str = "") -> None:
        now = self.ground.clock()
        self._jobs[job.node] = replace(job, ended_at=now, found=found, error=error, hint=hint)
        try:
            self._write_down(self._jobs[job.node], now)
        except StoreError as failure:
            log.error("what became of the power of %s was not recorded: %s", job.node, failure)

    def _write_down(self, job: PowerJob, now: float) -> None:
        error, hint, found = job.error, job.hint, job.found
        with self.ground.store.write() as tx:
            history = History.load(tx, job.node)
            if history.owed and not self._owner.is_anothers(tx, history, now):
                # One that failed stands: a person is told, and the next start tries once more.
                (replace(history, owner=NOBODY) if error else history.settle()).save(tx, job.node)
            record = tx.node(job.node)
            if error:
                entry = Entry(kind=Kind.ALARM, text=f"{_NOUN[job.action]} failed: {error}", hint=hint)
            else:
                entry = Entry(kind=Kind.POWER, text=f"{_DONE[job.action]}; {found}")
            tx.add_event(entry, now, node=job.node, board=record.board_id if record else None)

    # --- rules

    def _require_spec(self, name: str) -> NodeSpec:
        spec = self.ground.spec.find_node(name)
        if spec is None:
            raise no_such_node(name, (known.name for known in self.ground.spec.nodes))
        return spec

    def _require_possible(
        self,
        reader: Reader,
        spec: NodeSpec,
        record: NodeRecord,
        action: PowerAction,
        now: float,
        *,
        force: bool,
    ) -> None:
        if not is_switchable(spec.power):
            verb = "plug it in" if action is PowerAction.ON else "pull its plug"
            raise RefusedError(
                409,
                "by-hand",
                f"nothing switches {spec.name} but a person: {verb}",
                "A switched plug or a PoE port can be declared with 'power' in cluster.yaml: docs/power.md.",
            )
        if self.is_busy(spec.name):
            raise RefusedError(
                409, "busy", f"an order for the power of {spec.name} is under way", "Wait for its end."
            )
        history = History.load(reader, spec.name)
        if self._owner.is_anothers(reader, history, now):
            raise RefusedError(
                409,
                "busy",
                f"another control server is power-cycling {spec.name}",
                "Wait for its end: the timeline tells.",
            )
        if not action.cuts:
            return
        too_often = refusal(history.cuts, now)
        if too_often is not None:
            raise RefusedError(429, "too-often", f"{spec.name}: {too_often}", "'on' is always possible.")
        harm = None if force else self._harm(reader, record)
        if harm is not None:
            raise RefusedError(409, "harmful", f"{spec.name}: {harm}", "--force does it all the same.")

    @staticmethod
    def _harm(reader: Reader, record: NodeRecord) -> str | None:
        """What a cut would break that a person may not have in mind."""
        if record.state is State.IMAGING:
            return "its disk is being written; a cut now costs the whole attempt"
        if record.role is not Role.SERVER or record.state is not State.READY:
            return None
        servers = [node for node in reader.nodes() if node.role is Role.SERVER]
        joined = [node for node in servers if node.state in (State.READY, State.DEGRADED, State.LOST)]
        staying = sum(node.state is State.READY and node.name != record.name for node in joined)
        # A single server has no quorum to lose: the API goes and comes with it.
        if len(joined) < 2 or staying >= quorum_of(len(joined)):
            return None
        return (
            f"without it {staying} of {len(joined)} servers are ready, {quorum_of(len(joined))} are needed: "
            "the cluster's API would stand still"
        )


_NOUN: Final = {
    PowerAction.ON: "switching on",
    PowerAction.OFF: "switching off",
    PowerAction.CYCLE: "a power-cycle",
}
_DONE: Final = {
    PowerAction.ON: "switched on",
    PowerAction.OFF: "switched off",
    PowerAction.CYCLE: "power-cycled",
}


def _off_s(spec: NodeSpec) -> int:
    power = spec.power
    return DEFAULT_OFF_S if power is None or isinstance(power, ManualPower) else power.off_s
