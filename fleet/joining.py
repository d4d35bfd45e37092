"""The life of an installed node as its agent tells it: status, desired state, and the material to join k3s.

The caller is known by its client certificate. Who may join when is one pure function, `turn_of`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from agent.protocol import Desired, JoinMaterial, K3sState, Status, StatusAccepted
from fleet import events
from fleet.clones import is_copied, suspend_cloned
from fleet.eeprom_orders import number_of
from fleet.ground import Ground
from fleet.health_desk import HealthDesk
from fleet.k3s_config import API_PORT, InitialiseCluster, JoinServer, Way, render_join_material, unit_of
from fleet.lifecycle import Happening, State
from fleet.refusal import RefusedError
from fleet.spec.model import Role
from fleet.store.records import NodeRecord
from fleet.store.transaction import Reader, Transaction

JOINING_INTERVAL_S: Final = 3.0
STEADY_INTERVAL_S: Final = 10.0
MAX_SEQUENCE: Final = 2**53
FOUNDER: Final = "k3s.founder"
"""kv: the one server that may initialise the cluster; set once, before it is told."""
FOUNDED: Final = "k3s.founded"
"""kv: set when that server was Ready."""
_WANTS_TO_JOIN: Final = (State.JOINING, State.FAILED_JOINING)
_UP: Final = (State.READY, State.DEGRADED)


@dataclass(frozen=True, slots=True)
class Turn:
    """Whether a node may join now, and why or why not."""

    allowed: bool
    reason: str
    founds: bool = False


def turn_of(node: NodeRecord, others: Iterable[NodeRecord], *, founder: str | None, founded: bool) -> Turn:
    """Whether it is this node's turn to join.

    The first server founds the cluster, exactly one ever. Everybody else waits until it is Ready; then agents
    join as they come and servers one at a time, because etcd takes one learner at a time.
    """
    if node.role is Role.SERVER and founder in (None, node.name) and not founded:
        return Turn(True, "it is the first server and founds the cluster", founds=True)
    if not founded:
        return Turn(
            False, f"the first server ({founder}) is not Ready yet" if founder else "no server is up yet"
        )
    servers = [other for other in others if other.role is Role.SERVER and other.name != node.name]
    if not any(server.state in _UP for server in servers):
        return Turn(False, "no server is Ready")
    if node.role is Role.AGENT:
        return Turn(True, "a server is Ready")
    busy = [server.name for server in servers if server.state in _WANTS_TO_JOIN and server.join_allowed]
    if busy:
        return Turn(False, f"server {busy[0]} is joining, one at a time")
    return Turn(True, "a server is Ready and no other server is joining")


class JoinDesk:
    """Answers enrolled agents."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._health = HealthDesk()

    def desired(self, certificate: str | None) -> Desired:
        """What the server wants of the caller."""
        now = self._ground.clock()
        with self._ground.store.write() as tx:
            node = self._caller(tx, certificate)
            node, reason = self._give_turn(tx, node, now)
        return Desired(generation=node.generation, join=node.join_allowed, reason=reason)

    def status(self, certificate: str | None, status: Status) -> StatusAccepted:
        """Take a report; one that was taken before changes nothing."""
        now = self._ground.clock()
        if not 0 <= status.sequence <= MAX_SEQUENCE:
            raise RefusedError(400, "message", f"Status.sequence: {status.sequence} is out of range")
        with self._ground.store.write() as tx:
            node = self._caller(tx, certificate)
            # A second board with a copy of the disk has another boot id: only then is there a need to look.
            is_copy = node.boot_id != status.boot_id and is_copied(tx, node, status.hardware)
            if is_copy:
                suspend_cloned(self._ground, tx, node, now)
            is_repeat = is_copy or (
                node.boot_id == status.boot_id and status.sequence <= node.status_sequence
            )
            if not is_repeat:
                node = self._take(tx, node, status, now)
            if not is_copy:
                node, _reason = self._give_turn(tx, node, now)
            eeprom = number_of(tx, node.name)
        if is_copy:  # raised out here: the suspension must be durable
            raise _no_certificate()
        waits = node.state in _WANTS_TO_JOIN
        return StatusAccepted(
            generation=node.generation,
            interval_s=JOINING_INTERVAL_S if waits else STEADY_INTERVAL_S,
            eeprom=eeprom,
        )

    def caller(self, certificate: str | None) -> NodeRecord:
        """The node whose certificate it is. Raises `RefusedError` where it is nobody's."""
        with self._ground.store.write() as tx:
            return self._caller(tx, certificate)

    def join_material(self, certificate: str | None) -> JoinMaterial:
        """Tokens and settings for the caller, when it is its turn; the same again while it joins.

        Raises:
            RefusedError: It is not joining, it is not its turn, or there is no server to join.
        """
        ground, now = self._ground, self._ground.clock()
        with ground.store.write() as tx:
            node = self._caller(tx, certificate)
            if node.state not in _WANTS_TO_JOIN:
                raise RefusedError(409, "not-joining", f"{node.name} is {node.state}, it does not join")
            if not node.join_allowed:
                raise RefusedError(409, "not-your-turn", f"{node.name} may not join yet")
            spec = ground.require_spec(node.name)
            material = render_join_material(
                ground.spec,
                dataclasses.replace(spec, role=node.role),
                ground.k3s,
                self._way(tx, node),
                address=str(spec.address) if spec.address else None,
                node_password=node.node_password,
                generation=node.generation,
            )
            ground.say_once(tx, events.material_given(unit_of(node.role)), now, node=node)
        return material

    def _way(self, reader: Reader, node: NodeRecord) -> Way:
        if reader.value(FOUNDER) == node.name and reader.value(FOUNDED) is None:
            return InitialiseCluster()
        for other in reader.nodes():
            if other.role is Role.SERVER and other.state in _UP and other.name != node.name:
                address = self.address_of(other)
                if address is not None:
                    return JoinServer(f"https://{address}:{API_PORT}")
        raise RefusedError(409, "no-server", "no server of the cluster is Ready with a known address")

    def address_of(self, node: NodeRecord) -> str | None:
        """Where a node is reached: as declared, else as it says itself."""
        declared = self._ground.require_spec(node.name).address
        if declared is not None:
            return str(declared)
        told = (node.status or {}).get("addresses") or [None]
        return told[0] if isinstance(told[0], str) else None

    @staticmethod
    def _caller(tx: Transaction, certificate: str | None) -> NodeRecord:
        """The node whose certificate it is.

        Raises:
            RefusedError: No certificate, or one that is no longer anybody's.
        """
        node = tx.node_of_certificate(certificate) if certificate else None
        if node is None:
            raise _no_certificate()
        if node.certificate == certificate and node.previous_certificate is not None:
            return tx.update_node(node, previous_certificate=None)
        return node

    def _take(self, tx: Transaction, node: NodeRecord, status: Status, now: float) -> NodeRecord:
        previous = node.status or {}
        changes: dict[str, Any] = {"status_sequence": status.sequence, "status_at": now}
        if node.boot_id != status.boot_id:
            changes |= {"boot_id": status.boot_id, "boots": node.boots + 1}
            if node.boot_id is not None:
                entry = events.came_back(node.boots + 1)
                tx.add_event(entry, now, node=node.name, board=node.board_id)
        if previous.get("k3s", K3sState.ABSENT) != status.k3s:
            entry = events.k3s_changed(status.k3s.value, status.k3s_version)
            tx.add_event(entry, now, node=node.name, board=node.board_id)
        known = {problem["code"] for problem in previous.get("problems", ())}
        for problem in status.problems:
            if problem.code not in known:
                entry = events.problem(problem.code, problem.message, problem.hint)
                self._ground.say_once(tx, entry, now, node=node)
        # Through JSON: enums become their text, tuples become lists, as a later read gives them.
        changes["status"] = json.loads(json.dumps(dataclasses.asdict(status)))
        node = tx.update_node(node, **changes)
        if node.state is State.LOST:
            node = tx.move(node, Happening.HEARD_AGAIN, events.heard_again(), now)
        return self._health.take(tx, node, status, now)

    def _give_turn(self, tx: Transaction, node: NodeRecord, now: float) -> tuple[NodeRecord, str]:
        """Let a joining node begin when it is its turn; its generation grows at that moment."""
        if node.state not in _WANTS_TO_JOIN:
            return node, str(node.state)
        if node.join_allowed:
            return node, "may join"
        founder, founded = tx.value(FOUNDER), tx.value(FOUNDED) is not None
        turn = turn_of(node, tx.nodes(), founder=founder, founded=founded)
        if not turn.allowed:
            self._ground.say_once(tx, events.join_waits(turn.reason), now, node=node)
            if node.state is State.JOINING:
                node = tx.note_progress(node, Happening.WAITED, now, f"waits: {turn.reason}")
            return node, turn.reason
        if turn.founds and tx.claim_value(FOUNDER, node.name) != node.name:
            return node, "another server founds the cluster"
        if node.state is State.JOINING:
            node = tx.note_progress(node, Happening.WAITED, now, "joining k3s")
        node = tx.update_node(node, join_allowed=True, generation=node.generation + 1)
        tx.add_event(events.may_join(turn.reason), now, node=node.name, board=node.board_id)
        return node, turn.reason


def _no_certificate() -> RefusedError:
    return RefusedError(
        401,
        "certificate",
        "this needs the client certificate of an enrolled node",
        "The node was installed again, removed or revoked, or its certificate was replaced: enrol again.",
    )
