"""One installation: the plan, the progress, and the end that closes the intent.

The caller is an installer that was admitted; it shows the bearer token of its attempt. The store knows the
token's hash.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final, Protocol

from agent.protocol import (
    OCCUPIED,
    DiskSelector,
    ImageSource,
    InstallComplete,
    InstallPlan,
    InstallProgress,
    InstallStep,
    Occupant,
    Patch,
)
from fleet import events
from fleet.admission.installers import hash_token
from fleet.disk_pins import describe, is_other, narrow, note_found, pin_found, pin_of
from fleet.ground import Ground
from fleet.images import ImageFacts, wanted_image
from fleet.lifecycle import Happening, State, allows
from fleet.printable import printable
from fleet.refusal import RefusedError
from fleet.reimage.kinds import ReimageKind
from fleet.reimage.progress import UNSEEN
from fleet.restored import observe, unobserved
from fleet.secret import Secret
from fleet.spec.model import ClusterSpec, NodeSpec
from fleet.store.records import IntentRecord, NodeRecord
from fleet.store.transaction import Reader, Transaction
from fleet.timeline import Entry

PROGRESS_INTERVAL_S: Final = 1.0
"""Percentages within a step are written no more often."""
INSTALLED: Final = "installed"


@dataclass(frozen=True, slots=True)
class ControlInfo:
    """How a node finds this server, and how it knows it."""

    urls: tuple[str, ...]
    ca_pem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """One installation, as far as the bytes on its disk depend on it.

    Attributes:
        image_id: The image that is wanted; None: the cluster's.
        ticket: Enrols the node once.
        disk_signature: 32 bits, never 0.
        instance_id: cloud-init's name for this installation.
    """

    node: NodeSpec
    control: ControlInfo
    image_id: str | None
    ticket: Secret
    disk_signature: int
    instance_id: str


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """What an installer is to write, and where."""

    image: ImageSource
    disk: DiskSelector
    delta: tuple[Patch, ...]


class ImageProvider(Protocol):
    """The image room, as the controller needs it; the composition root implements it."""

    def plan_for(self, request: PlanRequest) -> PlannedImage:
        """Render the node's delta against the image. Takes milliseconds.

        Raises:
            FleetError: There is no image for this node (now).
        """
        ...

    def prepare(self, spec: ClusterSpec) -> ImageFacts | None:
        """Look for the finished image of a cluster.yaml; None: it is not built. Takes seconds, on any thread.

        When that file is put in force, its image is the cluster's.
        """
        ...

    def describe(self, image: str | None) -> ImageFacts:
        """An image by its id, or by a beginning of it that no other has; None: the cluster's.

        Raises:
            RefusedError: There is none.
        """
        ...


class InstallDesk:
    """Answers an admitted installer."""

    def __init__(self, ground: Ground, images: ImageProvider, control: ControlInfo) -> None:
        self._ground = ground
        self._images = images
        self._control = control

    def plan(self, token: str) -> InstallPlan:
        """The plan of this attempt; asking again gives the same plan, ticket included."""
        ground, now = self._ground, self._ground.clock()
        with ground.store.write() as tx:
            node, intent = self._attempt(tx, token)
            ticket = ground.pki.ticket(node.name, intent.number, node.standing.attempt)
            signature = node.disk_signature or new_disk_signature(ground)
            instance = instance_id(ground, node, intent)
            spec = ground.require_spec(node.name)
            planned = self._images.plan_for(
                PlanRequest(
                    node=spec,
                    control=self._control,
                    image_id=wanted_image(tx, node.name),
                    ticket=ticket,
                    disk_signature=signature,
                    instance_id=instance,
                )
            )
            own, declared = pin_of(tx, node), spec.disk
            disk = narrow(planned.disk, own)
            tx.add_ticket(ticket.sha256, node.name, intent.number, node.standing.attempt, now)
            tx.update_node(node, disk_signature=signature)
            entry = events.plan_given(planned.image.image_id, planned.disk.kind, intent.number)
            ground.say_once(tx, entry, now, node=node)
        return InstallPlan(
            intent=intent.number,
            node=node.name,
            disk=disk,
            image=planned.image,
            delta=planned.delta,
            cluster=ground.spec.name,
            installation=intent.installation or "",
            keep=declared.keep,
            keep_may_be_absent=own is None,
            root_bytes=(declared.root_mib or 0) << 20,
        )

    def progress(self, token: str, progress: InstallProgress) -> None:
        """Take note of where the installer is, or of why it gave up.

        Raises:
            RefusedError: The intent is over; or the disk holds an installation that needs a person's word.
        """
        ground, now = self._ground, self._ground.clock()
        refusal: RefusedError | None = None
        with ground.store.write() as tx:
            node, intent = self._attempt(tx, token)
            _require_same_intent(intent, progress.intent)
            if progress.step is InstallStep.FIND_DISK and not progress.failed:
                order = tx.open_reimage(node.name)
                if order is not None and unobserved(tx, node.name) is not None:
                    tx.note_reimage(order, **{UNSEEN: True})
                node = observe(tx, node, "its installer has looked at the disk", now)
            if progress.failed:
                self._fail(tx, node, progress, now)
            elif (entry := self._objection(tx, node, intent, progress)) is not None:
                refusal = self._hold(tx, node, intent, progress, entry, now)
            else:
                if progress.disk is not None:
                    note_found(tx, node, intent, progress.disk)
                self._note(tx, node, progress, now)
        if refusal is not None:  # raised out here: what it says must be durable
            ground.on_boot_change()
            raise refusal

    @staticmethod
    def _note(tx: Transaction, node: NodeRecord, progress: InstallProgress, now: float) -> None:
        step, _, _ = node.detail.partition(" ")
        is_new_step = step != progress.step.value
        waited = now - node.standing.progressed_at
        if not is_new_step and waited < PROGRESS_INTERVAL_S and progress.percent < 100:
            return
        detail = progress.step.value
        if progress.step in (InstallStep.WRITE, InstallStep.VERIFY):
            detail = f"{progress.step.value} {min(max(progress.percent, 0.0), 100.0):.0f} %"
        tx.note_progress(node, Happening.PROGRESSED, now, detail)
        if is_new_step:
            entry = events.install_step(progress.step.value, progress.message)
            tx.add_event(entry, now, node=node.name, board=node.board_id)

    def _objection(
        self, reader: Reader, node: NodeRecord, intent: IntentRecord, progress: InstallProgress
    ) -> Entry | None:
        """Why the disk that an installer found is not written without a person's word; None: it is.

        A person has spoken who approved after exactly this was found; while `intent.occupant` is set, only an
        approved key is admitted.
        """
        if node.approved_key is not None and intent.occupant == _question(progress):
            return None
        order = reader.open_reimage(node.name)
        # A person who lets it out of quarantine opens another intent for the same order.
        order = order if order is not None and order.number <= intent.number else None
        occupant = progress.occupant
        is_ordered = order is not None and not order.progress.get(UNSEEN)
        if occupant is not None and not self._may_overwrite(node, intent, occupant, is_ordered=is_ordered):
            return events.disk_occupied(occupant, node.name)
        if progress.disk is None or (order is not None and order.kind is ReimageKind.REPLACE):
            return None
        pin, declared = pin_of(reader, node), self._ground.require_spec(node.name).disk
        if pin is None or not is_other(pin, progress.disk, declared.serial):
            return None
        return events.disk_changed(describe(pin.disk), describe(progress.disk), node.name)

    def _may_overwrite(
        self, node: NodeRecord, intent: IntentRecord, occupant: Occupant, *, is_ordered: bool
    ) -> bool:
        """Whether an installation that the disk holds may go without a question.

        It may when this very intent made it (power failed between COMMIT and the report of it), and when the
        node was ordered to be installed again and it is that node's own.
        """
        if intent.installation is not None and occupant.installation == intent.installation:
            return True
        return is_ordered and (occupant.cluster, occupant.node) == (self._ground.spec.name, node.name)

    @staticmethod
    def _hold(
        tx: Transaction,
        node: NodeRecord,
        intent: IntentRecord,
        progress: InstallProgress,
        entry: Entry,
        now: float,
    ) -> RefusedError:
        """Leave the disk to a person. An earlier approval does not count: nobody knew what is at stake."""
        tx.update_intent(intent, occupant=_question(progress))
        tx.move(node, Happening.HELD, entry, now, pending_key=None, approved_key=None)
        return RefusedError(409, OCCUPIED, entry.text, entry.hint)

    @staticmethod
    def _fail(tx: Transaction, node: NodeRecord, progress: InstallProgress, now: float) -> None:
        entry = events.install_failed(progress.step.value, progress.message, progress.hint)
        if allows(node.state, Happening.INSTALL_FAILED):
            tx.move(node, Happening.INSTALL_FAILED, entry, now, detail=printable(progress.message, 200))

    def complete(self, token: str, complete: InstallComplete) -> None:
        """The disk is written, verified and committed: close the intent; the next boot is from that disk.

        A repeat of the same message is accepted: its first answer got lost.
        """
        ground, now = self._ground, self._ground.clock()
        with ground.store.write() as tx:
            node, intent = self._owner(tx, token)
            _require_same_intent(intent, complete.intent)
            if intent.closed is not None and (intent.why or "").startswith(INSTALLED):
                return
            if intent.closed is not None or not allows(node.state, Happening.INSTALLED):
                raise _ended(intent)
            tx.close_intent(intent, INSTALLED, now)
            pin_found(tx, node, intent.number)
            entry = events.installed(complete.disk, complete.bytes_written, complete.seconds)
            # The certificate of an earlier installation dies with the disk that held its key.
            tx.move(
                node,
                Happening.INSTALLED,
                entry,
                now,
                image_id=printable(complete.image_id, 64),
                certificate=None,
                previous_certificate=None,
                agent_key=None,
            )
            closed = events.intent_closed(intent.number, "installed; from now on it boots its own disk")
            tx.add_event(closed, now, node=node.name, board=node.board_id)
        ground.on_boot_change()

    @staticmethod
    def _owner(reader: Reader, token: str) -> tuple[NodeRecord, IntentRecord]:
        intent = reader.intent_of_token(hash_token(token)) if token else None
        if intent is None:
            raise RefusedError(401, "token", "this installer is not admitted", "Say hello and prove again.")
        return reader.require_node(intent.node), intent

    def _attempt(self, reader: Reader, token: str) -> tuple[NodeRecord, IntentRecord]:
        """The node and the open intent of an installer at work."""
        node, intent = self._owner(reader, token)
        if intent.closed is not None or node.state not in (State.IMAGING, State.FAILED_IMAGING):
            raise _ended(intent)
        return node, intent


def new_disk_signature(ground: Ground) -> int:
    """32 random bits, never 0: a disk that no other disk of the cluster is mistaken for."""
    return 1 + int(ground.random_hex(4), 16) % 0xFFFF_FFFF


def instance_id(ground: Ground, node: NodeRecord, intent: IntentRecord) -> str:
    """cloud-init's name for this installation, unlike that of any earlier one."""
    return f"{ground.spec.name}-{node.name}-{intent.number}-{node.standing.attempt}"


def _question(progress: InstallProgress) -> str:
    """What a person is asked about: the disk, and what it holds."""
    parts = (progress.occupant, progress.disk)
    return json.dumps([None if part is None else asdict(part) for part in parts], sort_keys=True)


def _require_same_intent(intent: IntentRecord, number: int) -> None:
    if intent.number != number:
        raise RefusedError(
            409,
            "intent",
            f"the message is about intent {number}, the token is of intent {intent.number}",
        )


def _ended(intent: IntentRecord) -> RefusedError:
    why = intent.why or "another attempt began"
    return RefusedError(409, "intent-closed", f"intent {intent.number} is over: {why}", "Restart the board.")
