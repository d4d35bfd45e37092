"""Network boots: what each node may boot, and what the boot server saw.

Knows nothing of DHCP or TFTP: the composition root turns the boot server's events into `BootReport`s, and
`NodeBoot`s into its snapshot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Any, Final

from fleet import events
from fleet.boards import MacAddress, Revision, Serial
from fleet.enrolment import Recognition
from fleet.ground import KEEPS_INTENT, Ground, Repeats, is_usable
from fleet.images import wanted_images
from fleet.lifecycle import MAX_ATTEMPTS, Happening, State, allows
from fleet.roster import recognise
from fleet.sightings import MAX_HELD_BOARDS, held_reason, learned_identity, record_sighting
from fleet.spec.model import ClusterSpec, NodeSpec
from fleet.store.database import Store
from fleet.store.records import BoardRecord, IntentRecord, NodeRecord, board_id
from fleet.store.transaction import Transaction
from fleet.timeline import Entry, Kind

SEEN_INTERVAL_S: Final = 10.0
"""How often a board's "last seen" is written while it talks."""
SAME_BOOT_S: Final = 5.0
"""Two transfers of the kernel that lie closer together belong to one boot: the firmware asked again."""
MAX_PENDING: Final = 2000
"""Entries that wait for the next flush; a flood beyond it is counted and dropped."""

MAX_BOOT_EVENTS: Final = 5000
"""Boot lines that a node's timeline keeps, the newest: a board that boots for ever must not fill the disk."""
TRIM_INTERVAL_S: Final = 60.0
MAX_STRANGER_EVENTS: Final = 20_000
"""Lines of all boards that are no node's, together: about 4 MB."""
STRANGER_LINES_A_MINUTE: Final = 600
"""More than this is a flood, and not worth the disk."""


