"""Where `fleet.reimage.guards` meets the store: asked before an order is taken, in the transaction that takes
it, and again when it stands.

The transaction that writes an order takes its place of the fleet lock too, so there is never one without the
other.
"""

from __future__ import annotations

from collections.abc import Iterable

from fleet.ground import Ground
from fleet.health.desk import find_write_obstacle
from fleet.images import ImageFacts
from fleet.installs import ImageProvider
from fleet.k3s.versions import K3sVersion, skew_between
from fleet.lock import read_holds, take
from fleet.refusal import RefusedError
from fleet.reimage.guards import problems, writing_problems
from fleet.reimage.kinds import ReimageKind
from fleet.reimage.problems import Problem
from fleet.reimage.seams import Findings, Situation
from fleet.spec.model import Role
from fleet.store.records import NodeRecord, ReimageRecord
from fleet.store.transaction import Reader, Transaction


class ReimageGate:
    """One per controller; `guard` and `check` are what `fleet.reimage.desk` asks."""

    def __init__(self, ground: Ground, images: ImageProvider) -> None:
        self._ground = ground
        self._images = images

    def guard(self, tx: Transaction, order: ReimageRecord, node: NodeRecord) -> tuple[Problem, ...]:
        """Everything that stands against a new order; where nothing does, its place of the lock is taken."""
        found, facts = self._image_problems(order.kind, order.image_id, node, tx.nodes())
        found = (*self._shared(tx, node, order.kind, order.by), *found)
        if not found:
            if order.image_id is not None and facts is not None:
                tx.update_reimage(order, image_id=facts.id)  # a person named its beginning
            take(tx, order, self._ground.clock())
        return found

    async def check(self, situation: Situation) -> Findings:
        """The same beforehand. An order that stands holds its place, and a window that closes is no matter
        to it; what its board says counts to the last."""
        node = situation.node
        found, _facts = self._image_problems(situation.kind, situation.image_id, node, situation.nodes)
        with self._ground.store.read() as reader:
            if node.name not in situation.orders:
                return Findings((*self._shared(reader, node, situation.kind, situation.by), *found))
            obstacle = self._obstacle(reader, situation.kind, node.name)
        return Findings((*writing_problems(obstacle), *found))

    def _shared(self, reader: Reader, node: NodeRecord, kind: ReimageKind, by: str) -> tuple[Problem, ...]:
        return problems(
            name=node.name,
            role=node.role,
            by=by,
            obstacle=self._obstacle(reader, kind, node.name),
            holds=read_holds(reader),
            spec=self._ground.spec,
            now=self._ground.clock(),
        )

    @staticmethod
    def _obstacle(reader: Reader, kind: ReimageKind, name: str) -> str | None:
        """A disk that fails is a reason to decommission, and no board's health is another's."""
        return find_write_obstacle(reader, name) if kind is ReimageKind.REIMAGE else None

    def _image_problems(
        self, kind: ReimageKind, image: str | None, node: NodeRecord, nodes: Iterable[NodeRecord]
    ) -> tuple[tuple[Problem, ...], ImageFacts | None]:
        if kind is ReimageKind.DECOMMISSION:
            return (), None
        try:
            facts = self._images.describe(image)
        except RefusedError as error:
            return (Problem(error.code, error.message, error.hint),), None
        return version_problems(facts, node, nodes), facts


def version_problems(facts: ImageFacts, node: NodeRecord, nodes: Iterable[NodeRecord]) -> tuple[Problem, ...]:
    """Whether the k3s of an image may join the servers that stay. Pure."""
    version = K3sVersion.find(facts.k3s_version)
    servers = [
        found
        for other in nodes
        if other.role is Role.SERVER and other.name != node.name
        for found in [k3s_of(other)]
        if found is not None
    ]
    if version is None:
        return ()
    skew = skew_between(version, servers, is_server=node.role is Role.SERVER)
    if skew is None:
        return ()
    return (
        Problem(
            "version",
            f"{node.name} could not join with image {facts.short}: {skew}",
            "'bramble rollout' takes nodes in the order that k3s wants.",
        ),
    )


def k3s_of(node: NodeRecord) -> K3sVersion | None:
    """The release that a node's agent reported last."""
    return K3sVersion.find(str((node.status or {}).get("k3s_version") or ""))
