"""What the agent is told at birth (node.json) and what it must remember (state.json)."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.errors import AgentError
from agent.files import write_atomically
from agent.protocol import Desired, NodeFile
from agent.wire import MAX_BODY_BYTES, ProtocolError, decode, encode

log = logging.getLogger("bramble.agent")

NODE_FILE_VERSION = 1
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})+")
ROLES = ("server", "agent")
SEQUENCE_BLOCK = 1000
"""Report numbers are reserved in blocks, so that an SD card is not written with every report."""
MAX_SEQUENCE = 2**53
MAX_STATE_BYTES = 4 * MAX_BODY_BYTES
"""An order and what a join leaves to do are kept in it, and each may take as much as a message."""
_REIMAGE = (
    "The file is written into the image; re-image the node, or restore the file from the control server."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """/etc/bramble/node.json: who this node is and whom it trusts."""

    cluster: str
    node: str
    role: str
    control_urls: tuple[str, ...]
    ca_pem: str = dataclasses.field(repr=False)
    serial: str | None = None
    ticket: str | None = dataclasses.field(default=None, repr=False)
    remote_run: bool = False
    """Whether the control server may run commands here; as it was when the node was installed."""


def parse_node_config(data: bytes, where: str = "node.json") -> NodeConfig:
    """Parse node.json; blanks at the end are padding.

    Raises:
        AgentError: the key and what is wrong with it.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise AgentError(f"{where} is not JSON: {exc}", _REIMAGE) from exc
    if not isinstance(value, dict) or value.get("version") != NODE_FILE_VERSION:
        raise AgentError(f"{where}: version {NODE_FILE_VERSION} is expected", _REIMAGE)
    urls = value.get("control_urls")
    if not isinstance(urls, list) or not urls or not all(isinstance(url, str) for url in urls):
        raise AgentError(f"{where}: control_urls must list at least one https URL", _REIMAGE)
    role = _text(value, "role", where)
    if role not in ROLES:
        raise AgentError(f"{where}: role is '{role}', 'server' or 'agent' is expected", _REIMAGE)
    return NodeConfig(
        cluster=_text(value, "cluster", where),
        node=_text(value, "node", where),
        role=role,
        control_urls=tuple(urls),
        ca_pem=_text(value, "ca_pem", where),
        serial=_text(value, "serial", where) if value.get("serial") else None,
        ticket=_parse_ticket(value, where),
        remote_run=value.get("remote_run") is True,
    )


def _parse_ticket(value: dict[str, Any], where: str) -> str | None:
    """A damaged one proves nothing: its node asks without, and a person decides."""
    ticket = value.get("ticket") or ""
    if isinstance(ticket, str) and _HEX.fullmatch(ticket):
        return ticket
    if ticket:
        log.error("%s: the ticket is no hex digits, so it is left out", where)
    return None


def load_node_config(path: Path) -> NodeConfig:
    """Read node.json.

    Raises:
        AgentError: absent, unreadable or malformed.
    """
    try:
        return parse_node_config(path.read_bytes(), str(path))
    except OSError as exc:
        raise AgentError(f"{path} can not be read: {exc.strerror}", _REIMAGE) from exc


def forget_ticket(path: Path) -> None:
    """Rewrite node.json without the ticket: it was used, and nobody shall find it.

    Raises:
        AgentError: the file is not what it was at the start, or can not be written.
    """
    parse_node_config(path.read_bytes(), str(path))
    value = json.loads(path.read_bytes())
    if value.pop("ticket", None) is not None:
        write_atomically(path, json.dumps(value, indent=2).encode() + b"\n", 0o600)


def _text(value: dict[str, Any], key: str, where: str) -> str:
    text = value.get(key)
    if not isinstance(text, str) or not text:
        raise AgentError(f"{where}: {key} is missing or no text", _REIMAGE)
    return text


