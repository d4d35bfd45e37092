"""The typed document on its way to a `ClusterSpec`: what the checks look at, complete or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from fleet.spec.document import Key
from fleet.spec.schema import (
    ClusterDocument,
    ClusterSection,
    DefaultsSection,
    ImageSection,
    K3sSection,
    NetworkSection,
    NodeSection,
    UserSection,
)


class PathKind(Enum):
    """What stands at a path."""

    MISSING = "missing"
    FILE = "file"
    DIRECTORY = "directory"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the checks may know of the machine; the loader looks, the checks only ask.

    Attributes:
        directory: Where relative paths of the file start.
        timezones: Names of the time zone database; empty where the machine has none.
    """

    directory: Path
    probe: Callable[[Path], PathKind]
    timezones: frozenset[str]

    def resolve(self, text: str) -> Path:
        """A path of the file, absolute; `~` is not expanded, the file must mean the same for every user."""
        return self.directory / text


@dataclass(frozen=True, slots=True)
class DraftNode:
    """A node with the defaults merged in; `section` lacks what was faulty."""

    index: int
    section: NodeSection

    @property
    def key(self) -> Key:
        return ("nodes", self.index)

    def at(self, *parts: str | int) -> Key:
        return (*self.key, *parts)

    @property
    def label(self) -> str:
        """How messages call the node."""
        return repr(self.section.name) if self.section.name else f"nodes[{self.index}]"


@dataclass(frozen=True, slots=True)
class Draft:
    """Sections are never None here, so that a check reads `draft.network.subnet`; only values can be None."""

    document: ClusterDocument
    faulty: frozenset[Key]
    around: Surroundings
    nodes: tuple[DraftNode, ...]

    @property
    def cluster(self) -> ClusterSection:
        return self.document.cluster or ClusterSection()

    @property
    def k3s(self) -> K3sSection:
        return self.cluster.k3s or K3sSection()

    @property
    def image(self) -> ImageSection:
        return self.document.image or ImageSection()

    @property
    def user(self) -> UserSection:
        return self.image.user or UserSection()

    @property
    def network(self) -> NetworkSection:
        return self.document.network or NetworkSection()

    def is_faulty(self, key: Key) -> bool:
        """Whether the value at a key, or something around it, was already reported and taken out."""
        return any(key[:length] in self.faulty for length in range(1, len(key) + 1))


def draft_cluster(document: ClusterDocument, faulty: frozenset[Key], around: Surroundings) -> Draft:
    """Merge `defaults` into the nodes: labels add up, anything else of the node replaces the default."""
    defaults = document.defaults or DefaultsSection()
    nodes = []
    for index, section in enumerate(document.nodes or ()):
        if section is None:
            continue
        taken = {
            name: getattr(defaults, name)
            for name in DefaultsSection.model_fields
            if getattr(section, name) is None and ("nodes", index, name) not in faulty
        }
        if defaults.labels and section.labels:
            taken["labels"] = {**defaults.labels, **section.labels}
        nodes.append(DraftNode(index, section.model_copy(update=taken)))
    return Draft(document, faulty, around, tuple(nodes))
