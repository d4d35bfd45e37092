"""What does this board get to boot? One pure function, asked by DHCP, TFTP and HTTP alike.

The answer decides which bytes are served, never whether a board is answered: a board that may not install
gets a lease and then "not found" at once, which sends it to its own disk within milliseconds. Silence would
cost it DHCP_TIMEOUT (45 s).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from pxe.boot.identity import BoardIdentity
from pxe.boot.table import NodeBootState


class Stage(StrEnum):
    """Who asks."""

    DHCP = "DHCP"
    TFTP = "TFTP"
    HTTP = "HTTP"


@dataclass(frozen=True, slots=True)
class Install:
    """Serve the installer; `intent` is the number of the permission."""

    intent: int

    def describe(self) -> str:
        return f"it gets the installer (intent {self.intent})"


@dataclass(frozen=True, slots=True)
class LocalDisk:
    """Serve nothing: the board goes on to its own disk."""

    reason: str

    def describe(self) -> str:
        return f"it boots its own disk: {self.reason}"


@dataclass(frozen=True, slots=True)
class Hold:
    """Serve nothing, and tell a person: somebody has to decide."""

    reason: str

    def describe(self) -> str:
        return f"it is held: {self.reason}"


BootAnswer: TypeAlias = Install | LocalDisk | Hold


def decide(board: BoardIdentity, node: NodeBootState | None, stage: Stage, now: float) -> BootAnswer:
    """What a board may boot.

    Args:
        board: who asks, as far as known.
        node: the node that `BootTable.find` sees in it, or None.
        stage: which service asks. Image files over HTTP are public bytes whose digests come over TLS, so a
            client that is not known to be a board gets them: beside another DHCP server most addresses are
            unknown.
        now: UTC seconds.
    """
    if node is None:
        if stage is Stage.HTTP:
            return Install(intent=0)
        return Hold("no node in cluster.yaml has its serial or MAC address")
    if (conflict := _conflict(board, node)) is not None:
        return Hold(conflict)
    if node.hold:
        return Hold(node.reason or "it waits for a decision")
    if node.install_intent is None:
        return LocalDisk(node.reason or "no install is open for it")
    if node.intent_expires is not None and now >= node.intent_expires:
        return LocalDisk(f"the permission to install (intent {node.install_intent}) has expired")
    return Install(node.install_intent)


def _conflict(board: BoardIdentity, node: NodeBootState) -> str | None:
    """Serial and MAC address that do not belong together: a swapped board, or a false claim."""
    if board.mac is not None and node.mac is not None and board.mac != node.mac:
        return f"it shows the serial of node {node.name}, but the MAC address {board.mac} and not {node.mac}"
    if board.serial_low is not None and node.serial is not None and board.serial_low != node.serial.low:
        return (
            f"it has the MAC address of node {node.name}, "
            f"but the serial …{board.serial_low:08x} and not …{node.serial.prefix}"
        )
    return None
