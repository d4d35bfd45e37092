"""Carries a rollout on: orders the next node's re-image when it may go, and keeps the record.

Every order is one of `fleet.reimage.desk`, under the same checks as a person's: here is only decided whose
turn it is. What was ordered is adopted after a crash, because the order says by which rollout it was given.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any, Final, Protocol

from fleet.errors import FleetError
from fleet.ground import Ground
from fleet.images import ImageFacts
from fleet.installs import ImageProvider
from fleet.refusal import RefusedError
from fleet.reimage.desk import Preview
from fleet.reimage.gate import k3s_of
from fleet.reimage.problems import Problem
from fleet.restored import GAP, epoch_of, unobserved
from fleet.rollout.order import Candidate, Plan, plan
from fleet.rollout.progress import Sight, next_nodes, observe, resume, soak_left_s, time_left_s
from fleet.rollout.record import Phase, Rollout, Step, StepState, from_record, to_record
from fleet.rollout.soak import Soak, watch
from fleet.store.transaction import Reader, Transaction
from fleet.timeline import Entry, Kind

log = logging.getLogger(__name__)

EVERY_S: Final = 2.0
DEFAULT_SOAK_S: Final = 600.0
RETRY_S: Final = 30.0
"""How long a node that something stands against is not asked about again."""


class Reimages(Protocol):
    """Who carries out re-images; `fleet.reimage.desk.ReimageDesk` is one."""

    def request(
        self, name: str, *, image: str | None = None, force_drain: bool = False, by: str, why: str = ""
    ) -> str:
        """Order one; `RefusedError` where something stands against it."""
        ...

    async def preview(self, name: str, *, image: str | None = None, by: str = "") -> Preview:
        """What stands against one; changes nothing."""
        ...


class RolloutDesk:
    """One per controller.

    Args:
        redeclare: Puts the cluster.yaml in force once more, with the image that was found for it.
    """

    def __init__(
        self, ground: Ground, images: ImageProvider, reimages: Reimages, redeclare: Callable[[], None]
    ) -> None:
        self._ground = ground
        self._redeclare = redeclare
        self._images = images
        self._reimages = reimages
        self._asked_at: dict[str, float] = {}
        self._soak = Soak()

    # --- people

    async def start(
        self,
        *,
        image: str | None,
        canary: str | None,
        max_parallel: int | None,
        soak_s: float,
        by: str,
        dry_run: bool,
    ) -> dict[str, Any]:
        """Begin a rollout, or with `dry_run` only show it: `{"message", "problems", "warnings", "plan"}`.

        Args:
            image: Id of a finished image, or its beginning; None: that of the cluster.yaml in force.

        Raises:
            RefusedError: There is no such image; or something stands against it and it is no dry run.
        """
        current = self._images.describe(None)
        newest = await self._newest(current)
        facts = newest if image is None else self._images.describe(image)
        is_of_file = facts.id == newest.id
        allowed = self._ground.spec.policy.reimage.max_parallel
        parallel = allowed if max_parallel is None else max_parallel
        with self._ground.store.read() as reader:
            made = plan(
                self._candidates(reader),
                facts,
                canary=canary,
                max_parallel=parallel,
                allowed_parallel=allowed,
            )
            problems = (*_open_problems(reader), *made.problems)
        warnings = made.warnings if is_of_file else (*made.warnings, *_current_problems(facts, current))
        if made.canary:
            shown = await self._reimages.preview(made.canary, image=facts.id, by=by)
            warnings += tuple(
                replace(found, text=f"{made.canary}: {found.text}")
                for found in (*shown.problems, *shown.warnings)
            )
        answer: dict[str, Any] = {
            "message": None,
            "problems": [asdict(problem) for problem in problems],
            "warnings": [asdict(warning) for warning in dict.fromkeys(warnings)],
            "plan": _plan_view(made, facts, parallel, soak_s),
        }
        if dry_run:
            return answer
        if problems:
            raise _refusal(problems)
        if is_of_file and facts != current:  # also where it was named, as who saw the plan names it
            self._redeclare()
        rollout = self._write_new(made, facts, parallel, soak_s, by)
        answer["message"] = (
            f"rollout {rollout.number} of image {facts.short} to {len(rollout.steps)} node(s) has begun, "
            f"{rollout.canary} first; 'bramble rollout status' follows it"
        )
        return answer

    async def _newest(self, current: ImageFacts) -> ImageFacts:
        """What 'bramble build' made last of the cluster.yaml in force; where it made none, what is served."""
        found = await asyncio.to_thread(self._images.prepare, self._ground.spec)
        return found or current

    def _write_new(self, made: Plan, facts: ImageFacts, parallel: int, soak_s: float, by: str) -> Rollout:
        now = self._ground.clock()
        with self._ground.store.write() as tx:
            problems = _open_problems(tx)
            if problems:
                raise _refusal(problems)
            last, epoch = tx.last_rollout(), epoch_of(tx)
            rollout = Rollout(
                # After a restore above what the lost hours can have used: orders name their rollout.
                number=max(last.number if last else 0, epoch * GAP) + 1,
                image_id=facts.id,
                k3s_version=facts.k3s_version,
                requested_at=now,
                by=by,
                canary=made.canary,
                max_parallel=parallel,
                soak_s=soak_s,
                epoch=epoch,
                order=made.order,
                steps=tuple(Step(node=one.node, role=one.role) for one in made.nodes),
            )
            tx.put_rollout(to_record(rollout))
            for step in rollout.steps:
                self._say(tx, step.node, f"part of rollout {rollout.number}, image {facts.short}, by {by}")
        return rollout

    def pause(self, by: str) -> str:
        """Take no further node; those under way go on.

        Raises:
            RefusedError: Nothing is running.
        """
        rollout = self._change(
            "pause", (Phase.RUNNING,), lambda one: replace(one, phase=Phase.PAUSED, reason=f"{by} paused it")
        )
        return f"rollout {rollout.number} is paused; nodes that are under way go on to their end"

    def resume(self, by: str) -> str:
        """Go on; a node that failed gets another turn.

        Raises:
            RefusedError: None is paused or stopped.
        """
        now = self._ground.clock()
        with self._ground.store.read() as reader:
            before = _open(reader)
            epoch = epoch_of(reader)
        failed = [] if before is None else [step for step in before.steps if step.state is StepState.FAILED]
        rollout = self._change(
            "resume", (Phase.PAUSED, Phase.STOPPED), lambda one: replace(resume(one, now), epoch=epoch)
        )
        for step in failed:
            self._try_again(rollout, step)
        self._asked_at.clear()
        log.info("rollout %d is resumed by %s", rollout.number, by)
        return f"rollout {rollout.number} goes on"

    def _try_again(self, rollout: Rollout, step: Step) -> None:
        """An order that gave up and is still open goes on where it stopped."""
        with self._ground.store.read() as reader:
            order = reader.open_reimage(step.node)
        if order is not None and order.by == rollout.orders_by:
            try:
                self._reimages.request(step.node, image=rollout.image_id, by=rollout.orders_by)
            except RefusedError as error:
                log.warning("%s does not go on: %s", step.node, error.message)

    def abort(self, by: str) -> str:
        """End it; nodes that have the new image keep it, and those under way go on.

        Raises:
            RefusedError: None is open.
        """
        now = self._ground.clock()
        every = (Phase.RUNNING, Phase.PAUSED, Phase.STOPPED)
        rollout = self._change(
            "abort",
            every,
            lambda one: replace(one, phase=Phase.ABORTED, reason=f"{by} aborted it", closed_at=now),
        )
        done = sum(step.state is StepState.DONE for step in rollout.steps)
        return (
            f"rollout {rollout.number} is over; {done} of {len(rollout.steps)} node(s) hold its image and "
            "keep it, those under way go on to their end"
        )

    def _change(self, what: str, phases: tuple[Phase, ...], change: Any) -> Rollout:
        with self._ground.store.write() as tx:
            rollout = _open(tx)
            if rollout is None or rollout.phase not in phases:
                state = "there is none" if rollout is None else f"rollout {rollout.number} is {rollout.phase}"
                raise RefusedError(
                    409,
                    "rollout",
                    f"no rollout to {what}: {state}",
                    "'bramble rollout status' shows the last.",
                )
            changed: Rollout = change(rollout)
            tx.put_rollout(to_record(changed))
        return changed

    # --- by itself

    async def run(self) -> None:
        """Carry on until cancelled."""
        while True:
            try:
                await self.drive()
            except FleetError as error:
                log.error("the rollout could not go on: %s", error)
            except Exception:  # a mistake of ours here must not end the server
                log.exception("the rollout could not go on")
            await asyncio.sleep(EVERY_S)

    async def drive(self) -> None:
        """See what became of the nodes, and order the next ones. Cheap where none is open."""
        seen = self._look()
        if seen is None or seen[0].phase is not Phase.RUNNING:
            return
        now, (rollout, sights) = self._ground.clock(), seen
        self._soak = watch(self._soak, rollout, sights, now)
        following = next_nodes(rollout, sights, self._soak.watched_s)
        refused = ""
        for name in following.nodes:
            refused = await self._order(rollout, name, now) or refused
        self._note(rollout, refused or following.waits_for)

    def _look(self) -> tuple[Rollout, dict[str, Sight]] | None:
        """Write down what is seen. Both are of one moment: what another server orders in between is no reason
        to take one more."""
        now = self._ground.clock()
        with self._ground.store.read() as reader:
            before = _open(reader)
            if before is None:
                return None
            sights, epoch = self._sights(reader), epoch_of(reader)
        after = before
        if before.epoch != epoch and before.phase is Phase.RUNNING:
            why = "the record was restored from a backup; look at the nodes, then resume it"
            after = replace(before, phase=Phase.PAUSED, reason=why)
        after = observe(after, sights, now)
        if after == before:
            return after, sights
        with self._ground.store.write() as tx:
            if _open(tx) != before:
                return None  # another server, or a person, changed it meanwhile: the next look sees that
            tx.put_rollout(to_record(after))
            self._tell(tx, before, after)
        return after, sights

    def _tell(self, tx: Transaction, before: Rollout, after: Rollout) -> None:
        if after.phase is not before.phase:
            log.log(
                logging.WARNING if after.phase is Phase.STOPPED else logging.INFO,
                "rollout %d is %s: %s",
                after.number,
                after.phase.value,
                after.reason,
            )
        for step in after.steps:
            known = before.step(step.node)
            if known is not None and known.state is not step.state and step.state is StepState.FAILED:
                hint = "Mend it, then 'bramble rollout resume'; or 'bramble rollout abort'."
                self._say(tx, step.node, f"stopped rollout {after.number}: {step.reason}", hint)

    async def _order(self, rollout: Rollout, name: str, now: float) -> str:
        """Order one node's re-image; why it could not be, empty where it could."""
        asked = self._asked_at.get(name)
        if asked is not None and 0 <= now - asked < RETRY_S:
            return rollout.reason
        self._asked_at[name] = now
        shown = await self._reimages.preview(name, image=rollout.image_id, by=rollout.orders_by)
        if shown.problems:
            return f"{name}: " + "; ".join(problem.text for problem in shown.problems)
        with self._ground.store.read() as reader:
            present = _open(reader)
        if present is None or present.phase is not Phase.RUNNING or present.number != rollout.number:
            return ""  # paused while the cluster was asked
        try:
            self._reimages.request(
                name,
                image=rollout.image_id,
                by=rollout.orders_by,
                why=f"image {rollout.image_id[:12]}",
            )
        except RefusedError as error:
            return f"{name}: {error.message}"
        self._asked_at.pop(name, None)
        self._look()
        return ""

    def _note(self, rollout: Rollout, reason: str) -> None:
        """Keep what is waited for, for people who look at it."""
        with self._ground.store.read() as reader:
            present = _open(reader)
        if present is None or present.phase is not Phase.RUNNING:
            return
        if _steady(present.reason) == _steady(reason):
            return
        with self._ground.store.write() as tx:
            present = _open(tx)
            if present is not None and present.phase is Phase.RUNNING and present.number == rollout.number:
                tx.put_rollout(to_record(replace(present, reason=reason)))

    def _candidates(self, reader: Reader) -> list[Candidate]:
        return [
            Candidate(
                node=node.name,
                role=node.role,
                state=node.state,
                image_id=node.image_id,
                k3s=k3s_of(node),
                unobserved=unobserved(reader, node.name) is not None,
            )
            for node in reader.nodes()
            if self._ground.spec.find_node(node.name) is not None
        ]

    def _sights(self, reader: Reader) -> dict[str, Sight]:
        found, orders = {}, reader.newest_reimages()
        declared = {node.name for node in self._ground.spec.nodes}
        for node in reader.nodes():
            if node.name not in declared:
                continue
            newest = orders.get(node.name)
            found[node.name] = Sight(
                state=node.state,
                since=node.standing.since,
                image_id=node.image_id,
                order=None if newest is None else newest.number,
                ordered_by="" if newest is None else newest.by,
                outcome=None if newest is None else newest.outcome,
                is_open=newest is not None and newest.closed_at is None,
                reason="" if newest is None else newest.reason,
            )
        return found

    def _say(self, tx: Transaction, name: str, text: str, hint: str = "") -> None:
        node = tx.node(name)
        if node is not None:
            entry = Entry(kind=Kind.POLICY, text=text, hint=hint)
            tx.add_event(entry, self._ground.clock(), node=name, board=node.board_id)

    # --- what is shown

    def view(self) -> dict[str, Any] | None:
        """The last rollout, open or ended; None: there was none."""
        now = self._ground.clock()
        with self._ground.store.read() as reader:
            record = reader.last_rollout()
            if record is None:
                return None
            rollout, sights = from_record(record), self._sights(reader)
        watched = self._soak.watched_s if self._soak.rollout == rollout.number else 0.0
        soak = soak_left_s(rollout, sights, watched) if rollout.phase.is_open else None
        return {
            "number": rollout.number,
            "image": rollout.image_id,
            "k3s_version": rollout.k3s_version,
            "phase": rollout.phase.value,
            "reason": rollout.reason,
            "requested_at": rollout.requested_at,
            "closed_at": rollout.closed_at,
            "by": rollout.by,
            "canary": rollout.canary,
            "max_parallel": rollout.max_parallel,
            "soak_s": rollout.soak_s,
            "soak_left_s": None if soak is None or soak == float("inf") else round(soak, 1),
            "order": rollout.order,
            "done": sum(step.state is StepState.DONE for step in rollout.steps),
            "total": len(rollout.steps),
            "time_left_s": _rounded(time_left_s(rollout, sights, now, watched)),
            "steps": [_step_view(step, sights.get(step.node), rollout) for step in rollout.steps],
        }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _steady(reason: str) -> str:
    """Without its numbers: a span that gets shorter is no news, and no reason to write to the disk."""
    return "".join(character for character in reason if not character.isdigit())


