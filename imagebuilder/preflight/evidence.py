"""What the rules look at: the facts of an image, and its files through three functions. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fleet.boards import BoardModel
from imagebuilder.inspect import BoardFacts, ImageFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file of any kind: ``mode`` as in st_mode, ``target`` of a symbolic link (else None)."""

    mode: int
    size_bytes: int
    target: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A filesystem.

    Attributes:
        find: entry at an absolute path; links on the way are followed, the last one only with ``follow``.
        read: content of a regular file, links followed; None where there is none.
        names: what a directory holds, sorted; empty where there is none.
    """

    find: Callable[[str, bool], Entry | None]
    read: Callable[[str], bytes | None]
    names: Callable[[str], tuple[str, ...]]

    def has(self, path: str) -> bool:
        """Whether ``path`` leads to something, links followed."""
        return self.find(path, True) is not None

    def text(self, path: str) -> str | None:
        data = self.read(path)
        return None if data is None else data.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What cluster.yaml wants of the image, where it was given.

    Attributes:
        node: its name, None where the image is looked at for the whole cluster.
        fqdn: its name with the domain.
    """

    user: str
    ssh_authorized_keys: tuple[str, ...]
    timezone: str
    node: str | None = None
    fqdn: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """An image as the rules see it.

    Attributes:
        boot: the boot partition.
        root: the root filesystem.
        bootargs: device tree (path on the boot partition) → what its /chosen/bootargs puts in front of the
            command line.
        models: the boards to check for.
        expected: what cluster.yaml wants.
    """

    facts: ImageFacts
    boot: Tree
    root: Tree
    bootargs: dict[str, str]
    models: tuple[BoardModel, ...]
    expected: Expected | None = None

    @property
    def is_for_all_boards(self) -> bool:
        """Whether no board was asked for in particular."""
        return set(self.models) == set(BoardModel)

    @property
    def boards(self) -> tuple[BoardFacts, ...]:
        return tuple(self.facts.board(model) for model in self.models)

    @property
    def cmdline(self) -> str:
        """The words of an ordinary boot, as the firmware hands them over; empty without a command line."""
        return (
            command_line(self.boot.read(f"/{self.facts.cmdlines[0]}") or b"") if self.facts.cmdlines else ""
        )

    @property
    def is_ours(self) -> bool:
        """Whether Bramble made the image."""
        return self.root.has("/etc/bramble/image.json")


def command_line(data: bytes) -> str:
    """What the firmware takes of a command line file: its first line, nothing after a NUL."""
    text = data.decode("utf-8", "replace").removeprefix("\ufeff")
    return text.split("\n", 1)[0].split("\0", 1)[0].strip()
