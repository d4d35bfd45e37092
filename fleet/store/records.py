"""Rows of the store as frozen values, and how a row becomes one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fleet.lifecycle import Standing, State
from fleet.reimage.kinds import Outcome, ReimageKind
from fleet.secret import Secret
from fleet.spec.model import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardRecord:
    """A board that was seen on the network."""

    id: str
    serial: str | None
    macs: tuple[str, ...]
    revision: int | None
    model: str | None
    first_seen: float
    last_seen: float
    held_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """What is known of one declared node. `status` is the agent's last report as JSON values."""

    name: str
    uuid: str
    role: Role
    board: str
    standing: Standing
    detail: str
    serial: str | None
    mac: str | None
    image_id: str | None
    disk_signature: int | None
    certificate: str | None
    previous_certificate: str | None
    agent_key: str | None
    pending_key: str | None
    approved_key: str | None
    generation: int
    join_allowed: bool
    node_password: Secret
    boot_id: str | None
    boots: int
    status: Mapping[str, Any] | None
    status_sequence: int
    status_at: float | None

    @property
    def state(self) -> State:
        return self.standing.state

    @property
    def has_simulated_k3s(self) -> bool:
        """Whether the node's k3s says of itself that it is the simulator."""
        return "simulator" in str((self.status or {}).get("k3s_version") or "")

    @property
    def board_id(self) -> str | None:
        """Key of its row in `boards`."""
        return board_id(self.serial, self.mac)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntentRecord:
    """A numbered, expiring permission to install one node.

    Attributes:
        installation: Random name of what this intent installs; None in intents of the first table version.
        occupant: JSON of the installation that was found on the disk, and that needs a person's word.
    """

    number: int
    node: str
    opened: float
    expires: float
    attempts: int
    closed: float | None
    why: str | None
    token_sha256: str | None
    installation: str | None
    occupant: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReimageRecord:
    """An order to take a node down, and what became of it.

    Attributes:
        number: Of the intent that it opens; counts with the node's intents.
        by: Who ordered it, `why` for what reason: a person's words, or the policy's.
        image_id: The image that is wanted; None: the cluster's.
        force_drain: Pods that can not be evicted within the limit are deleted.
        was: The node's state when it was ordered.
        progress: JSON values; what a step needs that cannot be taken back is here before that step.
        outcome: None while it is open.
        reason: Of the outcome, for people; or what an open one waits for.
    """

    number: int
    node: str
    kind: ReimageKind
    requested_at: float
    by: str
    why: str
    image_id: str | None
    force_drain: bool
    was: State
    progress: Mapping[str, Any]
    closed_at: float | None
    outcome: Outcome | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldRecord:
    """A place of the fleet lock, and the re-image under which a node took it."""

    node: str
    number: int
    taken_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRecord:
    """A rollout of an image as its row has it; `fleet.rollout.record` knows what the JSON values mean.

    Attributes:
        by: Who ordered it.
        closed_at: None while it is open: running, paused or stopped.
    """

    number: int
    image_id: str
    requested_at: float
    by: str
    settings: Mapping[str, Any]
    steps: tuple[Mapping[str, Any], ...]
    phase: str
    reason: str
    closed_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketRecord:
    """What is known of a ticket; never the ticket itself."""

    sha256: str
    node: str
    intent: int
    attempt: int
    minted_at: float
    used_at: float | None
    used_by: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord:
    """One line of a timeline. `id` grows with time and is never used twice."""

    id: int
    at: float
    node: str | None
    board: str | None
    kind: str
    text: str
    hint: str
    detail: Mapping[str, Any]


def board_id(serial: str | None, mac: str | None) -> str | None:
    """The low half of the serial where one is known (that is all that the firmware shows), else the MAC."""
    return serial[8:] if serial else mac


def node_from_row(row: Mapping[Any, Any]) -> NodeRecord:
    """A row of `nodes` as a value."""
    values = dict(row)
    standing = Standing(
        state=State(values.pop("state")),
        since=values.pop("since"),
        progressed_at=values.pop("progressed_at"),
        attempt=values.pop("attempt"),
    )
    values["role"] = Role(values["role"])
    values["node_password"] = Secret(values["node_password"])
    return NodeRecord(standing=standing, **values)


def board_from_row(row: Mapping[Any, Any]) -> BoardRecord:
    """A row of `boards` as a value."""
    values = dict(row)
    values["macs"] = tuple(values["macs"])
    return BoardRecord(**values)
