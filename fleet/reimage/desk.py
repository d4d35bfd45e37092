"""Orders to take nodes down: taken, called off, and shown beforehand. The driver carries them out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from fleet import events
from fleet.boards import BoardError, Serial
from fleet.errors import FleetError
from fleet.ground import Ground
from fleet.join.founding import release_founder
from fleet.kube.client import KubeError
from fleet.kube.door import KubeDoor
from fleet.lifecycle import (
    GONE,
    LEAVING,
    REIMAGE_FROM,
    REIMAGING,
    Happening,
    State,
    allows,
)
from fleet.refusal import RefusedError, no_such_node
from fleet.reimage import progress
from fleet.reimage.anew import goes_at_once, install_at_once, replace_at_once
from fleet.reimage.checks import base_findings
from fleet.reimage.drain import Load
from fleet.reimage.driver import ReimageDriver, problems_text
from fleet.reimage.kinds import Outcome, ReimageKind
from fleet.reimage.observe import is_silent, read_load
from fleet.reimage.problems import Problem
from fleet.reimage.rebind import retire
from fleet.reimage.seams import Check, Findings, ServerSteps, Situation, WayIn
from fleet.restored import require_observed
from fleet.spec.model import Role
from fleet.store.records import NodeRecord, ReimageRecord
from fleet.store.transaction import Reader, Transaction

_AGENT_STEPS: Final = (
    State.CORDONED,
    State.DRAINING,
    State.NODE_DELETED,
    State.REBOOT_TO_INSTALLER,
    State.IMAGING,
    State.FIRST_BOOT,
    State.JOINING,
    State.READY,
)
_SERVER_STEPS: Final = (State.LEADER_MOVED, State.SNAPSHOTTED, State.MEMBER_REMOVED)


@dataclass(frozen=True, slots=True)
class Preview:
    """What an order would do, and why it would not."""

    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    steps: tuple[str, ...]


Guard = Callable[[Transaction, ReimageRecord, NodeRecord], tuple[Problem, ...]]
"""Asked in the transaction that takes the order, and takes what has to be held; problems undo it."""


class ReimageDesk:
    """One per controller.

    Attributes:
        checks: Asked before an order is taken, and again when it stands. Others may be added.
        guards: Asked in the order's own transaction.
    """

    def __init__(
        self,
        ground: Ground,
        door: KubeDoor,
        redeclare: Callable[[], None],
        servers: ServerSteps,
        way_in: WayIn,
    ) -> None:
        self._ground = ground
        self._door = door
        self._redeclare = redeclare
        self.checks: list[Check] = [_base_check]
        self.guards: list[Guard] = []
        self.driver = ReimageDriver(ground, door, self._assess, servers, way_in, redeclare)

    async def drive(self) -> None:
        """One step for every open order."""
        await self.driver.drive()

    async def run(self) -> None:
        """Work on open orders until cancelled."""
        await self.driver.run()

    # --- orders

    def request(
        self, name: str, *, image: str | None = None, force_drain: bool = False, by: str, why: str = ""
    ) -> str:
        """Install a node again; what was done, for people. The same order again goes on with the first.

        Raises:
            RefusedError: No such node, or it may not be taken down; nothing was changed.
        """
        now = self._ground.clock()
        with self._ground.store.write() as tx:
            node = self._require(tx, name)
            at_once = goes_at_once(tx, node, ReimageKind.REIMAGE)
            if at_once:
                install_at_once(tx, node, image, by, why, now)
        if at_once:
            self._ground.on_boot_change()
            return (
                f"{name} is installed as if it never had been: start its board from the network; 'bramble "
                f"approve {name}' says that its disk may go, when it asks"
            )
        return self._order(
            ReimageKind.REIMAGE, name, image=image, force_drain=force_drain, by=by, why=why, serial=None
        )

    def replace(self, name: str, serial: str, *, force_drain: bool = False, by: str, why: str = "") -> str:
        """Give a dead board's name to another board; what was done, for people.

        Args:
            serial: Of the new board: 8 or 16 hex digits.

        Raises:
            RefusedError: As `request`; or the serial is none, is another node's, or the old board is alive.
        """
        new = self._require_free_serial(name, serial)
        now = self._ground.clock()
        with self._ground.store.write() as tx:
            node = self._require(tx, name)
            at_once = goes_at_once(tx, node, ReimageKind.REPLACE)
            if at_once:
                replace_at_once(tx, node, new, self._ground, by, why, now)
        if at_once:
            self._redeclare()
            self._ground.on_boot_change()
            return f"{name} is the board {new.text} from now on; switch it on"
        return self._order(
            ReimageKind.REPLACE,
            name,
            image=None,
            force_drain=force_drain,
            by=by,
            why=why,
            serial=new.text,
        )

    def decommission(self, name: str, *, force_drain: bool = False, by: str, why: str = "") -> str:
        """Take a node out of the cluster for good; what was done, for people.

        Raises:
            RefusedError: No such node, or it may not be taken out.
        """
        now = self._ground.clock()
        with self._ground.store.write() as tx:
            node = self._require(tx, name)
            order = tx.open_reimage(name)
            if node.state is State.DECOMMISSIONED:
                return f"{name} is decommissioned already"
            ordered = events.reimage_ordered("decommission", by, why)
            done = ""
            if goes_at_once(tx, node, ReimageKind.DECOMMISSION):
                if order is not None:
                    tx.close_reimage(order, Outcome.ABANDONED, f"decommissioned by {by}", now)
                retire(tx, node, now)
                tx.add_event(ordered, now, node=name, board=node.board_id)
                tx.move(tx.require_node(name), Happening.REMOVED, events.reimage_step("decommissioned"), now)
                release_founder(tx, now)
                done = f"{name} is decommissioned; take it out of cluster.yaml when you like"
            elif order is not None and node.state in GONE:
                order = tx.update_reimage(order, kind=ReimageKind.DECOMMISSION)
                tx.add_event(ordered, now, node=name, board=node.board_id)
                done = self._go_on(tx, order, node, ReimageKind.DECOMMISSION, by, now)
        if done:
            self._ground.on_boot_change()
            return done
        return self._order(
            ReimageKind.DECOMMISSION,
            name,
            image=None,
            force_drain=force_drain,
            by=by,
            why=why,
            serial=None,
        )

    def cancel(self, name: str, by: str) -> str:
        """Call an order off; what was done, for people. The node becomes what it was, as soon as our cordon
        is taken back.

        Raises:
            RefusedError: No such node, none is open, or something was removed already.
        """
        with self._ground.store.write() as tx:
            node = self._require(tx, name)
            order = tx.open_reimage(name)
            if order is None:
                raise RefusedError(
                    409, "no-order", f"{name} is not being re-imaged", "There is nothing to call off."
                )
            if progress.is_cancelled(order):
                return f"the {order.kind} of {name} is being called off already"
            if not progress.can_be_called_off(order, node.state):
                raise RefusedError(
                    409,
                    "too-late",
                    f"{name} is '{node.state}': it left its cluster, only a fresh join brings it back",
                    f"Let it end ('bramble show {name}'), or take it out: 'bramble decommission {name}'.",
                )
            now = self._ground.clock()
            tx.note_reimage(order, **{progress.CANCEL: by})
            entry = events.reimage_step(f"called off by {by}")
            if node.state in LEAVING:
                tx.add_event(entry, now, node=name, board=node.board_id)
            else:  # whoever asks for the removal looks at the state when it says so
                tx.move(node, Happening.HELD_BACK, entry, now)
        return f"the {order.kind} of {name} is being called off; it becomes '{order.was}' again"

    def _order(
        self,
        kind: ReimageKind,
        name: str,
        *,
        image: str | None,
        force_drain: bool,
        by: str,
        why: str,
        serial: str | None,
    ) -> str:
        now = self._ground.clock()
        with self._ground.store.write() as tx:
            node = self._require(tx, name)
            present = tx.open_reimage(name)
            if present is not None and not progress.came_to_nothing(present, node.state):
                return self._go_on(tx, present, node, kind, by, now)
            require_observed(tx, name)
            _require_installed(node, kind)
            known: dict[str, Any] = {progress.SERIAL: serial} if serial else {}
            if present is not None:
                reason = f"it came to nothing ({node.state}), and {by} ordered anew"
                tx.close_reimage(present, Outcome.ABANDONED, reason, now)
                known[progress.AFTER] = present.number
            number = tx.next_intent_number(name)
            order = ReimageRecord(
                number=number,
                node=name,
                kind=kind,
                requested_at=now,
                by=by,
                why=why,
                image_id=image,
                force_drain=force_drain,
                was=node.state,
                progress=known,
                closed_at=None,
                outcome=None,
                reason="",
            )
            tx.skip_intents(name, number, f"kept for {kind} {number}", now)
            tx.add_reimage(order)
            stands_against = tuple(problem for guard in self.guards for problem in guard(tx, order, node))
            if stands_against:
                raise refusal(name, stands_against)
            node = tx.move(node, Happening.REIMAGE_ORDERED, events.reimage_ordered(kind.value, by, why), now)
            tx.note_reimage(order, **progress.step_entered(order, node.state.value, now))
        self._ground.on_boot_change()
        return f"{kind} {number} of {name} is ordered; 'bramble show {name}' follows it"

    def _go_on(
        self, tx: Transaction, order: ReimageRecord, node: NodeRecord, kind: ReimageKind, by: str, now: float
    ) -> str:
        """The order that is open already: a step that gave up is tried anew."""
        if order.kind is not kind:
            way_back = f", or call it off: 'bramble cancel {node.name}'"
            raise RefusedError(
                409,
                "other-order",
                f"a {order.kind} of {node.name} is under way ({node.state})",
                f"Let it end{way_back if progress.can_be_called_off(order, node.state) else ''}.",
            )
        if node.state not in LEAVING and allows(node.state, Happening.RETRIED):
            forgotten = dict.fromkeys((progress.TAKEN_UP, progress.FAILURE, progress.ENTRY))
            tx.note_reimage(order, **{progress.RETRIES: {}, **forgotten})
            tx.move(node, Happening.RETRIED, events.reimage_step(f"tried again by {by}"), now)
            return f"{node.name} goes on where it stopped"
        if node.state is State.QUARANTINED:
            return f"{order.kind} {order.number} of {node.name} waits for 'bramble approve {node.name}'"
        return f"{order.kind} {order.number} of {node.name} is under way already ({node.state})"

    def is_open(self, name: str, kind: ReimageKind) -> bool:
        """Whether such an order stands: the same again goes on with it, whatever stands against a new one."""
        with self._ground.store.read() as reader:
            order = open_order(reader, name)
        return order is not None and order.kind is kind

    # --- what stands against it

    async def preview(
        self,
        name: str,
        *,
        kind: ReimageKind = ReimageKind.REIMAGE,
        image: str | None = None,
        force_drain: bool = False,
        by: str = "",
        serial: str | None = None,
    ) -> Preview:
        """What an order would do. Changes nothing.

        Raises:
            RefusedError: No such node.
        """
        with self._ground.store.read() as reader:
            node = reader.node(name)
            if node is None:
                raise no_such_node(name, [one.name for one in reader.nodes()])
            at_once = goes_at_once(reader, node, kind)
        extra: tuple[Problem, ...] = ()
        try:
            with self._ground.store.read() as reader:
                require_observed(reader, name)
            if serial is not None:
                self._require_free_serial(name, serial)
        except RefusedError as refused:
            extra = (Problem(refused.code, refused.message, refused.hint),)
        if at_once:
            left = _AGENT_STEPS[_AGENT_STEPS.index(State.IMAGING) :]
            steps = (State.DECOMMISSIONED,) if kind is ReimageKind.DECOMMISSION else left
            return Preview(extra, (), tuple(step.value for step in steps))
        findings, _uid = await self.assess(node, kind=kind, image=image, force_drain=force_drain, by=by)
        return Preview((*extra, *findings.problems), findings.warnings, steps_of(kind, node.role))

    async def _assess(self, order: ReimageRecord, node: NodeRecord) -> tuple[Findings, str]:
        """The checks for an order that stands."""
        return await self.assess(
            node, kind=order.kind, image=order.image_id, force_drain=order.force_drain, by=order.by
        )

    async def assess(
        self, node: NodeRecord, *, kind: ReimageKind, image: str | None, force_drain: bool, by: str
    ) -> tuple[Findings, str]:
        """Every check's findings, and the uid of the Node object that would go."""
        situation = await self._look(node, kind, image, force_drain, by)
        findings = Findings()
        for check in self.checks:
            try:
                findings += await check(situation)
            except FleetError as error:
                findings += Findings((Problem("check", error.message, error.hint),))
        seen = (situation.listing or {}).get(node.name)
        return findings, seen.uid if seen else ""

    async def _look(
        self, node: NodeRecord, kind: ReimageKind, image: str | None, force_drain: bool, by: str
    ) -> Situation:
        listing, load, silence = None, None, ""
        try:
            async with self._door.open() as (api, listing):
                load = await read_load(api, node.name) if node.name in listing else Load()
        except KubeError as error:
            silence = error.message
        now = self._ground.clock()
        with self._ground.store.read() as reader:
            nodes, orders = tuple(reader.nodes()), reader.open_reimages()
            if open_order(reader, node.name) is None:
                orders.pop(node.name, None)  # it stands against no other one, and says nothing of its member
        return Situation(
            kind=kind,
            by=by,
            force=force_drain,
            image_id=image,
            node=node,
            spec=self._ground.spec.find_node(node.name),
            cluster=self._ground.spec,
            nodes=nodes,
            orders=orders,
            listing=listing,
            silence=silence,
            load=load,
            silent=is_silent(
                node, (listing or {}).get(node.name), now, self._ground.started, self._ground.pace.silence_s
            ),
            now=now,
        )

    def _require(self, tx: Transaction, name: str) -> NodeRecord:
        node = tx.node(name)
        if node is None:
            raise no_such_node(name, [one.name for one in tx.nodes()])
        return node

    def _require_free_serial(self, name: str, text: str) -> Serial:
        try:
            serial = Serial.parse(text)
        except BoardError as error:
            raise RefusedError(400, "serial", error.message, error.hint) from error
        for node in self._ground.spec.nodes:
            if node.serial is not None and node.serial.matches(serial):
                what = "its own present board" if node.name == name else f"the board of {node.name}"
                raise RefusedError(
                    409,
                    "serial",
                    f"{serial.text} is {what}",
                    "Read the serial on the new board's label or screen.",
                )
        return serial


