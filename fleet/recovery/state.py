"""What is remembered of a recovery while it lasts: one JSON value in the key-value table. Pure but for it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from agent.protocol import NodeFile
from agent.recovery import Restore
from fleet.store.transaction import Reader, Transaction

KEY: Final = "k3s.recovery"
LAST: Final = "k3s.recovered"
"""kv: the recovery that ended last."""
BEFORE: Final = "k3s.recovery.before"
"""kv: what it made void, as long as it can be called off (`fleet.recovery.undo`)."""
RESTORE_DIRECTORY: Final = "/var/lib/rancher/bramble-restore"
RESET_DROP_IN: Final = "/etc/rancher/k3s/config.yaml.d/60-bramble-restore.yaml"


class Phase(StrEnum):
    """How far a recovery is."""

    FOUNDING = "founding"
    """One server restores the snapshot; all others wait."""
    JOINING = "joining"
    """It is Ready; the other servers join it, blank."""
    DONE = "done"
    CANCELLED = "cancelled"
    """A person called it off before the founder was told to restore."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """One recovery.

    Attributes:
        id: Tells it from an earlier one with the same snapshot.
        founder: The server that restores the snapshot.
        stale: Other servers in the snapshot, whose Node objects are to go. They have no member any more.
        by: Who ordered it.
    """

    id: str
    snapshot: str
    sha256: str
    size_bytes: int
    founder: str
    stale: tuple[str, ...]
    by: str
    began_at: float
    phase: Phase = Phase.FOUNDING

    @classmethod
    def load(cls, reader: Reader, key: str = KEY) -> Self | None:
        """The one that is under way; None: none is."""
        values = reader.json_value(key)
        if values is None:
            return None
        return cls(**{**values, "stale": tuple(values["stale"]), "phase": Phase(values["phase"])})

    def save(self, tx: Transaction, key: str = KEY) -> None:
        tx.put_json(key, dataclasses.asdict(self))

    @property
    def data_path(self) -> str:
        """Where the founder keeps the snapshot until it is restored."""
        return f"{RESTORE_DIRECTORY}/etcd.db"

    def restore(self) -> Restore:
        """What the founder's agent is told."""
        return Restore(
            id=self.id,
            sha256=self.sha256,
            size_bytes=self.size_bytes,
            path=self.data_path,
            reset_drop_in=RESET_DROP_IN,
        )

    def reset_file(self) -> NodeFile:
        """Tells k3s to restore, for as long as it lies there.

        An agent that does not know of restores starts k3s with it, and k3s ends because the snapshot is
        missing: it can not found an empty cluster by mistake.
        """
        lines = ("cluster-reset: true", f"cluster-reset-restore-path: {self.data_path}")
        content = (
            "# Written by Bramble for a recovery; it goes when that is done.\n" + "\n".join(lines) + "\n"
        )
        return NodeFile(path=RESET_DROP_IN, mode="0600", content=content)


def restores(reader: Reader, node: str) -> bool:
    """Whether it is the server with which a recovery begins, and that is not done."""
    recovery = Recovery.load(reader)
    return recovery is not None and recovery.phase is Phase.FOUNDING and recovery.founder == node
