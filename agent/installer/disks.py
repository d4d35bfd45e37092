"""Which disk is meant. Never a guess: one match, or a refusal that says what was found."""

from __future__ import annotations

from collections.abc import Sequence

from agent.errors import AgentError
from agent.hardware import Disk, format_size
from agent.protocol import DiskSelector

REMOVABLE_KINDS = frozenset({"sd", "usb"})
"""Kinds whose name is the consent to write to a removable medium."""


class NoSuchDisk(AgentError):
    """No disk matches yet; a slow controller may still bring one."""


def choose_disk(disks: Sequence[Disk], selector: DiskSelector, image_bytes: int) -> Disk:
    """The one disk that the plan names.

    Raises:
        NoSuchDisk: none matches.
        AgentError: several match, or the one that does is too small or removable against the declaration.
    """
    matches = [disk for disk in disks if _matches(disk, selector)]
    wanted = f"disk: {selector.kind}" + (f" with serial {selector.serial}" if selector.serial else "")
    found = "; ".join(disk.describe() for disk in disks) or "no disk at all"
    if not matches:
        raise NoSuchDisk(
            f"cluster.yaml says {wanted}, the board has: {found}",
            "Check that the disk is seated and powered, or correct the node's disk in cluster.yaml.",
        )
    if len(matches) > 1:
        raise AgentError(
            f"cluster.yaml says {wanted}, and {len(matches)} disks match: {found}",
            "Name one by its serial: disk: {kind: " + selector.kind + ", serial: …}.",
        )
    disk = matches[0]
    if disk.removable and selector.kind not in REMOVABLE_KINDS:
        raise AgentError(
            f"{disk.describe()} is removable, and cluster.yaml says {wanted}",
            "A removable medium is written only where the declared kind is sd or usb.",
        )
    if disk.size_bytes < image_bytes:
        raise AgentError(
            f"{disk.describe()} is smaller than the image, which needs {format_size(image_bytes)}",
            "Use a larger disk, or make the image smaller.",
        )
    return disk


def _matches(disk: Disk, selector: DiskSelector) -> bool:
    if disk.kind != selector.kind:
        return False
    return selector.serial is None or disk.serial.strip().lower() == selector.serial.strip().lower()
