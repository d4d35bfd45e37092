"""What is shown of the fleet, as plain values: the same from a running server and from the file alone."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.proofs import fingerprint
from fleet.boards import BoardModel
from fleet.complaints import Complaint, complaint_of
from fleet.find import find_subject
from fleet.health.conditions import TRAITS
from fleet.health.desk import Held, held_by, held_by_all
from fleet.lock import read_holds
from fleet.printable import printable, size_text
from fleet.reimage.views import UnsteadyView, unsteady_views
from fleet.store.database import Store
from fleet.store.records import BoardRecord, EventRecord, NodeRecord, RolloutRecord, board_id

_VERSION = re.compile(r"\bv\d+\.\d+\.\d+\S*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionView:
    """What is not as it should be with a node; `condition` is its name in metrics and Kubernetes."""

    condition: str
    words: str
    evidence: str
    hint: str
    since: float
    degrades: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """One node for a table. `since` is UTC seconds; `k3s` is empty until its agent has told.

    Attributes:
        complaint: What its last failure says, and in `mend` what to do about it; "" where nothing is to mend.
        revoked: A person took everything back that it was given, and did not approve it again.
    """

    name: str
    board: str
    role: str
    state: str
    since: float
    attempt: int
    detail: str
    k3s: str
    serial: str | None
    mac: str | None
    image_id: str | None
    boots: int
    fingerprint: str | None
    conditions: tuple[ConditionView, ...] = ()
    complaint: str = ""
    mend: str = ""
    revoked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBoardView:
    """One board that is no node's."""

    board: str
    model: str
    serial: str | None
    macs: tuple[str, ...]
    first_seen: float
    last_seen: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventView:
    """One line of a timeline."""

    id: int
    at: float
    node: str | None
    board: str | None
    kind: str
    text: str
    hint: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetView:
    """Everything that `bramble nodes` shows."""

    nodes: tuple[NodeView, ...]
    held: tuple[HeldBoardView, ...]
    stuck: tuple[str, ...] = ()
    """Nodes whose re-image came to nothing: they keep others of their role from being taken down."""
    unsteady: tuple[UnsteadyView, ...] = ()
    """Re-images with a step that is neither done nor given up, again and again."""
    rollout: RolloutView | None = None
    """The rollout that has not ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutView:
    """A rollout in a line. `phase` is `running`, `paused` or `stopped`."""

    number: int
    image_id: str
    phase: str
    reason: str
    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """One node, or one held board, and what happened to it."""

    node: NodeView | None
    board: HeldBoardView | None
    facts: dict[str, str]
    events: tuple[EventView, ...]


def fleet_view(store: Store) -> FleetView:
    """All nodes and all held boards."""
    with store.read() as reader:
        ill, revoked = held_by_all(reader), reader.revoked_nodes()
        return FleetView(
            nodes=tuple(
                node_view(
                    node,
                    ill.get(node.name, ()),
                    complaint_of(reader, node),
                    revoked=node.name in revoked,
                )
                for node in reader.nodes()
            ),
            held=tuple(map(held_view, reader.held_boards())),
            stuck=tuple(hold.node for hold in read_holds(reader) if hold.stuck),
            unsteady=unsteady_views(reader),
            rollout=rollout_view(reader.open_rollout()),
        )


def rollout_view(record: RolloutRecord | None) -> RolloutView | None:
    """A rollout in a line; None where there is none."""
    if record is None:
        return None
    return RolloutView(
        number=record.number,
        image_id=record.image_id,
        phase=record.phase,
        reason=record.reason,
        done=sum(step["state"] == "done" for step in record.steps),
        total=len(record.steps),
    )


def timeline_view(store: Store, name: str, since: int = 0) -> Timeline | None:
    """The timeline of a node by its name, or of any board by its serial or MAC address."""
    with store.read() as reader:
        found = find_subject(reader, name)
        if isinstance(found, NodeRecord):
            node = found
            # Also what its board did before the node was declared; both names of a board that showed its MAC
            # first.
            own = {event.id: event for event in reader.timeline(node=node.name, since=since)}
            for key in {board_id(node.serial, None), board_id(None, node.mac)} - {None}:
                earlier = reader.timeline(board=key, since=since)
                own |= {event.id: event for event in earlier if event.node in (None, node.name)}
            events = sorted(own.values(), key=lambda event: (event.at, event.id))
            view = node_view(
                node,
                held_by(reader, node.name),
                complaint_of(reader, node),
                revoked=reader.is_refused(node.name),
            )
            return Timeline(node=view, board=None, facts=_facts(node), events=tuple(map(event_view, events)))
        if found is None:
            return None
        events = reader.timeline(board=found.id, since=since)
        return Timeline(node=None, board=held_view(found), facts={}, events=tuple(map(event_view, events)))


def as_json(value: Any) -> Any:
    """A view as JSON values."""
    return dataclasses.asdict(value)


def node_view(
    node: NodeRecord, held: Iterable[Held] = (), complaint: Complaint | None = None, *, revoked: bool = False
) -> NodeView:
    return NodeView(
        name=node.name,
        board=node.board,
        role=node.role.value,
        state=node.state.value,
        since=node.standing.since,
        attempt=node.standing.attempt,
        detail=node.detail,
        k3s=k3s_text(node),
        serial=node.serial,
        mac=node.mac,
        image_id=node.image_id,
        boots=node.boots,
        fingerprint=fingerprint(node.pending_key) if node.pending_key else None,
        conditions=tuple(map(_condition_view, held)),
        complaint=complaint.text if complaint else "",
        mend=complaint.mend if complaint else "",
        revoked=revoked,
    )


def _condition_view(held: Held) -> ConditionView:
    trait = TRAITS[held.condition]
    return ConditionView(
        condition=held.condition.value,
        words=trait.words,
        evidence=held.evidence,
        hint=trait.hint,
        since=held.since,
        degrades=trait.degrades,
    )


def k3s_text(node: NodeRecord) -> str:
    """`v1.33.5+k3s1`, with `(simulator)` where the node's k3s says that it is one."""
    told = str((node.status or {}).get("k3s_version") or "")
    found = _VERSION.search(told)
    version = printable(found.group() if found else told, 40)
    return f"{version} (simulator)" if version and node.has_simulated_k3s else version


