"""The snapshot of what every node may boot. The composition root makes it; DHCP, TFTP and HTTP only read it.

Values only, so that it travels to the TFTP worker process as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Address
from pathlib import Path
from typing import TypeAlias

from fleet.boards import MacAddress, Serial
from pxe.boot.identity import BoardIdentity

Source: TypeAlias = Path | bytes
"""One piece of a served file: a whole file, or bytes."""


@dataclass(frozen=True, slots=True)
class BootTree:
    """The files that one node may read over TFTP, in order of precedence.

    Args:
        root: the image's boot tree; only regular files below it are served, links are not followed.
        rendered: relative name → the node's own content (config.txt, cmdline.txt). Empty is a valid file.
        extra: relative name → a file from elsewhere, or pieces that are served as one file.
        bootloader_updates: whether the root's pieeprom.* and their like are served too.
    """

    root: Path | None = None
    rendered: Mapping[str, bytes] = field(default_factory=dict)
    extra: Mapping[str, Path | tuple[Source, ...]] = field(default_factory=dict)
    bootloader_updates: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeBootState:
    """One declared node and what it may do now.

    Args:
        name: the node's name.
        mac: declared address, or the one that its board has shown; None where unknown.
        serial: declared serial, or the one that its board has shown; None where unknown.
        address: the address that DHCP gives it; None for one from the pool.
        install_intent: number of the open permission to install; None where there is none.
        intent_expires: when that permission ends, UTC seconds; None for no end.
        reason: why it stands so, in words for a person ("installed on 2026-11-21", "waiting for approval").
        hold: nothing is open because somebody has to decide first.
        tree: what it boots when it installs.
    """

    name: str
    mac: MacAddress | None = None
    serial: Serial | None = None
    address: IPv4Address | None = None
    install_intent: int | None = None
    intent_expires: float | None = None
    reason: str = ""
    hold: bool = False
    tree: BootTree = field(default_factory=BootTree)


@dataclass(frozen=True)
class BootTable:
    """All nodes, and the image files that HTTP serves.

    Args:
        nodes: every declared node.
        images: "<image id>/<file>" → the file; the whole list of what HTTP gives out.
    """

    nodes: tuple[NodeBootState, ...] = ()
    images: Mapping[str, Path] = field(default_factory=dict)

    @cached_property
    def _by_serial(self) -> dict[int, NodeBootState]:
        return {node.serial.low: node for node in self.nodes if node.serial is not None}

    @cached_property
    def _by_mac(self) -> dict[MacAddress, NodeBootState]:
        return {node.mac: node for node in self.nodes if node.mac is not None}

    @cached_property
    def _by_address(self) -> dict[IPv4Address, NodeBootState]:
        return {node.address: node for node in self.nodes if node.address is not None}

    @property
    def reserved(self) -> Mapping[IPv4Address, NodeBootState]:
        """Address → the node that it belongs to; no other client may have it."""
        return self._by_address

    def find(self, board: BoardIdentity) -> NodeBootState | None:
        """The node that a board is: by its serial first, then by its MAC address."""
        node = self._by_serial.get(board.serial_low) if board.serial_low is not None else None
        if node is None and board.mac is not None:
            node = self._by_mac.get(board.mac)
        return node
