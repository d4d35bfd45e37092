"""Looks at every node every few seconds and orders what `fleet.policy.judge` decides.

What counts towards "failed" is in memory only, so a server that starts, or takes over from another, waits the
whole time anew. What was ordered is in the store, as any other re-image.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from fleet.ground import Ground
from fleet.health.desk import find_write_obstacle
from fleet.kube.objects import KubeNode
from fleet.lifecycle import State
from fleet.lock import read_holds
from fleet.policy.evidence import Course
from fleet.policy.judge import MEMBERS, Decision, Seen, Situation, Verdict, excused, judge, to_json, would_act
from fleet.policy.words import span_text
from fleet.quorum import Member
from fleet.refusal import RefusedError
from fleet.reimage.guards import POLICY
from fleet.reimage.kinds import Outcome
from fleet.reimage.problems import Problem
from fleet.restored import unobserved
from fleet.spec.model import Role
from fleet.store.records import NodeRecord, ReimageRecord
from fleet.store.transaction import Reader
from fleet.timeline import Entry, Kind

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 5.0
KUBE_STALE_S: Final = 60.0
"""After so long without an answer Kubernetes counts as silent; it is asked every ten seconds."""
REFUSED_FOR_S: Final = 300.0
"""How long an order that was refused is not tried again."""
RETRY_S: Final = 1800.0
MAX_FAILED: Final = 3
"""Orders that came to nothing before anything was removed, within `again_after`."""


class Orders(Protocol):
    """Who carries out a re-image; `fleet.reimage.desk.ReimageDesk` is one."""

    def request(
        self, name: str, *, image: str | None = None, force_drain: bool = False, by: str, why: str
    ) -> object:
        """Order it.

        Raises:
            RefusedError: Something stands against it; nothing was changed.
        """
        ...


class PolicyDesk:
    """One per controller."""

    def __init__(self, ground: Ground, orders: Orders) -> None:
        self._ground = ground
        self._orders = orders
        self._course = Course()
        self._listing: Mapping[str, KubeNode] = {}
        self._listed_at: float | None = None
        self._looked_at: float | None = None
        self._refused: dict[str, tuple[float, Problem]] = {}
        self._told: set[str] = set()

    def take_listing(self, listing: Mapping[str, KubeNode]) -> None:
        """What Kubernetes just said of its nodes."""
        self._listing, self._listed_at = dict(listing), self._ground.clock()

    def tick(self) -> None:
        """Look, judge, and order what is to be done. Cheap between two looks."""
        now = self._ground.clock()
        if self._looked_at is not None and 0 <= now - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = now
        with self._ground.store.read() as reader:
            nodes = reader.nodes()
        answered = self._kube_answers(now)
        ready = {name: node.ready for name, node in self._listing.items()} if answered else None
        silent = {node.name: node.status_at for node in nodes if node.state is State.LOST}
        members = sum(node.state in MEMBERS for node in nodes)
        everybody = {node.name: node.name in silent for node in nodes}
        self._course.look(everybody, ready, now, excused(silent, members))
        self._told &= {node.name for node in nodes if node.state is State.LOST}
        if not any(self._course.failing_s(node.name) for node in nodes):
            return
        for decision in self.decisions():
            if decision.verdict is Verdict.ACT:
                self._order(decision, now)
            elif decision.verdict is Verdict.HELD and self._ground.spec.policy.reimage.when_failed:
                self._tell(decision)

    def decisions(self) -> tuple[Decision, ...]:
        """What would be done now, and why not, of every node."""
        with self._ground.store.read() as reader:
            return judge(self._situation(reader))

    def decision(self, name: str) -> Decision | None:
        """The same of one node; None where cluster.yaml does not name it.

        What the others do counts only for who is silent, so for all but those no other record is read.
        """
        with self._ground.store.read() as reader:
            node = reader.node(name)
            if node is None or self._ground.spec.find_node(name) is None:
                return None
            alone = None if node.state is State.LOST else (node,)
            found = judge(self._situation(reader, alone))
        return next(one for one in found if one.node == name)

    def view(self) -> dict[str, Any]:
        """For the API: the policy in force, and every node's decision."""
        policy = self._ground.spec.policy.reimage
        return {
            "when_failed": policy.when_failed,
            "dry_run": policy.dry_run,
            "after_s": policy.after_s,
            "max_parallel": policy.max_parallel,
            "again_after_s": policy.again_after_s,
            "windows": [str(window) for window in policy.windows],
            "zone": self._ground.spec.image.timezone,
            "decisions": [dict(to_json(decision)) for decision in self.decisions()],
        }

    def _kube_answers(self, now: float) -> bool:
        return self._listed_at is not None and abs(now - self._listed_at) <= KUBE_STALE_S

    def _situation(self, reader: Reader, of: Sequence[NodeRecord] | None = None) -> Situation:
        now, spec = self._ground.clock(), self._ground.spec
        declared = {node.name for node in spec.nodes}
        nodes = [node for node in (reader.nodes() if of is None else of) if node.name in declared]
        answered = self._kube_answers(now)
        return Situation(
            nodes=tuple(self._seen(reader, node, answered=answered, now=now) for node in nodes),
            holds=read_holds(reader),
            policy=spec.policy.reimage,
            zone=spec.image.timezone,
            now=now,
            kube_answers=answered,
            members=_members(nodes, self._listing) if answered else (),
        )

    def _seen(self, reader: Reader, node: NodeRecord, *, answered: bool, now: float) -> Seen:
        listed = self._listing.get(node.name)
        seen = Seen(
            name=node.name,
            role=node.role,
            state=node.state,
            heard_at=node.status_at,
            failing_s=self._course.failing_s(node.name),
            kube_ready=(listed is not None and listed.ready) if answered else None,
        )
        if node.state is not State.LOST:
            return seen
        ordered = _ours(reader, node.name, now - self._ground.spec.policy.reimage.again_after_s)
        until, refused = self._refused.get(node.name, (0.0, None))
        return replace(
            seen,
            obstacle=find_write_obstacle(reader, node.name),
            unobserved=unobserved(reader, node.name) is not None,
            policy_at=None if ordered is None else ordered.requested_at,
            policy_end="" if ordered is None else ordered.reason,
            refused=refused if now < until else _failed_lately(reader, node.name, now),
        )

    def _order(self, decision: Decision, now: float) -> None:
        why = f"its agent was silent and Kubernetes not ready for {span_text(decision.failing_s)}"
        try:
            self._orders.request(decision.node, by=POLICY, why=why)
        except RefusedError as error:
            text = f"policy would re-image it, and was refused: {error.message}"
            self._refused[decision.node] = (now + REFUSED_FOR_S, Problem("refused", text, error.hint))
            log.warning("policy's re-image was refused: %s", error.message, extra={"node": decision.node})
            self._say(decision.node, text, error.hint)
            return
        self._refused.pop(decision.node, None)
        log.info("policy orders a re-image", extra={"node": decision.node, "why": why})

    def _tell(self, decision: Decision) -> None:
        """Say once for each failure what keeps it from being mended."""
        if decision.node in self._told:
            return
        self._told.add(decision.node)
        reasons = "; ".join(reason.text for reason in decision.reasons)
        failed = span_text(decision.failing_s)
        text = f"it has failed ({failed}) and is not re-imaged by policy: {reasons}"
        if would_act(decision):
            text = f"policy would re-image it now, it has failed ({failed}); this is a dry run"
        self._say(decision.node, text, next((reason.hint for reason in decision.reasons if reason.hint), ""))

    def _say(self, name: str, text: str, hint: str) -> None:
        now = self._ground.clock()
        with self._ground.store.write() as tx:
            node = tx.node(name)
            if node is not None:
                self._ground.say_once(tx, Entry(kind=Kind.POLICY, text=text, hint=hint), now, node=node)


