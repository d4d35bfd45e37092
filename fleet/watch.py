"""What happens without anybody asking: time limits, silence, and Ready as the Kubernetes API says it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

from agent.protocol import K3sState
from fleet import events
from fleet.ground import KEEPS_INTENT, Ground, is_usable
from fleet.health.desk import held_by_all, is_kept_degraded
from fleet.health.pace import pace_of
from fleet.join.desk import JoinDesk
from fleet.join.founding import FOUNDER, note_founded
from fleet.join.preparation import JoinPreparation
from fleet.kube.client import KubeApi, KubeError, KubeNode
from fleet.kube.door import KubeDoor
from fleet.kube.label_desk import LabelDesk
from fleet.kube.node_conditions import Announcer
from fleet.lifecycle import TIMED, Happening, State, check, limit_s
from fleet.printable import printable
from fleet.recovery.state import restores
from fleet.spec.model import Role
from fleet.store.records import IntentRecord, NodeRecord
from fleet.store.transaction import Reader, Transaction

log = logging.getLogger(__name__)

UNREADY_POLLS: Final = 3
"""So many answers in a row must say "not Ready" before a node is degraded; one is a hiccup."""
_REPORTING: Final = (State.READY, State.DEGRADED)
_WAITING: Final = (State.JOINING, State.FAILED_JOINING, State.DEGRADED)
"""Kubernetes may say of these that they are Ready."""
POLL_JOINING_S: Final = 2.0
POLL_STEADY_S: Final = 10.0


def _ignore(_listing: Mapping[str, KubeNode]) -> None:
    """Nobody else wants to know."""


class Watch:
    """Moves nodes by the clock and by what Kubernetes says."""

    def __init__(self, ground: Ground, joins: JoinDesk, preparation: JoinPreparation, door: KubeDoor) -> None:
        self._ground = ground
        self._joins = joins
        self._preparation = preparation
        self._door = door
        self._unready: dict[str, int] = {}
        self._announcer = Announcer()
        self._labels = LabelDesk(ground)
        self.on_listing: Callable[[Mapping[str, KubeNode]], None] = _ignore
        """Told what Kubernetes says of its nodes, after they were moved by it."""

    def tick(self) -> None:
        """Apply time limits. Cheap: run it about once per second."""
        now = self._ground.clock()
        with self._ground.store.read() as reader:
            self._ground.pace = pace_of(reader.installed_count())
            due = any(self._is_due(node, now) for node in self._at_risk(reader, now))
            due |= bool(_expired_intents(reader, now))
        if not due:
            return
        with self._ground.store.write() as tx:
            for node in self._at_risk(tx, now):
                self._apply_limits(tx, node, now)
            self._expire_intents(tx, now)
        self._ground.on_boot_change()

    def _at_risk(self, reader: Reader, now: float) -> list[NodeRecord]:
        return reader.nodes_at_risk(TIMED, _REPORTING, now - self._ground.pace.silence_s)

    def _is_due(self, node: NodeRecord, now: float) -> bool:
        return self._is_overdue(node, now) or self._is_silent(node, now)

    def _is_overdue(self, node: NodeRecord, now: float) -> bool:
        # Nor could anybody get on meanwhile: after a power cut of the whole site a board that is awaited in
        # the installer is not given up before it could ask.
        heard = max(node.standing.progressed_at, self._ground.started)
        return check(replace(node.standing, progressed_at=heard), node.role, now) is not None

    def _is_silent(self, node: NodeRecord, now: float) -> bool:
        if node.state not in _REPORTING:
            return False
        pace = self._ground.pace
        # What happened while this server was away is nobody's silence; who found nobody pauses for longer.
        was_heard = _last_sign(node) >= self._ground.started
        return self._silence_s(node, now) > (pace.silence_s if was_heard else pace.return_s)

    def _silence_s(self, node: NodeRecord, now: float) -> float:
        return now - max(_last_sign(node), self._ground.started)

    def _apply_limits(self, tx: Transaction, node: NodeRecord, now: float) -> None:
        if self._is_overdue(node, now):
            minutes = (limit_s(node.state, node.role) or 0.0) / 60
            entry = events.timed_out(node.state, minutes)
            tx.move(node, Happening.TIMED_OUT, entry, now, detail=node.detail)
        elif self._is_silent(node, now):
            tx.move(node, Happening.FELL_SILENT, events.fell_silent(self._silence_s(node, now)), now)

    @staticmethod
    def _expire_intents(tx: Transaction, now: float) -> None:
        for node, intent in _expired_intents(tx, now):
            tx.close_intent(intent, "expired", now)
            entry = events.intent_closed(intent.number, "expired")
            tx.add_event(entry, now, node=node.name, board=node.board_id)

    def poll_interval_s(self) -> float:
        """How long to wait until the next question to Kubernetes."""
        with self._ground.store.read() as reader:
            joining = reader.has_node_in(_WAITING, join_allowed=True)
        return POLL_JOINING_S if joining else POLL_STEADY_S

    async def poll(self) -> None:
        """Ask the servers in turn until one answers, and apply what it says. No answer changes nothing."""
        with self._ground.store.read() as reader:
            if not reader.has_node_in((*_WAITING, State.READY)):
                return
        try:
            async with self._door.open() as (api, listing):
                self.apply_kubernetes(listing)
                self.on_listing(listing)
                await self._announce(api, listing)
                await self._preparation.tidy(api, listing)
                if not self._ground.is_behind:
                    await self._labels.reconcile(api, listing)
            self._joins.settings.virtual = await self._door.virtual_url()
        except KubeError as error:
            log.debug("kubernetes does not answer", extra={"cause": error.message})
        self._joins.settings.reconcile()

    async def _announce(self, api: KubeApi, listing: Iterable[str]) -> None:
        """Write nodes' conditions to their Node objects; what is refused is tried again later."""
        now = self._ground.clock()
        with self._ground.store.read() as reader:
            ill = held_by_all(reader)
        for name in listing:
            held = ill.get(name, ())
            patch = self._announcer.due(name, held, now)
            if patch is None:
                continue
            try:
                await api.patch_node_status(name, patch)
            except KubeError as error:
                log.warning("a node's conditions were not published: %s", error.message, extra={"node": name})
                self._announcer.refused(name, now)
                continue
            self._announcer.told(name, held, now)

    def apply_kubernetes(self, listing: Mapping[str, KubeNode]) -> None:
        """Move nodes by what the Kubernetes API says of them."""
        now = self._ground.clock()
        told = any(node.votes is not None for node in listing.values())
        with self._ground.store.write() as tx:
            for node in tx.nodes():
                said = listing.get(node.name)
                if said is not None and said.ready:
                    self._unready.pop(node.name, None)
                    # A server that is a learner of etcd yet is not up; old releases do not say what it is.
                    votes = said.votes if told else True
                    self._take_ready(tx, node, said, now, votes=bool(votes))
                elif node.state is State.READY:
                    self._take_unready(tx, node, said, now)

    def _take_ready(
        self, tx: Transaction, node: NodeRecord, said: KubeNode, now: float, *, votes: bool
    ) -> None:
        # A Node object outlives its node for a while: only one that got its material can have become Ready.
        if not (node.join_allowed and _waits_for_ready(node)):
            return
        if node.role is Role.SERVER and not votes:
            return
        if restores(tx, node.name) and (node.status or {}).get("k3s") != K3sState.RUNNING.value:
            return  # its Node object is out of the snapshot: that one was Ready when it was taken
        if node.state is State.DEGRADED and is_kept_degraded(tx, node.name):
            return
        entry = events.became_ready(said.version, node.has_simulated_k3s)
        tx.move(node, Happening.BECAME_READY, entry, now)
        if tx.value(FOUNDER) == node.name:
            note_founded(tx, node.name, now)

    def _take_unready(self, tx: Transaction, node: NodeRecord, said: KubeNode | None, now: float) -> None:
        count = self._unready.get(node.name, 0) + 1
        self._unready[node.name] = count
        if count < UNREADY_POLLS:
            return
        del self._unready[node.name]
        reason = said.reason if said else "it has no Node object"
        tx.move(
            node, Happening.BECAME_UNREADY, events.became_unready(reason), now, detail=printable(reason, 200)
        )


def _expired_intents(reader: Reader, now: float) -> list[tuple[NodeRecord, IntentRecord]]:
    """Open intents whose time is over, but for those that an installer still needs."""
    expired = [intent for intent in reader.open_intents().values() if not is_usable(intent, now)]
    owned = [(reader.require_node(intent.node), intent) for intent in expired]
    return [(node, intent) for node, intent in owned if node.state not in KEEPS_INTENT]


def _last_sign(node: NodeRecord) -> float:
    return max(node.status_at or 0.0, node.standing.since)


def _waits_for_ready(node: NodeRecord) -> bool:
    return node.state in _WAITING
