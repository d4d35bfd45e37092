"""Takes nodes down, one step at a time: observes, asks `fleet.reimage.steps`, and does what it is told.

Between two steps nothing is remembered that the record or the cluster does not hold, except when a pod was
asked to leave last. So the process may end at any await and another goes on. Deeds of one node follow one
another; nodes are worked on beside each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from fleet import events
from fleet.boards import Serial
from fleet.errors import FleetError
from fleet.ground import INTENT_TTL_S, Ground
from fleet.join.secrets import node_password_name
from fleet.k3s.versions import Feature, K3sVersion, has
from fleet.kube.client import KubeApi, KubeError, KubeNode, KubeRefusedError
from fleet.kube.door import KubeDoor
from fleet.lifecycle import LEAVING, WAY_BACK, Happening, State
from fleet.reimage import progress
from fleet.reimage.drain import EVICTION_INTERVAL_S, leaving, refusal_text
from fleet.reimage.kinds import Outcome, ReimageKind
from fleet.reimage.observe import has_password, is_silent
from fleet.reimage.rebind import rebind, retire
from fleet.reimage.seams import Done, Findings, NotYet, ServerSteps, WayIn
from fleet.reimage.steps import (
    Abort,
    Close,
    Deed,
    Do,
    Move,
    Note,
    Observed,
    Wait,
    asks_for_obstacles,
    needs_observation,
    next_step,
)
from fleet.reimage.turn import Turn
from fleet.restored import unobserved
from fleet.store.records import NodeRecord, ReimageRecord
from fleet.store.transaction import Transaction

log = logging.getLogger(__name__)

ROUND_S: Final = 1.0
MISTAKE_S: Final = 60.0
"""How long a node whose step broke off is left alone."""
MAX_AT_ONCE: Final = 8
"""Steps of one node in one round, at most: one that is done over and over must not keep the API busy."""
ROLE_RENEWAL_S: Final = 60.0
"""Between two attempts to give the control server the rights of this release."""
_REASON_LENGTH: Final = 500

Assess = Callable[[ReimageRecord, NodeRecord], Any]
"""An order that is under way → its findings (awaitable), and the Node's uid."""


@dataclass(slots=True)
class _Evictions:
    """When each pod was asked to leave, and why it stays; by uid. Lost with the process, at no cost."""

    asked_at: dict[str, float] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)