def _ours(reader: Reader, name: str, since: float) -> ReimageRecord | None:
    """The order of policy's that keeps the node from another one.

    One that came to nothing before anything was removed does not count by itself; several of them do.
    """
    orders = [order for order in reader.reimages(name) if order.by == POLICY and order.requested_at >= since]
    tried = next((order for order in orders if order.outcome is not Outcome.FAILED), None)
    return orders[0] if tried is None and len(orders) >= MAX_FAILED else tried


def _failed_lately(reader: Reader, name: str, now: float) -> Problem | None:
    last = next((order for order in reader.reimages(name) if order.by == POLICY), None)
    if last is None or last.outcome is not Outcome.FAILED or last.closed_at is None:
        return None
    since = now - last.closed_at
    if since >= RETRY_S:
        return None
    return Problem(
        "failed",
        f"policy's order came to nothing {span_text(since)} ago: {last.reason}",
        f"It is tried again after {span_text(RETRY_S)}, {MAX_FAILED} times in all.",
    )


def _members(nodes: list[NodeRecord], listing: Mapping[str, KubeNode]) -> tuple[Member, ...]:
    """etcd's members as Kubernetes tells of them. Old releases do not say who votes: every server does
    then."""
    told = any(node.votes is not None for node in listing.values())
    states = {node.name: node.state for node in nodes if node.role is Role.SERVER}
    return tuple(
        Member(
            name=name,
            votes=bool(listed.votes) if told else True,
            healthy=listed.ready and states[name] in (State.READY, State.DEGRADED),
        )
        for name, listed in sorted(listing.items())
        if name in states
    )
