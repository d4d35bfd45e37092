"""One snapshot: its files, what its manifest says of them, and whether that is so.

    etcd.db        etcd's data with etcd's own digest (`fleet.etcd.snapshot`)
    keys.json      the CAs, the server token and the agent token that it needs
    manifest.json  whose it is, when it was taken, and the digest of both

Without the token and the CAs a snapshot restores nothing: k3s keeps its bootstrap data in etcd, encrypted
with the token. So whoever has these files is admin of the cluster.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fleet.etcd.errors import BadSnapshotError
from fleet.etcd.snapshot import check_file
from fleet.files import write_private
from fleet.k3s.material import K3sMaterial

FORMAT: Final = 1
DATA: Final = "etcd.db"
KEYS: Final = "keys.json"
MANIFEST: Final = "manifest.json"
ID: Final = r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}"
MAX_MANIFEST_BYTES: Final = 1 << 20
_KINDS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "taken_at": (int, float),
    "revision": int,
    "size_bytes": int,
    "servers": list,
    "removing": (list, type(None)),
}
"""Of the values that are no texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotInfo:
    """What is known of a snapshot without reading it.

    Attributes:
        cluster: The cluster's name in cluster.yaml.
        cluster_id: etcd's own id, as etcdctl prints it; a restore makes another one.
        taken_at: UTC seconds.
        by: `schedule`, a person, or the re-image that it was taken for.
        node: The server that was asked.
        servers: Nodes that had a voting member then.
        removing: Nodes that were marked for removal from etcd at that moment; None where Kubernetes did not
            tell. Restored on such a node, k3s would take its own member out (k3s issue 8359).
        revision: etcd's, at least.
        ca_hash: Of the cluster's server CA: what tokens pin.
    """

    id: str
    cluster: str
    cluster_id: str
    taken_at: float
    by: str
    node: str
    servers: tuple[str, ...]
    removing: tuple[str, ...] | None
    k3s_version: str
    etcd_version: str
    revision: int
    size_bytes: int
    sha256: str
    keys_sha256: str
    ca_hash: str


@dataclass(frozen=True, slots=True)
class Damaged:
    """A directory in the place of snapshots that is none."""

    id: str
    reason: str


def new_id(now: float, random: str) -> str:
    """Sorts by time. `random` is six hex digits."""
    return f"{datetime.fromtimestamp(int(now), UTC):%Y%m%dT%H%M%SZ}-{random}"


def write_manifest(place: Path, info: SnapshotInfo) -> None:
    """Have a directory say that it is this one."""
    document = json.dumps({"format": FORMAT, **asdict(info)}, indent=1, sort_keys=True)
    write_private(place / MANIFEST, document.encode())


def read(place: Path) -> SnapshotInfo | Damaged:
    """What a directory says that it is."""
    try:
        with (place / MANIFEST).open("rb") as stream:
            values = json.loads(stream.read(MAX_MANIFEST_BYTES))
    except OSError as error:
        return Damaged(place.name, f"its manifest cannot be read: {error.strerror or error}")
    except ValueError:
        return Damaged(place.name, "its manifest is no JSON document")
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        return Damaged(place.name, "its manifest is of another version of Bramble")
    wanted = {field.name for field in fields(SnapshotInfo)}
    wrong = sorted(wanted ^ values.keys()) or [
        name for name, value in values.items() if not isinstance(value, _KINDS.get(name, str))
    ]
    for name, pattern in (("cluster_id", "[0-9a-f]{1,16}"), ("id", ID)):
        if not wrong and not re.fullmatch(pattern, values[name]):
            wrong = [name]
    if wrong:
        return Damaged(place.name, f"its manifest is unsound: {', '.join(wrong)}")
    removing = values.pop("removing")
    servers = tuple(map(str, values.pop("servers")))
    return SnapshotInfo(
        servers=servers, removing=None if removing is None else tuple(map(str, removing)), **values
    )


def read_info(place: Path) -> SnapshotInfo:
    """The manifest of the snapshot in a directory.

    Raises:
        BadSnapshotError: It has none, or an unsound one.
    """
    found = read(place)
    if isinstance(found, Damaged):
        raise BadSnapshotError(f"{place}: {found.reason}", "Take another snapshot, or another copy of it.")
    return found


def verify(place: Path) -> SnapshotInfo:
    """Hold every byte of a snapshot against its manifest, and its data against etcd's own digest.

    Raises:
        BadSnapshotError: Something is not as it was written.
    """
    info = read_info(place)
    try:
        size, digest = check_file(place / DATA)
        keys = (place / KEYS).read_bytes()
    except OSError as error:
        raise BadSnapshotError(
            f"{place} cannot be read: {error.strerror or error}", "Is it yours, and whole?"
        ) from error
    if (size, digest) != (info.size_bytes, info.sha256):
        raise BadSnapshotError(
            f"{place / DATA} is another file than its manifest says", "Take another copy of the directory."
        )
    if hashlib.sha256(keys).hexdigest() != info.keys_sha256:
        raise BadSnapshotError(
            f"{place / KEYS} is another file than its manifest says", "Take another copy of the directory."
        )
    return info


def pack_keys(material: K3sMaterial) -> bytes:
    """The CAs and tokens as one file."""
    document = {
        "server_token": material.server_token.reveal(),
        "agent_token": material.agent_token.reveal(),
        "files": {path: content.reveal() for path, content in material.tls_files().items()},
    }
    return json.dumps(document, indent=1, sort_keys=True).encode()