class BootStage(StrEnum):
    """How far a network boot is."""

    SEEN = "seen"
    """A DHCP request or a file request: the board is on and asks."""
    KERNEL = "kernel"
    """It has the installer's kernel: an attempt to install begins."""
    NOTE = "note"
    """A line for the timeline that is no sign of a board: never a reason to hold one or to open an intent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootReport:
    """One observation of the boot server.

    Attributes:
        at: UTC seconds.
        model: What the board is, for people; empty where it does not say.
        text: The line for the timeline; empty for none.
        kind: Of that line.
        detail: More about it, for JSON.
    """

    stage: BootStage
    at: float
    serial: Serial | None = None
    mac: MacAddress | None = None
    revision: Revision | None = None
    model: str = ""
    text: str = ""
    hint: str = ""
    kind: Kind = Kind.BOOT
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeBoot:
    """What one node may boot from the network.

    Attributes:
        mac: Declared; None where cluster.yaml has none.
        serial: Declared, else learned from its board.
        install_intent: Number of the intent under which it may install; None: it boots its own disk. For a
            node that was never seen this is the intent that its first sign will open, so that the answer does
            not wait for the record.
        expires: When that ends, UTC seconds; None: open end.
        hold: Nothing is open because a person has to decide first.
        reason: Why, for people.
        image_id: The image that it installs; None: the cluster's.
    """

    name: str
    mac: MacAddress | None
    serial: Serial | None
    address: IPv4Address | None
    install_intent: int | None
    expires: float | None
    hold: bool
    reason: str
    image_id: str | None = None


def read_boots(store: Store, spec: ClusterSpec, now: float) -> list[NodeBoot]:
    """What every declared node that the store knows may boot, in the order of cluster.yaml."""
    with store.read() as reader:
        records = {record.name: record for record in reader.nodes()}
        intents = reader.open_intents()
        last = reader.last_intent_numbers()
        images = wanted_images(reader.open_reimages())
    boots = (
        _node_boot(node, records[node.name], intents.get(node.name), last.get(node.name, 0) + 1, now)
        for node in spec.nodes
        if node.name in records
    )
    return [replace(boot, image_id=images.get(boot.name)) for boot in boots]


def boots_before_the_first_start(spec: ClusterSpec) -> list[NodeBoot]:
    """What nodes may boot that no server has recorded yet: their first sign will open intent 1."""
    return [
        NodeBoot(
            name=node.name,
            mac=node.mac,
            serial=node.serial,
            address=node.address,
            install_intent=1,
            expires=None,
            hold=False,
            reason="declared, never installed",
        )
        for node in spec.nodes
    ]


class BootDesk:
    """Keeps the record of network boots."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._pending: list[tuple[Entry, float, str | None, str]] = []
        self._stranger_minute, self._stranger_lines = 0, 0
        self._untrimmed: set[str] = set()
        self._trimmed_at = float("-inf")
        self._seen: dict[str, float] = {}
        self._repeats = Repeats(SEEN_INTERVAL_S)
        self.dropped = 0

    def states(self) -> list[NodeBoot]:
        """What every declared node may boot, in the order of cluster.yaml."""
        return read_boots(self._ground.store, self._ground.spec, self._ground.clock())

    def record(self, report: BootReport) -> None:
        """Take note of one observation; what changes a node's state is durable when this returns."""
        serial, mac = report.serial, report.mac
        key = board_id(serial.text if serial else None, str(mac) if mac else None)
        if key is None:
            return
        match = recognise(self._ground.spec.nodes, serial, (mac,) if mac else ())
        is_sighting = report.stage is not BootStage.NOTE
        if match.node is None:
            if is_sighting:
                self._record_stranger(report, key, match.recognition)
            if is_sighting or report.kind is not Kind.BOOT:
                self._queue(report, None, key)
            return
        if is_sighting and (self._is_due(key, report.at) or self._changes_state(report, match.node.name)):
            self._record_node(report, match.node.name, key)
        self._queue(report, match.node.name, key)

    def flush(self) -> None:
        """Write the entries that waited, in one transaction."""
        if not self._pending:
            return
        now = self._ground.clock()
        self._untrimmed |= {node for _entry, _at, node, _board in self._pending if node is not None}
        is_due = now - self._trimmed_at >= TRIM_INTERVAL_S
        with self._ground.store.write() as tx:
            for entry, at, node, board in self._pending:
                if node is not None or tx.board(board) is not None:
                    tx.add_event(entry, at, node=node, board=board)
            for node in self._untrimmed if is_due else ():
                tx.trim_events(node, Kind.BOOT, MAX_BOOT_EVENTS)
            if is_due:
                tx.trim_strangers(MAX_STRANGER_EVENTS)
        self._pending.clear()
        if is_due:
            self._untrimmed.clear()
            self._trimmed_at = now

    def _queue(self, report: BootReport, node: str | None, key: str) -> None:
        if not report.text or not self._repeats.is_new((key, report.text), report.at):
            return
        if len(self._pending) >= MAX_PENDING or (node is None and not self._stranger_may_write(report.at)):
            self.dropped += 1
            return
        entry = Entry(kind=report.kind, text=report.text, hint=report.hint, detail=report.detail)
        self._pending.append((entry, report.at, node, key))

    def _stranger_may_write(self, now: float) -> bool:
        minute = int(now // 60)
        if minute != self._stranger_minute:
            self._stranger_minute, self._stranger_lines = minute, 0
        self._stranger_lines += 1
        return self._stranger_lines <= STRANGER_LINES_A_MINUTE

    def _is_due(self, key: str, now: float) -> bool:
        if now - self._seen.get(key, float("-inf")) < SEEN_INTERVAL_S:
            return False
        if len(self._seen) > 2 * MAX_HELD_BOARDS:
            self._seen.clear()
        self._seen[key] = now
        return True

    def _changes_state(self, report: BootReport, name: str) -> bool:
        if report.stage is BootStage.KERNEL:
            return True
        with self._ground.store.read() as reader:
            return reader.require_node(name).state is State.DECLARED

    def _record_node(self, report: BootReport, name: str, key: str) -> None:
        ground = self._ground
        with ground.store.write() as tx:
            node = tx.require_node(name)
            seen: dict[str, str] = {}
            # With a revision code it comes from option 97, which names serial and MAC in one. A file name is
            # anybody's claim.
            if report.revision is not None:
                macs = (report.mac,) if report.mac else ()
                seen = learned_identity(node, ground.require_spec(name), report.serial, macs)
            if seen:
                node = tx.update_node(node, **seen)
            record_sighting(tx, _board_of(report, key, Recognition.DECLARED))
            before = tx.open_intent(name)
            node, intent = ground.ensure_intent(tx, node, report.at)
            changed = bool(seen) or intent != before
            if report.stage is BootStage.KERNEL:
                changed |= self._begin_attempt(tx, node, report.at)
        if changed:
            ground.on_boot_change()

    def _begin_attempt(self, tx: Transaction, node: NodeRecord, now: float) -> bool:
        """Count a boot of the installer; the one beyond the cap quarantines the node."""
        intent = tx.open_intent(node.name)
        if intent is None or not allows(node.state, Happening.BOOT_STARTED):
            return False
        repeated = node.state is State.NETBOOTING and node.standing.attempt > 0
        if repeated and now - node.standing.progressed_at < SAME_BOOT_S:
            return False
        if node.standing.attempt >= MAX_ATTEMPTS and node.state is not State.PENDING:
            tx.close_intent(intent, f"{MAX_ATTEMPTS} attempts", now)
            tx.move(node, Happening.EXHAUSTED, events.quarantined(node.name), now)
            return True
        attempt = node.standing.attempt + (node.state is not State.PENDING)
        moved = tx.move(node, Happening.BOOT_STARTED, events.attempt_started(attempt), now)
        tx.update_intent(intent, attempts=moved.standing.attempt, token_sha256=None, occupant=None)
        return False

    def _record_stranger(self, report: BootReport, key: str, recognition: Recognition) -> None:
        """Keep that it was seen, and when last."""
        if not self._is_due(key, report.at):
            return
        with self._ground.store.write() as tx:
            recorded = record_sighting(tx, _board_of(report, key, recognition))
        if not recorded:
            self.dropped += 1


def _board_of(report: BootReport, key: str, recognition: Recognition) -> BoardRecord:
    return BoardRecord(
        id=key,
        serial=report.serial.text if report.serial else None,
        macs=(str(report.mac),) if report.mac else (),
        revision=report.revision.code if report.revision else None,
        model=report.model or None,
        first_seen=report.at,
        last_seen=report.at,
        held_reason=held_reason(recognition),
    )


def _node_boot(
    node: NodeSpec, record: NodeRecord, intent: IntentRecord | None, next_number: int, now: float
) -> NodeBoot:
    number: int | None = None
    expires: float | None = None
    reason = str(record.state)
    if intent is not None and is_usable(intent, now) and not record.state.is_installed:
        # The content server would refuse the rest of an image to an installer in the middle of it.
        number, expires = intent.number, None if record.state in KEEPS_INTENT else intent.expires
        reason = f"intent {number} is open"
    elif record.state.awaits_install:
        # An intent that expired and is still open is extended by the node's next sign.
        number, reason = intent.number if intent else next_number, "declared, never installed"
    elif record.state.is_installed:
        reason = "installed"
    # The boot server holds a board that shows another serial or MAC than these. So a learned MAC is not
    # handed on: it could only veto. A learned serial is: beside another DHCP server, file names hold nothing
    # else to find a node by that is declared by its MAC, and the board's next request corrects it.
    serial = node.serial or (Serial.parse(record.serial) if record.serial else None)
    return NodeBoot(
        name=node.name,
        mac=node.mac,
        serial=serial,
        address=node.address,
        install_intent=number,
        expires=expires,
        hold=record.state is State.QUARANTINED,
        reason=reason,
    )