def open_order(reader: Reader, name: str) -> ReimageRecord | None:
    """The order that a node is under; None where it has none, or one that came to nothing."""
    order = reader.open_reimage(name)
    if order is None or progress.came_to_nothing(order, reader.require_node(name).state):
        return None
    return order


def refusal(name: str, problems: tuple[Problem, ...]) -> RefusedError:
    """All that stands against it in one error."""
    hints = " ".join(dict.fromkeys(problem.hint for problem in problems if problem.hint))
    return RefusedError(
        409, problems[0].code, f"{name} stays as it is: {problems_text(Findings(problems))}", hints
    )


def steps_of(kind: ReimageKind, role: Role) -> tuple[str, ...]:
    """The states that a node passes, in order."""
    steps = list(_AGENT_STEPS)
    if role is Role.SERVER:
        at = steps.index(State.NODE_DELETED)
        steps[at:at] = _SERVER_STEPS
    if kind is ReimageKind.DECOMMISSION:
        steps = [*steps[: steps.index(State.NODE_DELETED) + 1], State.DECOMMISSIONED]
    return tuple(step.value for step in steps)


def _require_installed(node: NodeRecord, kind: ReimageKind) -> None:
    if node.state in REIMAGE_FROM:
        if kind is ReimageKind.REPLACE and node.state is State.READY:
            raise RefusedError(
                409,
                "alive",
                f"{node.name} is Ready: its board is alive, and two boards of one name are one too many",
                "Switch the old board off, wait until it is 'lost', and order again.",
            )
        return
    hint = f"'bramble show {node.name}' tells what it waits for."
    if node.state in REIMAGING:
        hint = "Its record came from a backup in the middle of a re-image: wait until it is heard of."
    raise RefusedError(409, "state", f"{node.name} is '{node.state}': it is not installed", hint)


async def _base_check(situation: Situation) -> Findings:
    return base_findings(situation)
