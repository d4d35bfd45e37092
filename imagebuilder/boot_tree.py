"""The boot tree: the boot partition's files as a board fetches them over the network, to start the installer.

It is not a plain copy. The installer's initramfs belongs to one kernel, while boards of the Pi 5 family would
take another where there are two; and with ``os_prefix`` (Ubuntu from 25.10) the files lie in a folder. So the
files of the system in use stand at the top, and config.txt names that one kernel for all boards.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imagebuilder.disk.fat import FatVolume
from imagebuilder.disk.source import ByteSource
from imagebuilder.errors import ImageBuilderError
from imagebuilder.inspect.facts import BoardFacts, ImageFacts

_DROPPED: Final = re.compile(r"\s*(os_prefix|kernel|initramfs|auto_initramfs|cmdline)\b", re.I)
KERNEL_NOTE: Final = "# One kernel for every board: the one that the installer's initramfs belongs to."


@dataclass(frozen=True, slots=True, kw_only=True)
class BootTree:
    """What was written: the kernel's name at the top of the tree, and where in it the base's initramfs is."""

    kernel: str
    initramfs: Path


def write_boot_tree(source: ByteSource, facts: ImageFacts, target: Path) -> BootTree:
    """Copy the boot partition's files into the new directory ``target``.

    Raises:
        ImageBuilderError: no board has both a kernel and an initramfs.
    """
    board = _board(facts.boards)
    assert board.kernel is not None
    assert board.initramfs is not None
    others = {facts.tryboot_prefix} - {None, "", board.os_prefix}
    target.mkdir()
    volume = FatVolume(source, facts.boot.offset)
    for entry in volume.walk():
        name = entry.path.lstrip("/")
        if any(other is not None and f"{name}/".startswith(other) for other in others):
            continue
        place = target / name.removeprefix(board.os_prefix)
        if entry.is_directory:
            if f"{name}/" != board.os_prefix:
                place.mkdir(exist_ok=True)
            continue
        with place.open("wb") as file:
            file.writelines(volume.pieces(entry.path))
    kernel = board.kernel.removeprefix(board.os_prefix)
    config = target / "config.txt"
    config.write_text(netboot_config(config.read_text("utf-8", "replace"), kernel), "utf-8")
    return BootTree(kernel=kernel, initramfs=target / board.initramfs.removeprefix(board.os_prefix))


def netboot_config(text: str, kernel: str) -> str:
    """config.txt for the network boot: one kernel, no prefix; the initramfs is the installer's to add."""
    kept = [line for line in text.replace("\r\n", "\n").splitlines() if not _DROPPED.match(line)]
    return "\n".join([*kept, "", "[all]", KERNEL_NOTE, f"kernel={kernel}"]) + "\n"


def netboot_kernel(config: str) -> str:
    """The kernel that ``netboot_config`` named."""
    return config.rstrip("\n").rpartition("kernel=")[2]


def _board(boards: Sequence[BoardFacts]) -> BoardFacts:
    for board in boards:
        if board.problem is None and board.kernel and board.initramfs:
            return board
    raise ImageBuilderError(
        "the base's boot partition has no kernel with an initramfs: "
        + "; ".join(f"{board.model.value}: {board.kernel}, {board.initramfs}" for board in boards),
        "The installer boots with these two; use a base for the Raspberry Pi 4 and 5.",
    )
