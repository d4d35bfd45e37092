"""From the name in a request to the board that asks and the file that it means. Pure: opens nothing."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from pxe.boot.decision import BootAnswer, Hold, Install, LocalDisk, Stage, decide
from pxe.boot.identity import BoardIdentity, identify_directory, merge
from pxe.boot.table import BootTable, BootTree, NodeBootState, Source

# A bootloader that finds these re-flashes itself. They are served only where the node's own tree lists them,
# or the user asked for it (`network.bootloader_updates`); copies that stock images carry in their boot
# partition are not. Source: Raspberry Pi documentation, "EEPROM bootloader", ENABLE_SELF_UPDATE.
SELF_UPDATE: Final = ("pieeprom.*", "vl805.*", "recover*.elf", "recovery.bin")
MAXIMUM_DEPTH: Final = 16
BOOT_IMAGE: Final = ("boot.img", "boot.sig")
"""What a board with HTTP boot or signed boot asks for; made for one install by 'bramble boot-image'."""
NO_SUCH_FILE: Final = "the boot tree has no such file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What a request comes to.

    Args:
        board: who asks.
        node: the node that it is, or None.
        answer: the decision.
        parts: components of the file's name below the board's directory; empty where the name can not be
            served.
    """

    board: BoardIdentity
    node: NodeBootState | None
    answer: BootAnswer
    parts: tuple[str, ...]

    @property
    def name(self) -> str:
        """The file's name without the board's directory, fit for a log."""
        return printable("/".join(self.parts))


@dataclass(frozen=True, slots=True)
class TreeFile:
    """A file of the boot tree: components below its root."""

    root: Path
    parts: tuple[str, ...]


Location = TreeFile | tuple[Source, ...]


def split_name(name: str) -> tuple[str, ...] | None:
    """Components of a requested name; None where it can not be one.

    Double slashes (as Pi 5 bootloaders send them) and a leading slash mean nothing. A backslash or ".." is no
    mistake that a bootloader makes.
    """
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if not parts or len(parts) > MAXIMUM_DEPTH or "\\" in name or "\0" in name or ".." in parts:
        return None
    return parts


def route(name: str, client: BoardIdentity | None, table: BootTable, now: float) -> Route:
    """Who asks for what, and the decision about it.

    Args:
        name: as it stands in the request.
        client: what is known about the client behind the sender's address.
        table: what every node may boot.
        now: UTC seconds.
    """
    parts = split_name(name) or ()
    said = identify_directory(parts[0]) if parts else None
    if said is not None:
        parts = parts[1:]
    board = merge(said or BoardIdentity(), client)
    node = table.find(board)
    return Route(board=board, node=node, answer=decide(board, node, Stage.TFTP, now), parts=parts)


def locate(tree: BootTree, parts: tuple[str, ...]) -> Location | None:
    """Where a node's file comes from: rendered, then extra, then the boot tree; None where it has none."""
    if not parts:
        return None
    name = "/".join(parts)
    if (content := tree.rendered.get(name)) is not None:
        return (content,)
    if (extra := tree.extra.get(name)) is not None:
        return extra if isinstance(extra, tuple) else (extra,)
    if tree.root is None or (is_self_update(parts[-1]) and not tree.bootloader_updates):
        return None
    return TreeFile(tree.root, parts)


def is_still_so(
    earlier: Route, name: str, client: BoardIdentity | None, table: BootTable, now: float
) -> bool:
    """Whether a request would be answered as it was: by the same decision, with the same content.

    Args:
        earlier: the answer that was given.
        name: see `route`, like the rest.
    """
    found = route(name, client, table, now)
    return found.answer == earlier.answer and _content_of(found) == _content_of(earlier)


def _content_of(found: Route) -> Location | None:
    return locate(found.node.tree, found.parts) if found.node is not None else None


def is_self_update(name: str) -> bool:
    """Whether a bootloader that gets this file may re-flash itself."""
    return any(fnmatchcase(name.lower(), pattern) for pattern in SELF_UPDATE)


def explain_missing(found: Route) -> str:
    """Why a request is answered "not found", in words for the timeline. Never sent to the client."""
    match found.answer:
        case LocalDisk() | Hold():
            return found.answer.describe()
        case Install() if not found.parts:
            return "the name can not be served"
        case Install() if is_self_update(found.parts[-1]) and not _serves_updates(found.node):
            return "bootloader updates are not served (network.bootloader_updates)"
        case Install() if found.parts[-1] in BOOT_IMAGE and found.node is not None:
            return (
                f"no boot image was made for intent {found.answer.intent}: "
                f"run 'bramble boot-image --node {found.node.name} --sign-key KEY.pem'"
            )
        case Install():
            return NO_SUCH_FILE


def _serves_updates(node: NodeBootState | None) -> bool:
    return node is not None and node.tree.bootloader_updates


def printable(text: str, limit: int = 120) -> str:
    """Text from the network, fit for a log: one line, no control characters, not endless."""
    clean = "".join(char if char.isprintable() else "?" for char in text)
    return clean if len(clean) <= limit else f"{clean[: limit - 1]}…"
