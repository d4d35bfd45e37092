"""What is remembered of a node's join beside its row: the number of its material, and the server it was told.

Kept as JSON in the key-value table, one entry a node; a fresh enrolment starts a fresh one.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Final, Self

from fleet.store.transaction import Reader, Transaction

_PREFIX: Final = "k3s.join."


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinState:
    """One node's join.

    Attributes:
        material: The generation with which its join material was minted; 0: none was.
        server: URL that its k3s was told to join; None: it founded the cluster, or stands alone.
        settings: Digest of the drop-in that the node was told to keep; empty: none yet.
        answered: Failure classes that were answered once already, for this node as it is installed now.
    """

    material: int = 0
    server: str | None = None
    settings: str = ""
    answered: tuple[str, ...] = ()

    @staticmethod
    def key(node: str) -> str:
        """Of its entry."""
        return _PREFIX + node

    @classmethod
    def load(cls, reader: Reader, node: str) -> Self:
        text = reader.value(cls.key(node))
        return cls._parse(text) if text else cls()

    @classmethod
    def load_all(cls, reader: Reader) -> dict[str, Self]:
        """Of every node that has one."""
        found = reader.values(_PREFIX)
        return {key.removeprefix(_PREFIX): cls._parse(text) for key, text in found.items()}

    @classmethod
    def _parse(cls, text: str) -> Self:
        values = json.loads(text)
        return cls(**{**values, "answered": tuple(values["answered"])})

    def save(self, tx: Transaction, node: str) -> None:
        tx.put_json(self.key(node), dataclasses.asdict(self))

    def with_answer(self, code: str) -> Self:
        return dataclasses.replace(self, answered=(*self.answered, code))
