"""Boot images of nodes: made from what the boot server would serve them, signed, kept where it finds them.

    <directory>/<node>/boot.img  boot.sig  boot.json      boot.json: what the image was made for

An image carries the number of one intent and the server's pin. Once the intent is closed, the server hands it
out no more, whoever asks and however often; for the next intent another image is made.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from bramble.boot_table import ControlAddress, make_boot_table
from fleet.boards import BoardModel
from fleet.boots import NodeBoot
from fleet.files import sync_directory
from imagebuilder.boot_image.pack import BootImage, Progress, make_boot_image
from imagebuilder.boot_image.select import Content, select_files
from imagebuilder.boot_image.sign import render_signature
from imagebuilder.build import Image
from imagebuilder.errors import ImageBuilderError
from pxe.boot.table import BootTable, BootTree

IMAGE: Final = "boot.img"
SIGNATURE: Final = "boot.sig"
RECORD: Final = "boot.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Purpose:
    """What a boot image was made for; the server serves it for nothing else.

    Attributes:
        image_id: The cluster's image that its installer writes.
        intent: The permission that its installer names.
        control, pin: The server that its installer asks, and how it knows it.
    """

    node: str
    image_id: str
    intent: int
    control: str
    pin: str


@dataclass(frozen=True, slots=True)
class MadeImage:
    """One node's boot image in its directory."""

    node: str
    intent: int
    image: BootImage
    signature: Path
    is_signed: bool


def purpose_of(state: NodeBoot, image: Image, control: ControlAddress) -> Purpose | None:
    """What a boot image would have to be made for now; None where the node may not install."""
    if state.install_intent is None:
        return None
    return Purpose(
        node=state.name,
        image_id=image.id,
        intent=state.install_intent,
        control=control.url,
        pin=control.pin,
    )


def find_boot_image(directory: Path, purpose: Purpose | None) -> dict[str, Path]:
    """The files of a node's boot image by the names that a bootloader asks for; empty where none was made for
    exactly this purpose, or one that is half there."""
    if purpose is None:
        return {}
    place = directory / purpose.node
    try:
        record = json.loads((place / RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    files = {name: place / name for name in (IMAGE, SIGNATURE)}
    made_for = record.get("purpose") if isinstance(record, dict) else None
    if made_for != asdict(purpose) or not all(path.is_file() for path in files.values()):
        return {}
    return files


def serve_boot_images(
    table: BootTable, states: Iterable[NodeBoot], image: Image, control: ControlAddress, directory: Path
) -> BootTable:
    """The same table, with the boot images that fit the open intents among the nodes' files."""
    found = {state.name: find_boot_image(directory, purpose_of(state, image, control)) for state in states}
    nodes = tuple(
        replace(node, tree=replace(node.tree, extra={**node.tree.extra, **found[node.name]}))
        if found.get(node.name)
        else node
        for node in table.nodes
    )
    return replace(table, nodes=nodes)


def allow_bootloader_updates(table: BootTable) -> BootTable:
    """The same table for a cluster whose user lets boards re-flash their EEPROM from the image's files."""
    nodes = tuple(replace(node, tree=replace(node.tree, bootloader_updates=True)) for node in table.nodes)
    return replace(table, nodes=nodes)


def fingerprint(directory: Path) -> tuple[tuple[str, int], ...]:
    """Changes when a boot image was made or taken away. A few system calls for each node."""
    try:
        places = sorted(directory.iterdir())
    except OSError:
        return ()
    seen = []
    for place in places:
        try:
            seen.append((place.name, (place / RECORD).stat().st_mtime_ns))
        except OSError:
            continue
    return tuple(seen)


def make_node_boot_image(
    state: NodeBoot,
    board: BoardModel,
    image: Image,
    control: ControlAddress,
    directory: Path,
    *,
    key: RSAPrivateKey | None,
    timestamp: int,
    progress: Progress = lambda text, share: None,
) -> MadeImage:
    """Make boot.img and boot.sig of one node in ``directory/<node>``.

    Args:
        state: What the node may boot.
        board: Its model.
        image: The cluster's image.
        control: The server.
        directory: Where images of nodes are.
        key: None for an unsigned boot.sig, which only a RAM disk without secure boot takes.
        timestamp: Unix seconds, for boot.sig.
        progress: Called with what is done.

    Raises:
        ImageBuilderError: The node may not install, or the image can not be made.
    """
    purpose = purpose_of(state, image, control)
    if purpose is None:
        raise ImageBuilderError(
            f"no install is open for node {state.name}: {state.reason}",
            "A boot image is for one install. Open one first, then run this again.",
        )
    (node,) = make_boot_table([state], image, control).nodes
    files = tree_files(node.tree)
    config = node.tree.rendered["config.txt"].decode()
    place = directory / state.name
    place.mkdir(parents=True, exist_ok=True)
    # What stands there is for another purpose from now on: the record goes first and comes back last.
    (place / RECORD).unlink(missing_ok=True)
    made = make_boot_image(select_files(files, config, board), board, place / IMAGE, progress=progress)
    _write(place / SIGNATURE, render_signature(made.sha256, timestamp, key))
    record = {"purpose": asdict(purpose), "sha256": made.sha256, "signed": key is not None}
    _write(place / RECORD, json.dumps(record, indent=1) + "\n")
    return MadeImage(state.name, purpose.intent, made, place / SIGNATURE, key is not None)


def tree_files(tree: BootTree) -> dict[str, Content]:
    """Everything that a board may read of its boot tree, by name, in the server's own order of precedence."""
    files: dict[str, Content] = {}
    if tree.root is not None:
        for path in sorted(tree.root.rglob("*")):
            if path.is_file() and not path.is_symlink():
                files[path.relative_to(tree.root).as_posix()] = path
    return files | dict(_whole_files(tree)) | dict(tree.rendered)


def _whole_files(tree: BootTree) -> Mapping[str, Path]:
    """The extra files that are one file each; a program in pieces is for other firmware than a Pi's."""
    return {name: source for name, source in tree.extra.items() if isinstance(source, Path)}


def _write(path: Path, text: str) -> None:
    """Durable when it returns: a record that outlives a power cut must not stand beside a torn signature."""
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)
    sync_directory(path.parent)
