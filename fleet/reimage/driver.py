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

from fleet.errors import FleetError
from fleet.ground import Ground
from fleet.join.secrets import node_password_name
from fleet.k3s.versions import Feature, K3sVersion, has
from fleet.kube.client import KubeApi, KubeError, KubeNode, KubeRefusedError
from fleet.kube.door import KubeDoor
from fleet.lifecycle import LEAVING, Happening, State
from fleet.reimage import progress
from fleet.reimage.book import Book
from fleet.reimage.drain import EVICTION_INTERVAL_S, leaving, refusal_text
from fleet.reimage.kinds import Outcome
from fleet.reimage.observe import has_password, is_silent
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

log = logging.getLogger(__name__)

ROUND_S: Final = 1.0
MISTAKE_S: Final = 60.0
"""How long a node whose step broke off is left alone."""
MAX_AT_ONCE: Final = 8
"""Steps of one node in one round, at most: one that is done over and over must not keep the API busy."""
ROLE_RENEWAL_S: Final = 60.0
"""Between two attempts to give the control server the rights of this release."""

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
        self._book = Book(ground, redeclare)
        self.servers = servers
        self.way_in = way_in
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
                self._book.wait(name, "Bramble made a mistake here, which its log describes")
            await asyncio.sleep(MISTAKE_S)

    async def advance(self, name: str) -> bool:
        """One step for one node; whether the next may follow at once.

        What goes wrong becomes the reason that people read.
        """
        try:
            return await self._advance(name)
        except KubeRefusedError as error:
            await self._answer_refusal(error)
            self._book.wait(name, error.message)
        except FleetError as error:
            log.warning("a step was not done: %s", error.message, extra={"node": name})
            with contextlib.suppress(FleetError):  # where it is the store that fails, nothing can be noted
                self._book.wait(name, error.message)
        return False

    async def _advance(self, name: str) -> bool:
        with self._ground.store.read() as reader:
            order, node = reader.open_reimage(name), reader.node(name)
            stale = node is not None and unobserved(reader, name) is not None
        if order is None or node is None:
            return False
        if stale and node.state not in LEAVING:
            self._book.wait(name, "the record was restored from a backup; waits until the node is heard of")
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
            silent=is_silent(
                node, seen, self._ground.clock(), self._ground.started, self._ground.pace.silence_s
            ),
            refusals=dict(kept.refusals),
        )

    async def _take(
        self, order: ReimageRecord, node: NodeRecord, observed: Observed, api: KubeApi | None
    ) -> bool:
        match next_step(order, node, observed, self._ground.clock()):
            case Move() as move:
                self._book.move(order, node, move)
            case Do() as deed:
                await self._do(order, node, observed, deed, api)
                return deed.deed in _SEEN_AT_ONCE
            case Note(note):
                self._book.note(order, note)
            case Wait(why):
                self._book.wait(node.name, why)
                return False
            case Abort() as abort:
                self._book.abort(order, node, abort)
            case Close(outcome, reason):
                self._book.close(order, outcome, reason)
        return True

    async def _do(
        self, order: ReimageRecord, node: NodeRecord, observed: Observed, do: Do, api: KubeApi | None
    ) -> None:
        self._book.wait(node.name, do.why)
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
                self._book.note(order, answer.note)
                self._book.wait(node.name, answer.why)
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
            self._book.abort(order, node, Abort(Outcome.FAILED, problems_text(findings)))
            return
        told = "; ".join(warning.text for warning in findings.warnings)
        text = "it may be taken down" + (f". {told}" if told else "")
        self._book.move(order, node, Move(Happening.CHECKS_PASSED, text, {progress.NODE_UID: uid}))

    async def _snapshot(self, order: ReimageRecord, node: NodeRecord) -> None:
        """Keep a snapshot, then look again at everything: from the next state on there is no way back."""
        answer = await self.servers.snapshot(order, node)
        if isinstance(answer, Done):
            findings, _uid = await self._assess(order, node)
            if findings.problems:
                self._book.note(order, answer.note)
                self._book.fail(order, node, problems_text(findings))
                return
        self._take_answer(order, node, answer, Happening.SNAPSHOT_KEPT)

    def _take_answer(
        self, order: ReimageRecord, node: NodeRecord, answer: Done | NotYet, happening: Happening
    ) -> None:
        if isinstance(answer, Done):
            self._book.move(order, node, Move(happening, answer.text, answer.note))
            return
        self._book.note(order, answer.note)
        self._book.wait(node.name, answer.why)

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


_SEEN_AT_ONCE: Final = frozenset(
    {Deed.CHECK, Deed.CORDON, Deed.UNCORDON, Deed.CORDON_AGAIN, Deed.DELETE_NODE, Deed.DELETE_PASSWORD}
)
"""Deeds whose end is there when the API has answered."""


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
