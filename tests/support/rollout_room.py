"""A fleet over a cluster in memory on which a rollout plays: boards that netboot when they are told, nodes
that report, and a control server that can end between any two rounds, or in the middle of one."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fakes_fleet import node_spec
from fakes_kube_memory import CutOffError
from reimage_room import Room, open_room

from fleet.lifecycle import REIMAGING, State
from fleet.reimage.seams import Done, NotYet
from fleet.reimage.server_steps import EtcdServerSteps
from fleet.spec.model import NodeSpec, ReimagePolicy, Role
from fleet.store.records import NodeRecord, ReimageRecord

NEW = "1c" * 32
OLD = "f" * 64
ROUND_S = 2.0
REPORT_EVERY_S = 20.0
DOWN = frozenset({*REIMAGING, State.NETBOOTING, State.IMAGING, State.FIRST_BOOT, State.JOINING})


class MemoryServerSteps:
    """What servers need beside: an etcd that agrees to everything."""

    async def move_leader(self, order: ReimageRecord, node: NodeRecord) -> Done | NotYet:
        return Done("another member leads")

    async def snapshot(self, order: ReimageRecord, node: NodeRecord) -> Done | NotYet:
        return Done("a snapshot is kept", {"snapshot": "s"})

    async def remove_member(self, order: ReimageRecord, node: NodeRecord) -> Done | NotYet:
        return Done("its member is gone")

    async def obstacle(self, order: ReimageRecord, node: NodeRecord) -> str:
        return ""


def servers(count: int) -> tuple[NodeSpec, ...]:
    return tuple(node_spec(f"s{number}", number, role=Role.SERVER) for number in range(1, count + 1))


def agents(count: int) -> tuple[NodeSpec, ...]:
    return tuple(node_spec(f"a{number:02d}", 20 + number) for number in range(1, count + 1))


@dataclass
class Play:
    """Attributes:
    broken: Boards that do not start from the network.
    dead: Nodes that do not report.
    seen: Every set of nodes that was down at once.
    """

    room: Room
    broken: set[str] = field(default_factory=set)
    dead: set[str] = field(default_factory=set)
    seen: list[frozenset[str]] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    reported_at: float = 0.0

    @property
    def desk(self) -> Any:
        return self.room.controller.rollouts

    @property
    def now(self) -> float:
        return self.room.fleet.clock()

    def restart(self) -> None:
        """The server's process ends, and another one starts on the same record."""
        self.room.kube.calls_left = None
        self.room.restart()
        self.prepare()

    def prepare(self) -> None:
        reimages = self.room.controller.reimages
        reimages.driver.servers = MemoryServerSteps()
        # Without those that ask etcd itself: this fleet has none.
        reimages.checks = [
            check
            for check in reimages.checks
            if not isinstance(getattr(check, "__self__", None), EtcdServerSteps)
        ]

    def put_in_force(self, rules: ReimagePolicy) -> None:
        room = self.room
        room.spec = dataclasses.replace(
            room.spec, policy=dataclasses.replace(room.spec.policy, reimage=rules)
        )
        room.controller.declare(room.spec)

    async def start(self, **wanted: Any) -> dict[str, Any]:
        known = {"image": NEW, "canary": None, "max_parallel": None, "soak_s": 60.0, "dry_run": False}
        answer: dict[str, Any] = await self.desk.start(by="ann", **{**known, **wanted})
        return answer

    def record(self, name: str) -> NodeRecord:
        with self.room.fleet.store.read() as reader:
            return reader.require_node(name)

    def orders(self, name: str) -> list[ReimageRecord]:
        with self.room.fleet.store.read() as reader:
            return reader.reimages(name)

    def images(self) -> dict[str, str | None]:
        with self.room.fleet.store.read() as reader:
            return {node.name: node.image_id for node in reader.nodes()}

    def step(self, name: str) -> dict[str, Any]:
        return next(step for step in self.desk.view()["steps"] if step["node"] == name)

    async def round(self, *, calls: int | None = None) -> bool:
        """Two seconds of everybody's life; False: the server's process ended in them.

        Args:
            calls: The server ends at its so many-th question to the cluster.
        """
        room = self.room
        room.fleet.clock.advance(ROUND_S)
        room.kube.calls_left = calls
        try:
            room.controller.tick()
            await self.desk.drive()
            await room.controller.reimages.drive()
        except CutOffError:
            self.restart()
            return False
        finally:
            room.kube.calls_left = None
        room.kube.settle()
        self._live()
        return True

    def _live(self) -> None:
        """What boards and nodes do by themselves."""
        with self.room.fleet.store.read() as reader:
            states = {node.name: node.state for node in reader.nodes()}
        down = frozenset(name for name, state in states.items() if state in DOWN)
        if not self.seen or self.seen[-1] != down:
            self.seen.append(down)
        due = self.now - self.reported_at >= REPORT_EVERY_S
        for node in self.room.spec.nodes:
            state = states[node.name]
            if state is State.REBOOT_TO_INSTALLER and node.name not in self.broken:
                self.taken.append(node.name)
                self.room.netboot(node)
            elif due and state in (State.READY, State.DEGRADED, State.LOST) and node.name not in self.dead:
                self.room.report(node)
        if due:
            self.reported_at = self.now

    async def until(self, *phases: str, rounds: int = 600) -> dict[str, Any]:
        """Go on until the rollout is in one of these phases; its view."""
        for _ in range(rounds):
            view: dict[str, Any] = self.desk.view()
            if view["phase"] in phases:
                return view
            await self.round()
        raise AssertionError(f"the rollout is {self.desk.view()}")


@contextlib.asynccontextmanager
async def open_play(state: Path, nodes: Iterable[NodeSpec], rules: ReimagePolicy) -> AsyncIterator[Play]:
    """All nodes are Ready with the old image; the new one is built."""
    async with open_room(state, *nodes) as room:
        room.fleet.images.known[NEW] = "v1.33.5+k3s1"
        play = Play(room)
        play.put_in_force(rules)
        play.prepare()
        yield play
