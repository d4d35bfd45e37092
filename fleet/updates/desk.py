"""Rollouts of the agent's releases: a person orders one, nodes are told in waves, and the outcome is kept."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from agent.orders import UPDATE, AgentOrder, SignedOrder
from agent.protocol import Status
from agent.releases import find_objection
from fleet import events
from fleet.ground import Ground
from fleet.health.desk import find_write_obstacle
from fleet.lifecycle import State
from fleet.refusal import RefusedError, no_such_node
from fleet.restored import GAP, epoch_of
from fleet.store.records import NodeRecord
from fleet.store.transaction import Reader, Transaction
from fleet.updates.waves import NodeSight, Release, Rollout, advance, find_refusal, parse, render

log = logging.getLogger(__name__)

ROLLOUT: Final = "agent.rollout"
"""kv: the last rollout, whether it goes on or not."""
EVERY_S: Final = 10.0
_ENROLLED: Final = (State.JOINING, State.FAILED_JOINING, State.READY, State.DEGRADED, State.LOST)


@dataclass(frozen=True, slots=True)
class Archive:
    """The release that this server carries."""

    version: str
    content: bytes

    @property
    def release(self) -> Release:
        digest = hashlib.sha256(self.content).hexdigest()
        return Release(version=self.version, sha256=digest, size_bytes=len(self.content))


class UpdateDesk:
    """Tells nodes of the release that they are to run."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._source: Callable[[], Archive] | None = None
        self._archive: Archive | None = None
        self._rollout: Rollout | None = None
        self._looked_at = float("-inf")

    def set_source(self, source: Callable[[], Archive]) -> None:
        """Where this server's release of the agent comes from; asked when it is first needed."""
        self._source = source

    def offer(self) -> Archive:
        """The release that this server carries.

        Raises:
            RefusedError: It carries none.
        """
        if self._archive is None:
            if self._source is None:
                raise RefusedError(409, "no-release", "this server carries no release of the agent")
            self._archive = self._source()
        return self._archive

    def order(self, names: list[str], *, allow_downgrade: bool = False) -> str:
        """Begin a rollout to these nodes, or to all where none is named; what was done, for people.

        Raises:
            RefusedError: A node is unknown or has no agent, all of them run it, or it would be a downgrade.
        """
        release, now = self.offer().release, self._ground.clock()
        with self._ground.store.write() as tx:
            known = {node.name: node for node in tx.nodes()}
            unknown = [name for name in names if name not in known]
            if unknown:
                raise no_such_node(unknown[0], known)
            wanted = [known[name] for name in names] or [node for node in known.values() if _has_agent(node)]
            absent = [node.name for node in wanted if not _has_agent(node)]
            if absent:
                raise RefusedError(409, "not-enrolled", f"no agent of {absent[0]} has reported yet")
            targets = [node for node in wanted if reported_release(node)[1] != release.sha256]
            if not targets:
                return f"agent {release.version} runs on all of them already"
            for node in targets:
                running = reported_release(node)[0]
                objection = find_objection(
                    running=running, offered=release.version, allow_downgrade=allow_downgrade
                )
                if objection is not None:
                    hint = "Say --allow-downgrade if it is meant."
                    raise RefusedError(409, "downgrade", f"{node.name}: {objection}", hint)
            previous = self._read(tx)
            rollout = Rollout(
                # After a restore above what the lost hours can have used: a node takes no number twice.
                number=max(previous.number if previous else 0, epoch_of(tx) * GAP) + 1,
                release=release,
                targets=tuple(sorted(node.name for node in targets)),
                allow_downgrade=allow_downgrade,
            )
            tx.put_value(ROLLOUT, render(rollout))
            entry = events.update_ordered(rollout.number, release.version, len(targets))
            for node in targets:
                tx.add_event(entry, now, node=node.name, board=node.board_id)
        self._rollout = rollout
        self._looked_at = float("-inf")
        return (
            f"order {rollout.number}: agent {release.version} for {len(targets)} node(s), one first; "
            "'bramble agent status' tells how it goes"
        )

    def halt(self) -> str:
        """Tell nobody else; what was done, for people.

        Raises:
            RefusedError: Nothing is under way.
        """
        with self._ground.store.write() as tx:
            rollout = self._read(tx)
            if rollout is None or rollout.halted or rollout.is_done:
                raise RefusedError(409, "no-rollout", "no update of agents is under way")
            rollout = replace(rollout, halted="a person halted it")
            tx.put_value(ROLLOUT, render(rollout))
        self._rollout = rollout
        return f"order {rollout.number} is halted; nodes that were told already are not called back"

    def tick(self) -> None:
        """Look after the rollout. Cheap where none is under way."""
        now = self._ground.clock()
        if now - self._looked_at < EVERY_S:
            return
        self._looked_at = now
        with self._ground.store.read() as reader:
            rollout = self._rollout = self._read(reader)
            if rollout is None or rollout.halted or rollout.is_done:
                return
            sights = [_sight(reader, node) for node in reader.nodes()]
        after = advance(rollout, sights, now)
        if after == rollout:
            return
        with self._ground.store.write() as tx:
            if tx.value(ROLLOUT) != render(rollout):
                return  # another server, or a person, changed it meanwhile
            tx.put_value(ROLLOUT, render(after))
            for name in after.told.keys() - rollout.told.keys():
                node = tx.require_node(name)
                entry = events.update_told(after.number, after.release.version)
                tx.add_event(entry, now, node=name, board=node.board_id)
            if after.halted:
                log.warning("the update of agents is halted: %s", after.halted)
        self._rollout = after

    def hear(self, tx: Transaction, node: NodeRecord, status: Status) -> int:
        """Take from a report whether the node kept its order.

        Returns:
            Number of the order that the node is to carry out; 0: none.
        """
        rollout = self._rollout
        if rollout is None or node.name not in rollout.told:
            return 0
        refusal = find_refusal(rollout, status.problems)
        if refusal is not None and node.name not in rollout.refused:
            stored = self._read(tx)
            if stored is not None and stored.number == rollout.number:
                rollout = replace(stored, refused={**stored.refused, node.name: refusal})
                tx.put_value(ROLLOUT, render(rollout))
                self._rollout = rollout
        return rollout.number

    def order_for(self, node: NodeRecord) -> SignedOrder:
        """The order for the caller.

        Raises:
            RefusedError: There is none.
        """
        rollout = self._rollout
        if rollout is None or node.name not in rollout.told:
            raise RefusedError(404, "no-order", f"there is no order for {node.name} to change its agent")
        order = AgentOrder(
            number=rollout.number,
            version=rollout.release.version,
            sha256=rollout.release.sha256,
            size_bytes=rollout.release.size_bytes,
            allow_downgrade=rollout.allow_downgrade,
        )
        return self._ground.pki.sign_order(UPDATE, node.name, order)

    def archive(self, sha256: str) -> bytes:
        """The file of a release.

        Raises:
            RefusedError: It is not the one that this server carries.
        """
        archive = self.offer()
        if archive.release.sha256 != sha256:
            raise RefusedError(
                404, "release", "this server carries another release of the agent", "Order the update again."
            )
        return archive.content

    def view(self) -> Mapping[str, Any]:
        """Every node's release and the last rollout, as JSON values."""
        offered = self.offer().release
        with self._ground.store.read() as reader:
            nodes, rollout = reader.nodes(), self._read(reader)
        rows = []
        for node in nodes:
            version, digest = reported_release(node)
            told = rollout is not None and node.name in rollout.told
            rows.append(
                {
                    "name": node.name,
                    "state": node.state.value,
                    "version": version,
                    "release": digest,
                    "current": digest == offered.sha256,
                    "told": told,
                    "targeted": rollout is not None and node.name in rollout.targets,
                }
            )
        shown = None
        if rollout is not None:
            shown = {
                "number": rollout.number,
                "version": rollout.release.version,
                "targets": len(rollout.targets),
                "told": len(rollout.told),
                "taken": len(rollout.taken),
                "halted": rollout.halted,
                "done": rollout.is_done,
            }
        offer = {"version": offered.version, "release": offered.sha256, "size_bytes": offered.size_bytes}
        return {"offer": offer, "nodes": rows, "rollout": shown}

    @staticmethod
    def _read(reader: Reader) -> Rollout | None:
        text = reader.value(ROLLOUT)
        return None if text is None else parse(text)


def reported_release(node: NodeRecord) -> tuple[str, str]:
    """(version, digest) of a node's agent as it said last; empty before it has."""
    status = node.status or {}
    return str(status.get("agent_version") or ""), str(status.get("agent_release") or "")


def _has_agent(node: NodeRecord) -> bool:
    return node.certificate is not None and node.state in _ENROLLED and bool(reported_release(node)[0])


def _sight(reader: Reader, node: NodeRecord) -> NodeSight:
    return NodeSight(
        name=node.name,
        role=node.role,
        state=node.state,
        release=reported_release(node)[1],
        obstacle=find_write_obstacle(reader, node.name),
    )
