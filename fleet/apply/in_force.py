"""Which cluster.yaml is in force, where several control servers share one record.

The record keeps the file that was put in force last, less what is each machine's own, so that every server
can take it over and none that starts with an older one undoes it.

    kv "cluster-file"            {"digest", "since" (UTC s), "server" (its name), "earlier": [digest]}
    kv "cluster-file.document"   what is declared, in the layout of cluster.yaml

A server's own file is news where it says what no file in force ever said, or where it changed since this
server read it last: somebody put it there, if only to go back. Any other that differs is an old copy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from fleet.spec.draft import Surroundings
from fleet.spec.export import digest, to_document
from fleet.spec.load import CheckedCluster, check_text
from fleet.spec.model import ClusterSpec
from fleet.store.transaction import Reader, Transaction

KEY: Final = "cluster-file"
DOCUMENT: Final = "cluster-file.document"
MAX_EARLIER: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInForce:
    """The file that was put in force last.

    Attributes:
        digest: `file_digest` of it.
        since: UTC seconds.
        server: Name of the server that put it in force.
        earlier: Digests of files that were in force before, the oldest first.
    """

    digest: str
    since: float
    server: str
    earlier: tuple[str, ...]

    @classmethod
    def load(cls, reader: Reader) -> FileInForce | None:
        """None: the record is new, or an older release wrote it."""
        found = reader.json_value(KEY)
        return None if found is None else cls(**{**found, "earlier": tuple(found["earlier"])})

    def supersedes(self, own: str, last_read: str | None) -> bool:
        """Whether a server's own file is an old copy, and this one counts.

        Args:
            own: `file_digest` of what the server's file says.
            last_read: The same when this server read it before; None: unknown.
        """
        if own == self.digest:
            return False
        return own == last_read or (last_read is None and own in self.earlier)


def document_in_force(reader: Reader) -> dict[str, Any]:
    """`shared_document` of the file in force."""
    return reader.json_value(DOCUMENT) or {}


def on_machine(document: Mapping[str, Any], machine: ClusterSpec, around: Surroundings) -> CheckedCluster:
    """A file in force as that of another machine, whose own parts stay as they are there.

    Takes a second for some hundred nodes, and looks at the files that are named.

    Args:
        around: What the file may see of that machine.
    """
    own = to_document(machine)
    cluster = {**document["cluster"], "control": own["cluster"]["control"]}
    whole = {**document, "cluster": cluster, "network": own["network"]}
    return check_text(json.dumps(whole), machine.path, around)


def note_in_force(tx: Transaction, spec: ClusterSpec, server: str, now: float) -> None:
    """A file is put in force here; nothing changes where it says what the one in force says."""
    before, found = FileInForce.load(tx), file_digest(spec)
    if before is not None and before.digest == found:
        return
    earlier = [] if before is None else [one for one in (*before.earlier, before.digest) if one != found]
    file = FileInForce(
        digest=found,
        since=now,
        server=server,
        earlier=tuple(earlier[-MAX_EARLIER:]),
    )
    tx.put_json(KEY, asdict(file))
    tx.put_json(DOCUMENT, shared_document(spec))


def file_digest(spec: ClusterSpec) -> str:
    """The same for files that say the same, whatever machine they are on."""
    return digest(shared_document(spec))


def shared_document(spec: ClusterSpec) -> dict[str, Any]:
    """What all servers of a cluster declare alike: all but the network that each of them serves, and how it
    keeps its record and shows its dashboard."""
    document = to_document(spec)
    del document["network"]
    cluster = {key: value for key, value in document["cluster"].items() if key != "control"}
    return {**document, "cluster": cluster}
