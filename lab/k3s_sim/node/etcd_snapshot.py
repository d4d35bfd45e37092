"""`k3s etcd-snapshot save|ls|delete|prune` on a server: files in <data-dir>/server/db/snapshots, and an
ETCDSnapshotFile object for each.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.k3s_sim.node import log
from lab.k3s_sim.node.cluster import Cluster
from lab.k3s_sim.node.errors import K3sError, StatusError
from lab.k3s_sim.node.etcd_client import EtcdError
from lab.k3s_sim.node.etcd_datastore import EtcdDatastore
from lab.k3s_sim.node.etcd_member import EtcdMember
from lab.k3s_sim.node.objects import Object, timestamp
from lab.k3s_sim.node.options import Options
from lab.k3s_sim.node.settings import load_options, server_settings
from lab.k3s_sim.node.simulation import simulation

RETENTION = 5
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_KIND = "etcdsnapshotfiles"


def run(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Carry out one command; results go to standard output, progress to the log.

    Raises:
        K3sError: an unknown command, no etcd, or it did not work.
    """
    command, *rest = [*argv, "save"] if not argv or argv[0].startswith("-") else argv
    names = [word for word in rest if not word.startswith("-")] if command == "delete" else []
    flags = [word for word in rest if word not in names]
    chosen = load_options("etcd-snapshot", flags, environ)
    simulated = simulation(environ)
    if simulated.etcd is None:
        raise K3sError("etcd datastore disabled")
    settings = server_settings(chosen)
    member = EtcdMember(
        simulated.etcd, settings.server_dir, settings.server_dir / "tls",
        settings.agent.node_name, settings.agent.node_ips[0],
    )  # fmt: skip
    if not member.is_initialized:
        raise K3sError("etcd datastore is not initialized")
    directory = Path(chosen.text("dir", str(member.snapshots)))
    if command == "save":
        _save(member, directory, _prefix(chosen), settings.agent.node_name)
    elif command in ("ls", "list", "l"):
        print(_table(directory), end="")
    elif command == "delete":
        _delete(member, directory, names)
    elif command == "prune":
        _prune(member, directory, _prefix(chosen), _retention(chosen))
    else:
        raise K3sError(f"No help topic for '{command}'")


def _prefix(chosen: Options) -> str:
    name = chosen.text("name", "on-demand")
    if not _NAME.fullmatch(name):
        raise K3sError(f"the snapshot name {name!r} may hold letters, digits, '.', '_' and '-' only")
    return name


def _retention(chosen: Options) -> int:
    text = chosen.text("snapshot-retention", str(RETENTION))
    if not text.isdigit():
        raise K3sError(f'invalid value "{text}" for flag -snapshot-retention: parse error')
    return int(text)


def _save(member: EtcdMember, directory: Path, prefix: str, node: str) -> None:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    now = time.time()
    file = directory / f"{prefix}-{node}-{int(now)}"
    log.info(f"Saving etcd snapshot to {file}")
    member.save_snapshot(file)
    described: Object = {
        "metadata": {"name": _object_name(file)},
        "spec": {"snapshotName": file.name, "nodeName": node, "location": f"file://{file}"},
        "status": {
            "size": str(file.stat().st_size),
            "creationTime": timestamp(now),
            "readyToUse": True,
        },
    }
    _cluster(member).ensure(_KIND, "", described)
    log.info(f"Snapshot {file.name} saved.")


def _table(directory: Path) -> str:
    rows = [("Name", "Location", "Size", "Created")]
    for file in _files(directory):
        state = file.stat()
        rows.append((file.name, f"file://{file}", str(state.st_size), timestamp(state.st_mtime)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "".join(
        " ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3]]) + "\n"
        for row in rows
    )


def _delete(member: EtcdMember, directory: Path, names: Sequence[str]) -> None:
    for name in names:
        file = directory / name
        if file.parent != directory or not file.is_file():
            raise K3sError(f"snapshot {name} not found")
        _remove(member, file)


def _prune(member: EtcdMember, directory: Path, prefix: str, retention: int) -> None:
    """The oldest of a name go, until `retention` are left."""
    files = [file for file in _files(directory) if file.name.startswith(f"{prefix}-")]
    for file in files[: max(0, len(files) - retention)]:
        _remove(member, file)


def _remove(member: EtcdMember, file: Path) -> None:
    file.unlink()
    try:
        _cluster(member).delete(_KIND, "", _object_name(file))
    except StatusError as error:
        if error.code != 404:
            raise K3sError(error.message) from error
    log.info(f"Snapshot {file.name} deleted.")


def _files(directory: Path) -> list[Path]:
    """By age, the oldest first."""
    if not directory.is_dir():
        return []
    return sorted(
        (file for file in directory.iterdir() if file.is_file()), key=lambda file: file.stat().st_mtime_ns
    )


def _object_name(file: Path) -> str:
    """As k3s forms it: readable, and its own for every place."""
    return f"local-{file.name}-{hashlib.sha256(str(file).encode()).hexdigest()[:6]}".lower().replace("_", "-")


def _cluster(member: EtcdMember) -> Cluster:
    try:
        client = member.client()
        client.status()
    except (OSError, EtcdError) as error:
        raise K3sError(f"etcd does not answer: {error}") from error
    return Cluster(EtcdDatastore(client))