class ReimageDriver:
    """One per controller.

    Args:
        assess: The checks, asked again once the order stands.
        redeclare: Called after a node became another board.
    """

    def __init__(
        self,
        ground: Ground,
        door: KubeDoor,
        assess: Assess,
        servers: ServerSteps,
        way_in: WayIn,
        redeclare: Callable[[], None],
    ) -> None:
        self._ground = ground
        self._door = door
        self._assess = assess
        self._redeclare = redeclare
        self.servers = servers
        self.way_in = way_in
        self._started = ground.clock()
        self._evictions: dict[str, _Evictions] = {}
        self._role_renewed_at = float("-inf")
        self._turn = Turn(ground.store, ground.random_hex(8))

    async def run(self) -> None:
        """Work on every open order until cancelled."""
        busy: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                with contextlib.suppress(FleetError):  # the controller's own round says what the store lacks
                    for name in self._open_orders():
                        if not self._turn.is_mine(self._ground.clock()):
                            break
                        if name not in busy or busy[name].done():
                            busy[name] = group.create_task(self._go_on(name), name=f"re-image of {name}")
                await asyncio.sleep(ROUND_S)

    async def drive(self) -> None:
        """One step for every open order, the oldest first; for who keeps time himself."""
        for name in self._open_orders():
            await self.advance(name)

    def _open_orders(self) -> list[str]:
        with self._ground.store.read() as reader:
            orders = reader.open_reimages()
        self._evictions = {name: kept for name, kept in self._evictions.items() if name in orders}
        return list(orders)

    async def _go_on(self, name: str) -> None:
        """Steps that follow at once, up to the first that has to be waited for."""
        try:
            for _ in range(MAX_AT_ONCE):
                if not await self.advance(name):
                    return
        except Exception:  # a mistake of ours with one node must not end the server for all
            log.exception("a step broke off", extra={"node": name})
            with contextlib.suppress(FleetError):
                self._wait(name, "Bramble made a mistake here, which its log describes")
            await asyncio.sleep(MISTAKE_S)

    async def advance(self, name: str) -> bool:
        """One step for one node; whether the next may follow at once.

        What goes wrong becomes the reason that people read.
        """
        try:
            return await self._advance(name)
        except KubeRefusedError as error:
            await self._answer_refusal(error)
            self._wait(name, error.message)
        except FleetError as error:
            log.warning("a step was not done: %s", error.message, extra={"node": name})
            with contextlib.suppress(FleetError):  # where it is the store that fails, nothing can be noted
                self._wait(name, error.message)
        return False

    async def _advance(self, name: str) -> bool:
        with self._ground.store.read() as reader:
            order, node = reader.open_reimage(name), reader.node(name)
            stale = node is not None and unobserved(reader, name) is not None
        if order is None or node is None:
            return False
        if stale and node.state not in LEAVING:
            self._wait(name, "the record was restored from a backup; waits until the node is heard of")
            return False
        if asks_for_obstacles(order, node):
            obstacle = await self.servers.obstacle(order, node)
            return await self._take(order, node, Observed(obstacle=obstacle), None)
        if not needs_observation(order, node):
            return await self._take(order, node, Observed(), None)
        async with self._conversation() as (api, listing):
            return await self._take(order, node, await self._observe(api, listing, order, node), api)

    @contextlib.asynccontextmanager
    async def _conversation(self) -> AsyncIterator[tuple[KubeApi | None, Mapping[str, KubeNode]]]:
        """A client of the cluster; None where none of its servers answers."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                api, listing = await stack.enter_async_context(self._door.open())
            except KubeRefusedError:
                raise
            except KubeError as error:
                log.debug("kubernetes does not answer", extra={"cause": error.message})
                yield None, {}
                return
            yield api, listing

    async def _observe(
        self, api: KubeApi | None, listing: Mapping[str, KubeNode], order: ReimageRecord, node: NodeRecord
    ) -> Observed:
        if api is None:
            return Observed()
        seen = listing.get(node.name)
        draining = node.state is State.DRAINING
        going = node.state is State.NODE_DELETED and seen is None
        kept = self._evictions.get(node.name, _Evictions())
        return Observed(
            answers=True,
            node=seen,
            pods=await api.pods_on(node.name) if draining and seen is not None else (),
            password=await has_password(api, node.name) if going else False,
            silent=is_silent(node, seen, self._ground.clock(), self._started, self._ground.pace.silence_s),
            refusals=dict(kept.refusals),
        )

    async def _take(
        self, order: ReimageRecord, node: NodeRecord, observed: Observed, api: KubeApi | None
    ) -> bool:
        match next_step(order, node, observed, self._ground.clock()):
            case Move() as move:
                self._move(order, node, move)
            case Do() as deed:
                await self._do(order, node, observed, deed, api)
                return deed.deed in _SEEN_AT_ONCE
            case Note(note):
                self._note(order, note)
            case Wait(why):
                self._wait(node.name, why)
                return False
            case Abort() as abort:
                self._abort(order, node, abort)
            case Close(outcome, reason):
                self._close(order, outcome, reason)
        return True

    # --- deeds in the world

    async def _do(
        self, order: ReimageRecord, node: NodeRecord, observed: Observed, do: Do, api: KubeApi | None
    ) -> None:
        self._wait(node.name, do.why)
        match do.deed:
            case Deed.CHECK:
                await self._check(order, node)
            case Deed.MOVE_LEADER:
                self._take_answer(
                    order, node, await self.servers.move_leader(order, node), Happening.LEADER_ELSEWHERE
                )
            case Deed.TAKE_SNAPSHOT:
                await self._snapshot(order, node)
            case Deed.REMOVE_MEMBER:
                self._take_answer(
                    order, node, await self.servers.remove_member(order, node), Happening.MEMBER_GONE
                )
            case Deed.ENTER:
                answer = await self.way_in.enter(order, node)
                self._note(order, answer.note)
                self._wait(node.name, answer.why)
            case _:
                if api is not None:
                    await self._do_in_cluster(api, order, node, observed, do.deed)

    async def _do_in_cluster(
        self, api: KubeApi, order: ReimageRecord, node: NodeRecord, observed: Observed, deed: Deed
    ) -> None:
        seen = observed.node
        match deed:
            case Deed.CORDON if seen is not None:
                await api.patch_node(node.name, _cordon_patch(seen, progress.cordon_owner(order)))
            case Deed.UNCORDON if seen is not None:
                await api.patch_node(node.name, _cordon_patch(seen, None))
            case Deed.CORDON_AGAIN:
                await api.patch_node(node.name, {"spec": {"unschedulable": True}})
            case Deed.EVICT:
                await self._evict(api, node, observed)
            case Deed.DELETE_PODS:
                for pod in leaving(observed.pods):
                    await api.delete_pod(pod)
            case Deed.DELETE_NODE if seen is not None:
                await api.delete_node(node.name, seen.uid)
            case Deed.DELETE_PASSWORD:
                found = await api.secret(node_password_name(node.name))
                if found is not None:
                    await api.delete_secret(found)
            case _:
                raise AssertionError(f"{deed} is no deed in the cluster")

    async def _evict(self, api: KubeApi, node: NodeRecord, observed: Observed) -> None:
        """Ask each pod to leave, and ask again while a budget refuses; one refusal keeps no other waiting."""
        now = self._ground.clock()
        kept = self._evictions.setdefault(node.name, _Evictions())
        version = K3sVersion.find(observed.node.version if observed.node else "")
        kind = "policy/v1" if version is None or has(version, Feature.POLICY_V1) else "policy/v1beta1"
        for pod in leaving(observed.pods):
            if pod.leaving or now - kept.asked_at.get(pod.uid, float("-inf")) < EVICTION_INTERVAL_S:
                continue
            kept.asked_at[pod.uid] = now
            try:
                await api.evict(pod, kind)
            except KubeRefusedError as error:
                if error.status == HTTPStatus.FORBIDDEN:
                    raise
                kept.refusals[pod.uid] = refusal_text(pod, error.status, error.message)
            else:
                kept.refusals.pop(pod.uid, None)

    async def _check(self, order: ReimageRecord, node: NodeRecord) -> None:
        findings, uid = await self._assess(order, node)
        if findings.problems:
            self._abort(order, node, Abort(Outcome.FAILED, problems_text(findings)))
            return
        told = "; ".join(warning.text for warning in findings.warnings)
        text = "it may be taken down" + (f". {told}" if told else "")
        self._move(order, node, Move(Happening.CHECKS_PASSED, text, {progress.NODE_UID: uid}))

    async def _snapshot(self, order: ReimageRecord, node: NodeRecord) -> None:
        """Keep a snapshot, then look again at everything: from the next state on there is no way back."""
        answer = await self.servers.snapshot(order, node)
        if isinstance(answer, Done):
            findings, _uid = await self._assess(order, node)
            if findings.problems:
                self._note(order, answer.note)
                self._fail(order, node, problems_text(findings))
                return
        self._take_answer(order, node, answer, Happening.SNAPSHOT_KEPT)

    def _fail(self, order: ReimageRecord, node: NodeRecord, reason: str) -> None:
        """Give up before anything was removed: the failed twin undoes what was done."""
        self._wait(node.name, reason)
        with self._ground.store.write() as tx:
            current = tx.require_node(node.name)
            if current.state is node.state and tx.open_reimage(node.name) is not None:
                tx.move(current, Happening.TIMED_OUT, events.reimage_step(reason), self._ground.clock())

    def _take_answer(
        self, order: ReimageRecord, node: NodeRecord, answer: Done | NotYet, happening: Happening
    ) -> None:
        if isinstance(answer, Done):
            self._move(order, node, Move(happening, answer.text, answer.note))
            return
        self._note(order, answer.note)
        self._wait(node.name, answer.why)

    async def _answer_refusal(self, error: KubeRefusedError) -> None:
        """A cluster of an older release gave the control server fewer rights."""
        now = self._ground.clock()
        if error.status != HTTPStatus.FORBIDDEN or now - self._role_renewed_at < ROLE_RENEWAL_S:
            return
        self._role_renewed_at = now
        try:
            async with self._door.open() as (api, _listing):
                await self._door.renew_role(api.url)
        except KubeError as failure:
            log.warning("the control server's rights could not be renewed: %s", failure.message)

    # --- moves in the record

    def _current(
        self, tx: Transaction, order: ReimageRecord, node: NodeRecord
    ) -> tuple[ReimageRecord, NodeRecord] | None:
        """Order and node as they are now; None where somebody came in between and the answer is stale."""
        present, record = tx.open_reimage(node.name), tx.require_node(node.name)
        if present is None or present.number != order.number or record.state is not node.state:
            return None
        if present.kind is not order.kind:  # a person has it decommissioned, or gave it another board
            return None
        if progress.is_cancelled(present) and not progress.is_cancelled(order) and node.state in LEAVING:
            return None
        return present, record

    def _move(self, order: ReimageRecord, node: NodeRecord, move: Move) -> None:
        now, rebound = self._ground.clock(), False
        with self._ground.store.write() as tx:
            found = self._current(tx, order, node)
            if found is None:
                return
            present, record = found
            present = tx.note_reimage(present, **move.note)
            entry = events.reimage_step(move.text)
            match move.happening:
                case Happening.NODE_GONE:
                    rebound = self._open_installer(tx, present, record, now)
                    record = tx.require_node(record.name)
                case Happening.EXHAUSTED if (intent := tx.open_intent(record.name)) is not None:
                    tx.close_intent(intent, "its board did not come", now)
                case Happening.REMOVED:
                    retire(tx, record, now)
                    record = tx.require_node(record.name)
                case _:
                    pass
            record = tx.move(record, move.happening, entry, now)
            present = tx.note_reimage(present, **progress.step_entered(present, record.state.value, now))
            if move.happening is not Happening.RETRIED:  # why it failed is still the last that is known
                tx.update_reimage(present, reason="")
        log.info("re-image: %s", move.text, extra={"node": node.name, "state": record.state.value})
        if rebound:
            self._redeclare()
        self._ground.on_boot_change()

    def _open_installer(self, tx: Transaction, order: ReimageRecord, node: NodeRecord, now: float) -> bool:
        """Permit the installation, with the number that the order has; whether another board is the node."""
        if tx.next_intent_number(node.name) == order.number + 1:
            installation = self._ground.random_hex(16)
            tx.open_reserved_intent(node.name, order.number, now, INTENT_TTL_S, installation)
            number = order.number
        else:  # a restored record counts on above what the lost hours may have used
            number = self._ground.open_new_intent(tx, node.name, now).number
        tx.note_reimage(order, **{progress.ENTERED: now})
        # A person who is to approve compares the key of the installer that comes, and no earlier one.
        tx.update_node(node, pending_key=None, approved_key=None)
        entry = events.intent_opened(number, INTENT_TTL_S)
        tx.add_event(entry, now, node=node.name, board=node.board_id)
        if order.kind is ReimageKind.REPLACE:
            serial = Serial.parse(progress.text(order, progress.SERIAL))
            rebind(tx, serial, tx.require_node(node.name), self._ground, now)
            return True
        return False

    def _abort(self, order: ReimageRecord, node: NodeRecord, abort: Abort) -> None:
        """The node is what it was."""
        now = self._ground.clock()
        with self._ground.store.write() as tx:
            present, record = tx.open_reimage(node.name), tx.require_node(node.name)
            if present is None or present.number != order.number or record.state not in LEAVING:
                return
            entry = events.reimage_ended(present.kind.value, abort.outcome.value, abort.reason)
            tx.move(record, WAY_BACK[present.was], entry, now)
            tx.close_reimage(present, abort.outcome, abort.reason[:_REASON_LENGTH], now)
        log.info("re-image %s: %s", abort.outcome.value, abort.reason, extra={"node": node.name})
        self._ground.on_boot_change()

    def _close(self, order: ReimageRecord, outcome: Outcome, reason: str) -> None:
        now = self._ground.clock()
        with self._ground.store.write() as tx:
            present, node = tx.open_reimage(order.node), tx.require_node(order.node)
            if present is None or present.number != order.number:
                return
            tx.close_reimage(present, outcome, reason[:_REASON_LENGTH], now)
            entry = events.reimage_ended(present.kind.value, outcome.value, reason)
            tx.add_event(entry, now, node=node.name, board=node.board_id)
        log.info("re-image %s: %s", outcome.value, reason, extra={"node": order.node})

    def _note(self, order: ReimageRecord, note: Mapping[str, Any]) -> None:
        if note:
            with self._ground.store.write() as tx:
                tx.note_reimage(order, **note)

    def _wait(self, name: str, why: str) -> None:
        """Say what is waited for; written only when it changed."""
        why = why[:_REASON_LENGTH]
        with self._ground.store.read() as reader:
            order = reader.open_reimage(name)
        if not why or order is None or order.reason == why:
            return
        with self._ground.store.write() as tx:
            present, node = tx.open_reimage(name), tx.require_node(name)
            if present is not None and present.number == order.number:
                tx.update_reimage(present, reason=why)
                if node.state in _OURS:
                    tx.update_node(node, detail=why[:200])


_SEEN_AT_ONCE: Final = frozenset(
    {Deed.CHECK, Deed.CORDON, Deed.UNCORDON, Deed.CORDON_AGAIN, Deed.DELETE_NODE, Deed.DELETE_PASSWORD}
)
"""Deeds whose end is there when the API has answered."""
_OURS: Final = frozenset(LEAVING | {State.MEMBER_REMOVED, State.NODE_DELETED, State.REBOOT_TO_INSTALLER})


def _cordon_patch(seen: KubeNode, owner: str | None) -> dict[str, Any]:
    """Cordon and its owner in one change, bound to what was read: nobody's cordon becomes ours in between."""
    return {
        "metadata": {
            "resourceVersion": seen.resource_version,
            "annotations": {progress.CORDON_ANNOTATION: owner},
        },
        "spec": {"unschedulable": True if owner is not None else None},
    }


def problems_text(findings: Findings) -> str:
    """All that stands against it, in one line."""
    return "; ".join(problem.text for problem in findings.problems)
