"""The life of an installed node as its agent tells it: status, desired state, and the material to join k3s.

The caller is known by its client certificate. Who may join when is `fleet.join.turn`; what has to exist in
the cluster before a node is handed its material is made by `fleet.join.preparation`; what it keeps afterwards
is `fleet.join.settings`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, Final

from agent.protocol import (
    MEMBERSHIP_LOST,
    NOT_JOINING,
    Desired,
    JoinMaterial,
    K3sState,
    Problem,
    Status,
    StatusAccepted,
)
from fleet import events, reports_to
from fleet.clones import is_copied, suspend_cloned
from fleet.eeprom.orders import number_of
from fleet.entry.reboot_orders import hear, offered
from fleet.errands import ErrandDesk
from fleet.ground import Ground
from fleet.health.desk import HealthDesk
from fleet.health.pace import JOINING_INTERVAL_S
from fleet.join import founding
from fleet.join.failures import Answer, failure_of
from fleet.join.secrets import BootstrapToken, bootstrap_token
from fleet.join.settings import KeptSettings
from fleet.join.state import JoinState
from fleet.join.turn import HAS_JOINED, WANTS_TO_JOIN, slow_disk_text, turn_of
from fleet.k3s.config import (
    InitialiseCluster,
    JoinServer,
    RestoreCluster,
    Way,
    render_join_material,
    unit_of,
)
from fleet.k3s.versions import Feature, K3sVersion, has
from fleet.lifecycle import Happening, State, allows
from fleet.recovery.state import Recovery
from fleet.recovery.undo import note_restorer_told
from fleet.refusal import RefusedError
from fleet.restored import observe, unobserved, unobserved_servers
from fleet.spec.model import Role
from fleet.store.documents import Document
from fleet.store.records import NodeRecord
from fleet.store.transaction import Transaction
from fleet.timeline import Entry
from fleet.updates.desk import UpdateDesk

MAX_SEQUENCE: Final = 2**53
"""Of every number that a report carries: the store counts on from them, and holds 63 bits."""
MAX_BOOT_ID: Final = 64
READ_WITH_STATUS: Final = ("unobserved.", "eeprom.", "reboot.", reports_to.PREFIX)
"""kv: what is asked of a node with each of its reports, by prefix, in one go by `fleet.health.heartbeats`."""
REMOVED_MEMBER: Final = "removed_member"
TOKEN_REJECTED: Final = "token_rejected"
ETCD_DATA: Final = "/var/lib/rancher/k3s/server/db"


class JoinDesk:
    """Answers enrolled agents."""

    def __init__(self, ground: Ground, updates: UpdateDesk, errands: ErrandDesk) -> None:
        self._ground = ground
        self._updates = updates
        self._errands = errands
        self.settings = KeptSettings(ground)
        self._health = HealthDesk()

    def desired(self, certificate: str | None) -> Desired:
        """What the server wants of the caller."""
        return self.desired_of(certificate)[1]

    def desired_of(self, certificate: str | None) -> tuple[str, Desired]:
        """The caller's name, and what the server wants of it."""
        now = self._ground.clock()
        with self._ground.store.write() as tx:
            node = self._caller(tx, certificate)
            node, reason = self._give_turn(tx, node, now)
            join = JoinState.load(tx, node.name)
            # What it is to keep goes to a node that has joined; one that joins gets it with its material.
            has_some = node.state in HAS_JOINED and join.settings
            files = self.settings.kept(node, join.server) if has_some else ()
        desired = Desired(
            generation=node.generation,
            join=node.join_allowed,
            reason=reason,
            material=join.material,
            files=files,
        )
        return node.name, desired

    def status(self, certificate: str | None, status: Status) -> StatusAccepted:
        """Take a report; one that was taken before changes nothing."""
        self.check_status(certificate, status)
        with self.memory(), self._ground.store.write() as tx:
            answer = self.take_status(tx, certificate or "", status)
        if isinstance(answer, RefusedError):  # raised out here: what it says must be durable
            raise answer
        return answer

    @contextlib.contextmanager
    def memory(self) -> Iterator[None]:
        """Around a transaction in which reports are taken: what is remembered of them goes where it goes."""
        began = self._ground.clock()
        self._health.begin()
        try:
            yield
        except RefusedError:
            raise  # of nobody's agent: nothing was changed
        except BaseException:
            self._health.take_back()
            self._ground.repeats.take_back(began)
            raise

    @staticmethod
    def check_status(certificate: str | None, status: Status) -> None:
        """What can be seen without asking the store.

        Raises:
            RefusedError: No certificate, or a value that cannot be what it says.
        """
        if certificate is None:
            raise _no_certificate()
        for name in ("sequence", "generation", "material"):
            if not 0 <= getattr(status, name) <= MAX_SEQUENCE:
                raise RefusedError(400, "message", f"Status.{name}: {getattr(status, name)} is out of range")
        if len(status.boot_id) > MAX_BOOT_ID or not (
            status.boot_id.isascii() and status.boot_id.isprintable()
        ):
            raise RefusedError(400, "message", "Status.boot_id is no boot id of Linux")

    def take_status(self, tx: Transaction, certificate: str, status: Status) -> StatusAccepted | RefusedError:
        """Take a report in a transaction that others may share.

        Returns:
            The answer; a refusal where something has to be kept with it.

        Raises:
            RefusedError: The certificate is nobody's; nothing was changed.
        """
        now = self._ground.clock()
        node = self._caller(tx, certificate)
        # A second board with a copy of the disk has another boot id: only then is there a need to look.
        if node.boot_id != status.boot_id and is_copied(tx, node, status.hardware):
            suspend_cloned(tx, node, now)
            return _no_certificate()
        node = self._observe(tx, node, status, now)
        if node.boot_id != status.boot_id or status.sequence > node.status_sequence:
            node = self._take(tx, node, status, now)
        node, _reason = self._give_turn(tx, node, now)
        reports_to.note_report(tx, self._ground, node.name)
        eeprom = number_of(tx, node.name)
        update = self._updates.hear(tx, node, status)
        return StatusAccepted(
            generation=node.generation,
            interval_s=self._errands.interval_s(node.name, self._interval_s(node)),
            eeprom=eeprom,
            update=update,
            errand=self._errands.number_for(node.name),
            reboot=offered(tx, node),
            sequence=node.status_sequence,
        )

    def _interval_s(self, node: NodeRecord) -> float:
        if node.state not in WANTS_TO_JOIN:
            return self._ground.pace.steady_s
        return JOINING_INTERVAL_S if node.join_allowed else self._ground.pace.queue_s

    def caller(self, certificate: str | None) -> NodeRecord:
        """The node whose certificate it is. Raises `RefusedError` where it is nobody's."""
        with self._ground.store.write() as tx:
            return self._caller(tx, certificate)

    def joiner(self, certificate: str | None) -> tuple[NodeRecord, JoinState]:
        """The caller, who may have its join material now.

        Raises:
            RefusedError: It is not joining, or it is not its turn.
        """
        with self._ground.store.write() as tx:
            node = self._caller(tx, certificate)
            if node.state not in WANTS_TO_JOIN:
                raise RefusedError(409, NOT_JOINING, f"{node.name} is {node.state}, it does not join")
            if not node.join_allowed:
                raise RefusedError(409, "not-your-turn", f"{node.name} may not join yet")
            return node, JoinState.load(tx, node.name)

    def token_of(self, node: NodeRecord, join: JoinState) -> BootstrapToken | None:
        """What an agent joins with; None: it has the cluster's agent token, or it is a server."""
        version = K3sVersion.find(self._ground.spec.k3s.version)
        if node.role is not Role.AGENT or not has(version, Feature.BOOTSTRAP_TOKENS):
            return None
        return bootstrap_token(self._ground.k3s.server_token, node.uuid, join.material)

    def join_material(self, certificate: str | None) -> JoinMaterial:
        """Tokens and settings for the caller, when it is its turn; the same again while it joins.

        Raises:
            RefusedError: It is not joining, it is not its turn, or there is no server to join.
        """
        ground, now = self._ground, self._ground.clock()
        node, join = self.joiner(certificate)
        founds = self.founds(node)
        if not founds and join.server is None:
            raise RefusedError(409, "no-server", "no server of the cluster is Ready with a known address")
        spec = self.settings.spec_of(node)
        address = str(spec.address) if spec.address else None
        way = self._way(join, founds=founds)
        material = render_join_material(
            ground.spec,
            spec,
            ground.k3s,
            way,
            address=address,
            node_password=node.node_password,
            generation=node.generation,
            version=self.settings.k3s_of(node),
            bootstrap=self.token_of(node, join),
        )
        if REMOVED_MEMBER in join.answered and node.role is Role.SERVER:
            material = dataclasses.replace(material, set_aside=(ETCD_DATA,))
        with ground.store.write() as tx:
            restored = way.recovery if isinstance(way, RestoreCluster) else None
            if founds and not (founding.note_told(tx, node.name) and note_restorer_told(tx, restored)):
                raise RefusedError(409, "not-your-turn", f"{node.name} founds the cluster no longer")
            ground.say_once(tx, events.material_given(unit_of(node.role)), now, node=node)
        return material

    def _way(self, join: JoinState, *, founds: bool) -> Way:
        """How the node gets into the cluster; while one is recovered nobody founds an empty one."""
        if not founds and join.server is not None:
            return JoinServer(join.server)
        with self._ground.store.read() as reader:
            recovery = Recovery.load(reader)
        return RestoreCluster(recovery) if recovery is not None and founds else InitialiseCluster()

    def expect_empty_etcd(self, name: str) -> None:
        """Its member was removed: what its disk may still hold of etcd would only keep k3s from starting."""
        with self._ground.store.write() as tx:
            join = JoinState.load(tx, name)
            if REMOVED_MEMBER not in join.answered:
                join.with_answer(REMOVED_MEMBER).save(tx, name)

    def founds(self, node: NodeRecord) -> bool:
        """Whether it is the one server that may initialise the cluster, and the cluster is not there yet."""
        with self._ground.store.read() as reader:
            return founding.awaited_founder(reader) == node.name

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

    @staticmethod
    def _observe(tx: Transaction, node: NodeRecord, status: Status, now: float) -> NodeRecord:
        """What a report says about the hours that a restored record knows nothing of."""
        if unobserved(tx, node.name) is None:
            return node
        runs_k3s = status.k3s is K3sState.RUNNING
        if node.role is Role.SERVER and runs_k3s and tx.value(founding.FOUNDED) is None:
            # It can only have founded the cluster, or joined the one that another founded: go on with it.
            tx.claim_value(founding.FOUNDER, node.name)
        what = f"its agent reports, k3s is {status.k3s.value}"
        return observe(tx, node, what, now, generation=status.generation)

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
                self._ground.say_once(tx, _problem_entry(problem), now, node=node)
        hear(tx, node.name, status)
        changes["status"] = Document.of(status)  # as a later read gives it
        node = tx.update_node(node, **changes)
        if node.state is State.LOST:
            node = tx.move(node, Happening.HEARD_AGAIN, events.heard_again(), now)
        node = self._health.take(tx, node, status, now)
        if node.state in WANTS_TO_JOIN and node.join_allowed:
            return self._answer_failures(tx, node, status, now)
        if node.state in HAS_JOINED and status.k3s is not K3sState.RUNNING:
            return self._let_rejoin(tx, node, status, now)
        return node

    def _let_rejoin(self, tx: Transaction, node: NodeRecord, status: Status, now: float) -> NodeRecord:
        """A node that can not come back by itself waits for its turn, and joins anew.

        A server whose etcd member is gone never starts with its old data. An agent that lost its kubelet's
        certificate, to a power cut in its first seconds or to a bad disk, has no token any more either; nor
        has one whose card was written without an order, and which was let in all the same. A server of that
        kind is for a person: its member would have to leave etcd first, which takes an order.
        """
        if not allows(node.state, Happening.EXPELLED):
            return node  # it is being re-imaged
        codes = {problem.code for problem in status.problems}
        if node.role is Role.SERVER and REMOVED_MEMBER in codes:
            join, entry = JoinState(answered=(REMOVED_MEMBER,)), events.expelled()
        elif node.role is Role.AGENT and TOKEN_REJECTED in codes:
            join, entry = JoinState(), events.lost_its_certificate()
        elif node.role is Role.AGENT and MEMBERSHIP_LOST in codes:
            join, entry = JoinState(), events.lost_its_membership()
        else:
            return node
        join.save(tx, node.name)
        node = tx.move(node, Happening.EXPELLED, entry, now)
        return tx.update_node(node, join_allowed=False)

    def _answer_failures(self, tx: Transaction, node: NodeRecord, status: Status, now: float) -> NodeRecord:
        """Do what helps by itself, once for each class; k3s goes on trying with the new material."""
        join = JoinState.load(tx, node.name)
        if status.material < join.material:
            return node  # it does not have the last answer yet: what it reports is of before
        for problem in status.problems:
            failure = failure_of(problem.code)
            if failure is None or problem.code in join.answered:
                continue
            if failure.answer not in (Answer.NEW_MATERIAL, Answer.CLEAR_ETCD):
                continue
            join = dataclasses.replace(join.with_answer(problem.code), material=node.generation + 1)
            join.save(tx, node.name)
            tx.add_event(events.join_answered(problem.code), now, node=node.name, board=node.board_id)
            return tx.update_node(node, generation=node.generation + 1)
        return node

    def _give_turn(self, tx: Transaction, node: NodeRecord, now: float) -> tuple[NodeRecord, str]:
        """Let a joining node begin when it is its turn; its generation grows at that moment."""
        if node.state not in WANTS_TO_JOIN:
            return node, str(node.state)
        if node.join_allowed:
            return node, "may join"
        founder, founded = tx.value(founding.FOUNDER), tx.value(founding.FOUNDED) is not None
        records = tx.nodes()
        policy = self._ground.spec.policy.join
        turn = turn_of(node, records, founder=founder, founded=founded, policy=policy)
        if not turn.allowed:
            self._ground.say_once(tx, events.join_waits(turn.reason), now, node=node)
            if node.state is State.JOINING:
                node = tx.note_progress(node, Happening.WAITED, now, f"waits: {turn.reason}")
            return node, turn.reason
        lost = [name for name in unobserved_servers(tx) if name != node.name] if turn.founds else []
        if lost:
            reason = f"the record is a backup's, and {lost[0]}, not seen since, may have founded the cluster"
            self._ground.say_once(tx, events.join_waits(reason), now, node=node)
            return node, reason
        if turn.founds and not founding.claim(tx, node.name):
            return node, "another server founds the cluster"
        if slow := slow_disk_text(node):
            self._ground.say_once(tx, events.slow_disk(slow), now, node=node)
        if node.state is State.JOINING:
            node = tx.note_progress(node, Happening.WAITED, now, "joining k3s")
        server = None if turn.founds else self.settings.server_for(node, records)
        generation = node.generation + 1
        answered = tuple(code for code in JoinState.load(tx, node.name).answered if code == REMOVED_MEMBER)
        join = JoinState(
            material=generation,
            server=server,
            settings=self.settings.digest(node, server),
            answered=answered,
        )
        join.save(tx, node.name)
        node = tx.update_node(node, join_allowed=True, generation=generation)
        tx.add_event(events.may_join(turn.reason), now, node=node.name, board=node.board_id)
        return node, turn.reason


def _no_certificate() -> RefusedError:
    return RefusedError(
        401,
        "certificate",
        "this needs the client certificate of an enrolled node",
        "The node was installed again, removed or revoked, or its certificate was replaced: enrol again.",
    )


def _problem_entry(problem: Problem) -> Entry:
    failure = failure_of(problem.code)
    return events.problem(
        problem.code,
        problem.message,
        problem.hint,
        alarms=failure is not None and failure.alarms,
        lines=problem.lines,
    )