def _open(reader: Reader) -> Rollout | None:
    record = reader.open_rollout()
    return None if record is None else from_record(record)


def _open_problems(reader: Reader) -> tuple[Problem, ...]:
    rollout = _open(reader)
    if rollout is None:
        return ()
    return (
        Problem(
            "rollout",
            f"rollout {rollout.number} of image {rollout.image_id[:12]} is {rollout.phase.value}",
            "One at a time: 'bramble rollout status', then 'resume' or 'abort'.",
        ),
    )


def _current_problems(facts: ImageFacts, current: ImageFacts) -> tuple[Problem, ...]:
    if facts.id == current.id:
        return ()
    return (
        Problem(
            "not-current",
            f"the cluster.yaml in force has image {current.short}: a node that is installed by itself, or "
            f"re-imaged without '--image', gets that one and not {facts.short}",
            "Put the file of this image in force, 'bramble apply', before or after.",
        ),
    )


def _refusal(problems: tuple[Problem, ...]) -> RefusedError:
    text = "; ".join(problem.text for problem in problems)
    hints = " ".join(dict.fromkeys(problem.hint for problem in problems if problem.hint))
    return RefusedError(409, problems[0].code, f"no rollout was begun: {text}", hints)


def _plan_view(made: Plan, facts: ImageFacts, parallel: int, soak_s: float) -> dict[str, Any]:
    return {
        "image": facts.id,
        "k3s_version": facts.k3s_version,
        "canary": made.canary,
        "max_parallel": parallel,
        "soak_s": soak_s,
        "order": made.order,
        "nodes": [
            {"node": one.node, "role": one.role.value, "state": one.state.value, "image": one.image_id}
            for one in made.nodes
        ],
    }


def _step_view(step: Step, sight: Sight | None, rollout: Rollout) -> Mapping[str, Any]:
    return {
        "node": step.node,
        "role": step.role.value,
        "state": step.state.value,
        "node_state": None if sight is None else sight.state.value,
        "canary": step.node == rollout.canary,
        "number": step.number,
        "began": step.began,
        "ended": step.ended,
        "reason": step.reason,
    }