@dataclass(frozen=True)
class JoinRecord:
    """Join material that was put in place; what is left to do once k3s runs."""

    generation: int
    unit: str
    files_after_ready: tuple[NodeFile, ...] = ()
    remove_after_ready: tuple[str, ...] = ()
    cleaned: bool = False
    started_at: float = 0.0
    """When k3s was started with it, UTC seconds: what its journal told before is of another attempt."""
    pending: str = ""
    """`start` or `restart`: what systemd was not told yet, as far as is known."""


@dataclass(frozen=True)
class AgentState:
    """What must survive a restart. Plain fields: the protocol's codec stores it."""

    sequence_reserved: int = 0
    generation: int = 0
    """The last desired generation that was carried out; never decreases."""
    desired: Desired | None = None
    join: JoinRecord | None = None
    eeprom: int = 0
    """The last EEPROM order that was carried out or refused."""
    update: int = 0
    """The last order to run another release of the agent that was carried out or refused."""
    errand: int = 0
    """The last command that was run for a person; log lines may be asked for again."""
    reboot: int = 0
    """The last order to restart into the installer that was carried out or refused."""


def parse_state(data: bytes) -> AgentState:
    """Parse state.json, perhaps of a newer agent that was rolled back: its numbers count all the same.

    Raises:
        ProtocolError: it is something else.
    """
    state = decode(AgentState, data, newer_peer=True, limit=MAX_STATE_BYTES)
    if b'"generation":' not in data:
        raise ProtocolError("AgentState: field 'generation' is missing")
    return state


class StateStore:
    """Owns state.json and its predecessor. One process at a time (systemd runs one agent).

    Two generations are kept: a file that the disk damaged costs the last change only, not the numbers.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "state.json"
        self._previous = directory / "state.json.previous"
        self._sequence = 0
        self.state = AgentState()
        self.damaged = False
        """True when state.json was there and could not be understood."""

    def load(self) -> None:
        """Read the newest state that can be understood; a fresh one when there is none."""
        found = None
        for path in (self._path, self._previous):
            try:
                found = parse_state(path.read_bytes())
                break
            except FileNotFoundError:
                continue
            except (OSError, ProtocolError):
                self.damaged = True
        self.state = found or AgentState()
        # After damage the lost file may have reserved one more block than its predecessor knows.
        self._sequence = self.state.sequence_reserved + (SEQUENCE_BLOCK if self.damaged else 0)

    def save(self, state: AgentState) -> None:
        """Make `state` the current one, in memory even if the disk refuses. Generations never go back.

        Raises:
            AgentError: it could not be stored.
        """
        self.state = dataclasses.replace(state, generation=max(state.generation, self.state.generation))
        with contextlib.suppress(OSError):
            if not self.damaged:
                self._keep_previous()
        write_atomically(self._path, encode(self.state))
        self.damaged = False

    def next_sequence(self) -> int:
        """The next report number; larger than any that was used before, over restarts.

        Raises:
            AgentError: a new block could not be stored; the number is still used up.
        """
        self._sequence += 1
        if self._sequence > self.state.sequence_reserved:
            reserved = self._sequence + SEQUENCE_BLOCK - 1
            self.save(dataclasses.replace(self.state, sequence_reserved=reserved))
        return self._sequence

    @property
    def sequence(self) -> int:
        """The number that was given out last."""
        return self._sequence

    def count_on_from(self, taken: int) -> bool:
        """Give out larger numbers than `taken`; True where that was not so.

        A service that starts again on a disk that was lost or takes nothing begins with numbers of before.
        """
        if taken > MAX_SEQUENCE:  # no server that counts says so; our own file could not hold it
            return False
        is_behind = taken > self._sequence
        self._sequence = max(taken, self._sequence)
        return is_behind

    def _keep_previous(self) -> None:
        """A second name for the current file, replaced atomically."""
        temporary = self._previous.with_name(self._previous.name + ".link")
        temporary.unlink(missing_ok=True)
        os.link(self._path, temporary)
        temporary.replace(self._previous)
