"""What an agent is told of a recovery: a value of the protocol, apart because it is needed once in years."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Restore:
    """What the one server does with which a lost cluster is recovered, before its k3s starts.

    `id` names the recovery: one that was carried out is not carried out again. The snapshot, `size_bytes`
    long and with this digest, is fetched in pieces to `path`; k3s, told by `reset_drop_in` to restore it, is
    run once; then that file goes.
    """

    id: str
    sha256: str
    size_bytes: int
    path: str
    reset_drop_in: str
