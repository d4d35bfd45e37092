"""Gets boards of open re-images to start from the network: looks, asks `fleet.entry.ways`, does one thing.

What was tried stands in the order's record before it is done, so a server that ends in the middle goes on
counting: no board is restarted or cut for ever.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, assert_never

from fleet.eeprom.recommend import boot_order
from fleet.entry import ways
from fleet.entry.reboot_orders import give_order, refusal_of
from fleet.entry.ways import AskPerson, PowerCycle, RebootByAgent, Tried, WaitForNetworkBoot, Way, way_in
from fleet.ground import Ground
from fleet.health.conditions import Condition
from fleet.health.desk import held_by
from fleet.power.cycle import PowerAction
from fleet.power.desk import PowerDesk
from fleet.power.open import is_switchable
from fleet.refusal import RefusedError
from fleet.reimage import progress
from fleet.reimage.kinds import ReimageKind
from fleet.reimage.problems import Problem
from fleet.reimage.seams import Findings, NotYet, Situation
from fleet.store.records import NodeRecord, ReimageRecord
from fleet.timeline import Entry, Kind

BY: Final = "the re-installation"


@dataclass(frozen=True, slots=True)
class EntryDesk:
    """The way in of `fleet.reimage.driver`."""

    ground: Ground
    power: PowerDesk

    async def enter(self, order: ReimageRecord, node: NodeRecord) -> NotYet:
        """Do the next thing, or wait."""
        if order.kind is ReimageKind.REPLACE:
            return NotYet(f"waits for the new board of {node.name}: switch it on, on this network")
        spec, now = self.ground.require_spec(node.name), self.ground.clock()
        tried = self._look(order, node)
        found = way_in(node.name, spec.board, self._agent(node), self._power(node.name), tried, now)
        match found:
            case WaitForNetworkBoot(why):
                return NotYet(why)
            case RebootByAgent():
                return self._tell_agent(order, node, tried, now)
            case PowerCycle(why):
                return self._cycle(order, node, tried, why, now)
            case AskPerson(text):
                self._ask(node, text, now)
                return NotYet(text)
            case _:
                assert_never(found)

    async def check(self, situation: Situation) -> Findings:
        """What to know of the way in before a node is taken down; it is never a reason not to."""
        spec = situation.spec
        if spec is None or situation.kind is not ReimageKind.REIMAGE or not situation.silent:
            return Findings()
        if is_switchable(spec.power):
            return Findings()
        text = f"{spec.name} is silent and nothing can switch it: somebody has to cut its power, and be there"
        hint = "'power' in cluster.yaml declares a switched outlet: docs/power.md."
        return Findings(warnings=(Problem("way-in", text, hint),))

    def _look(self, order: ReimageRecord, node: NodeRecord) -> Tried:
        """What was tried, with what became of it."""
        tried = Tried.from_json(order.progress.get(progress.ENTRY))
        if tried.last is Way.REBOOT:
            with self.ground.store.read() as reader:
                return replace(tried, refused=refusal_of(reader, node.name, tried.order))
        job = self.power.job(node.name)
        if tried.last is Way.CYCLE and job is not None and job.ended_at is not None and job.error:
            return replace(tried, power_failed=job.error)
        return tried

    def _agent(self, node: NodeRecord) -> ways.Agent:
        if node.certificate is None:
            return ways.Agent()
        with self.ground.store.read() as reader:
            held = {one.condition: one.evidence for one in held_by(reader, node.name)}
        evidence = held.get(Condition.UNDER_VOLTAGE)
        return ways.Agent(
            heard_at=node.status_at,
            boot_id=node.boot_id,
            forbids_writing=f"its supply voltage is too low ({evidence})" if evidence is not None else "",
            listened_since=self.ground.started,
            pace=self.ground.pace,
        )

    def _power(self, name: str) -> ways.Power:
        return ways.Power(
            can_switch=is_switchable(self.ground.require_spec(name).power),
            refusal=self.power.refusal_of(name) or "",
            is_busy=self.power.is_busy(name),
        )

    def _tell_agent(self, order: ReimageRecord, node: NodeRecord, tried: Tried, now: float) -> NotYet:
        spec = self.ground.require_spec(node.name)
        with self.ground.store.write() as tx:
            # Its number is the order's, unless a person or a restore made another follow.
            intent = tx.open_intent(node.name)
            number = give_order(
                tx,
                node,
                intent=order.number if intent is None else intent.number,
                boot_order=boot_order(spec.board, spec),
            )
            tried = tried.with_reboot(number, node.boot_id, now)
            tx.note_reimage(order, **{progress.ENTRY: tried.as_json()})
            text = (
                f"its agent is told to restart into the installer ({tried.reboots} of {ways.MAX_REBOOTS}, "
                f"order {number})"
            )
            tx.add_event(Entry(kind=Kind.BOOT, text=text), now, node=node.name, board=node.board_id)
        return NotYet(f"{node.name} is told to restart into the installer", {progress.ENTRY: tried.as_json()})

    def _cycle(self, order: ReimageRecord, node: NodeRecord, tried: Tried, why: str, now: float) -> NotYet:
        tried = tried.with_cycle(node.boot_id, now)
        with self.ground.store.write() as tx:
            tx.note_reimage(order, **{progress.ENTRY: tried.as_json()})
        try:
            # Whether the cluster can spare it was decided before it was taken out.
            self.power.order(node.name, PowerAction.CYCLE, by=BY, why=why, force=True)
        except RefusedError as error:
            tried = replace(tried, power_failed=error.message)
            return NotYet(f"{node.name}: {error.message}", {progress.ENTRY: tried.as_json()})
        return NotYet(f"{node.name} is power-cycled: {why}", {progress.ENTRY: tried.as_json()})

    def _ask(self, node: NodeRecord, text: str, now: float) -> None:
        with self.ground.store.write() as tx:
            self.ground.say_once(tx, Entry(kind=Kind.HELD, text=text), now, node=node)