def held_view(board: BoardRecord) -> HeldBoardView:
    return HeldBoardView(
        board=board.id,
        model=printable(board.model or "unknown model"),
        serial=board.serial,
        macs=board.macs,
        first_seen=board.first_seen,
        last_seen=board.last_seen,
        reason=board.held_reason or "",
    )


def event_view(event: EventRecord) -> EventView:
    return EventView(
        id=event.id,
        at=event.at,
        node=event.node,
        board=event.board,
        kind=event.kind,
        text=event.text,
        hint=event.hint,
        detail=event.detail,
    )


def _facts(node: NodeRecord) -> dict[str, str]:
    """What is known of the node, in the order in which it is shown."""
    status = node.status or {}
    hardware, health = status.get("hardware") or {}, status.get("health") or {}
    firmware = health.get("firmware") or {}
    facts = {
        "board": BoardModel.parse(node.board).title,
        "role": node.role.value,
        "serial": node.serial or "",
        "mac": node.mac or "",
        "image": (node.image_id or "")[:12],
        "boots": str(node.boots) if node.boots else "",
        "reported model": str(hardware.get("model") or ""),
        "memory": _size(hardware.get("memory_bytes")),
        "addresses": ", ".join(status.get("addresses") or ()),
        "k3s": k3s_text(node),
        "in the way": "; ".join(f"{one['code']}: {one['message']}" for one in status.get("problems") or ()),
        "synced writes": _number(status.get("disk_sync_ms"), "ms (99 of 100)"),
        "temperature": _number(health.get("temperature_c"), "°C"),
        "load": _number(health.get("load1"), ""),
        "free on /": _size(health.get("root_free_bytes")),
        "storage wear": _number(health.get("storage_wear_percent"), "%"),
        "throttled": f"{bits:#x}" if (bits := health.get("throttled")) is not None else "",
        "bootloader": str(firmware.get("version") or "")[:12],
        "booted partition": str(firmware.get("partition") or ""),
    }
    return {name: printable(text) for name, text in facts.items() if text}


def _size(value: object) -> str:
    return size_text(value) if isinstance(value, int) else ""


def _number(value: object, unit: str) -> str:
    return f"{value:.1f} {unit}".strip() if isinstance(value, int | float) else ""
