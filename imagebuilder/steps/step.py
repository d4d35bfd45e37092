"""What a step is: an identity that covers everything it depends on, and the edits that it makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from imagebuilder.dialects import MANNERS, Manner
from imagebuilder.disk.edit import DiskImage
from imagebuilder.disk.edits import Edit
from imagebuilder.inspect.facts import ImageFacts

Json = str | int | bool | None | Sequence["Json"] | Mapping[str, "Json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a step may look at: the image as the base left it, what is known of it, and its id."""

    image_id: str
    disk: DiskImage
    facts: ImageFacts

    @property
    def manner(self) -> Manner:
        """How the base's dialect is written."""
        return MANNERS[self.facts.dialect]


@runtime_checkable
class Step(Protocol):
    """One change to a base."""

    @property
    def name(self) -> str:
        """A short name for progress and errors."""
        ...

    def identity(self) -> Mapping[str, Json]:
        """Everything that the edits depend on, apart from the base: equal identities make equal edits."""
        ...

    def edits(self, context: Context) -> Sequence[Edit]:
        """The files, links and directories to put into the image."""
        ...
